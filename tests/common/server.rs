//! A running server.

use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use super::client::{Reply, agent};
use super::command::{sightline, wait};
use super::{PATIENCE, eventually};

/// A running server, killed when dropped.
pub struct Server {
    child: Child,
    /// The address that the server listens on.
    pub address: SocketAddr,
    agent: ureq::Agent,
    log: Arc<Mutex<String>>,
    /// The threads that read stdout and stderr into `log`.
    readers: Vec<JoinHandle<()>>,
}

impl Server {
    /// Starts `sightline serve ARGS...` on a free port and waits until it is ready.
    pub fn start(args: &[&str]) -> Self {
        let server = Self::launch(args);
        eventually("the server is ready", || {
            server.get("/health/ready").status == 200
        });
        server
    }

    /// Starts `sightline serve ARGS...` on a free port and waits until it listens.
    pub fn launch(args: &[&str]) -> Self {
        let mut command = sightline(&["serve", "--listen", "127.0.0.1:0"]);
        command.args(args);
        if !args.contains(&"--precision") && !args.contains(&"--config") {
            // The preferred precision depends on the CPU, and expected responses do not.
            command.env("SIGHTLINE_PRECISION", "fp32");
        }
        let spawned = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = spawned.unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let stderr = follow(child.stderr.take().unwrap(), Arc::clone(&log));
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut first = String::new();
        stdout.read_line(&mut first).unwrap();
        let readers = vec![stderr, follow(stdout, Arc::clone(&log))];
        let Some((_, address)) = first.trim().split_once("listening on http://") else {
            let _ = child.wait();
            panic!("the server did not start: {first} {}", log.lock().unwrap());
        };
        Self {
            child,
            address: address.parse().unwrap(),
            agent: agent(),
            log,
            readers,
        }
    }

    /// The URL of `path`.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// `GET path`.
    pub fn get(&self, path: &str) -> Reply {
        Reply::new(self.agent.get(self.url(path)).call())
    }

    /// A request of any method without a body.
    pub fn request(&self, method: &str, path: &str) -> Reply {
        let request = ureq::http::Request::builder()
            .method(method)
            .uri(self.url(path));
        Reply::new(self.agent.run(request.body(()).unwrap()))
    }

    /// `POST path` with a body of type `kind`.
    pub fn post(&self, path: &str, kind: &str, body: &[u8]) -> Reply {
        self.try_post(path, kind, body).unwrap()
    }

    /// `POST path` with an image and an `Accept` header.
    pub fn post_accepting(&self, path: &str, accept: &str, image: &[u8]) -> Reply {
        let request = self.agent.post(self.url(path)).header("accept", accept);
        Reply::new(
            request
                .header("content-type", "application/octet-stream")
                .send(image),
        )
    }

    /// [`Server::post`] for connections that may fail.
    pub fn try_post(&self, path: &str, kind: &str, body: &[u8]) -> Result<Reply, ureq::Error> {
        let request = self.agent.post(self.url(path)).header("content-type", kind);
        request.send(body).map(|response| Reply::new(Ok(response)))
    }

    /// Classifies an image, sent as a raw body, with `query`.
    pub fn classify(&self, query: &str, image: &[u8]) -> Reply {
        let path = format!("/v1/classify{query}");
        self.post(&path, "application/octet-stream", image)
    }

    /// A TCP connection, for requests that no HTTP client would send.
    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// The value of the first sample in `/metrics` whose line starts with `sample`.
    pub fn metric(&self, sample: &str) -> f64 {
        let page = self.get("/metrics").text();
        let line = page.lines().find(|line| line.starts_with(sample));
        let line = line.unwrap_or_else(|| panic!("no {sample} in\n{page}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    /// A field of `/proc/PID/status` in bytes.
    pub fn memory(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(field)).unwrap();
        let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kib << 10
    }

    /// Makes `VmHWM` of [`memory`](Self::memory) start again from the memory that is resident now.
    pub fn reset_peak_memory(&self) {
        std::fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5").unwrap();
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        let killed = Command::new("kill")
            .arg(self.child.id().to_string())
            .status();
        assert!(killed.unwrap().success());
    }

    /// Waits for the end of the process: exit code, and everything printed but the first line.
    pub fn wait(mut self) -> (Option<i32>, String) {
        let status = wait(&mut self.child, PATIENCE);
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
        (status.code(), self.log.lock().unwrap().clone())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Appends the lines of an output to `log`, on a thread that ends with the output.
fn follow(from: impl Read + Send + 'static, log: Arc<Mutex<String>>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            let mut log = log.lock().unwrap();
            log.push_str(&line);
            log.push('\n');
        }
    })
}
