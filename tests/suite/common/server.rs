//! Starts `sightline serve`, sends requests to it, and reads its metrics, memory and log.

use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use serde_json::Value;

use super::client::{Reply, agent};
use super::command::{sightline, wait};
use super::{PATIENCE, eventually};

/// A running process `sightline serve`. Dropping the value kills the process.
pub struct Server {
    child: Child,
    /// Address of the server's public listener.
    pub address: SocketAddr,
    /// `http` or `https`.
    scheme: String,
    agent: ureq::Agent,
    log: Arc<Mutex<String>>,
    /// Threads that append the server's stdout and stderr to `log`.
    readers: Vec<JoinHandle<()>>,
}

impl Server {
    /// Starts `sightline serve ARGS...` on a free port and waits until `/health/ready` succeeds.
    pub fn start(args: &[&str]) -> Self {
        let server = Self::launch(args);
        eventually("the server is ready", || {
            server.get("/health/ready").status == 200
        });
        server
    }

    /// Starts `sightline serve ARGS...` on a free port and waits until it listens; its models may still be loading.
    /// An address in `args` must have port 0.
    pub fn launch(args: &[&str]) -> Self {
        let mut command = sightline(&["serve"]);
        if !args.contains(&"--listen") {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        command.args(args);
        let spawned = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = spawned.unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let stderr = follow(child.stderr.take().unwrap(), Arc::clone(&log));
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let first = if args.contains(&"json") {
            listening_event(&log)
        } else {
            let mut first = String::new();
            stdout.read_line(&mut first).unwrap();
            first
        };
        let readers = vec![stderr, follow(stdout, Arc::clone(&log))];
        let url = first.trim().split_once("listening on ");
        let url = url.and_then(|(_, url)| url.split_once("://"));
        let address = url.map(|(scheme, address)| (scheme, address.parse()));
        let Some((scheme, Ok(address))) = address else {
            let _ = child.wait();
            panic!(
                "the server printed no address; stdout: {first}, log: {}",
                log.lock().unwrap()
            );
        };
        Self {
            child,
            address,
            scheme: scheme.to_owned(),
            agent: agent(),
            log,
            readers,
        }
    }

    /// Returns the URL of `path` on this server.
    pub fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme, self.address)
    }

    /// Waits until the server prints a line that contains `start` to stdout or stderr, and returns
    /// the text after `start` in that line. Does not find text in the first line of stdout.
    pub fn printed(&self, start: &str) -> String {
        let mut found = None;
        eventually(start, || {
            let log = self.log.lock().unwrap();
            let end = log.lines().find_map(|line| line.split_once(start));
            found = end.map(|(_, end)| end.to_owned());
            found.is_some()
        });
        found.unwrap()
    }

    /// Sends `GET path` and returns the response.
    pub fn get(&self, path: &str) -> Reply {
        Reply::new(self.agent.get(self.url(path)).call())
    }

    /// Sends the request `METHOD path` without a body and returns the response. Uses a connection of its own: the server
    /// may close a connection after a response to a request whose body it has not read.
    pub fn request(&self, method: &str, path: &str) -> Reply {
        let request = ureq::http::Request::builder()
            .method(method)
            .uri(self.url(path))
            .header("connection", "close");
        Reply::new(self.agent.run(request.body(()).unwrap()))
    }

    /// Sends `POST path` with a body of content type `kind` and returns the response. Panics if the connection fails.
    pub fn post(&self, path: &str, kind: &str, body: &[u8]) -> Reply {
        self.try_post(path, kind, body).unwrap()
    }

    /// Sends `POST path` with an image and the header `Accept: ACCEPT`, and returns the response.
    pub fn post_accepting(&self, path: &str, accept: &str, image: &[u8]) -> Reply {
        let request = self.agent.post(self.url(path)).header("accept", accept);
        Reply::new(
            request
                .header("content-type", "application/octet-stream")
                .send(image),
        )
    }

    /// Sends a request as [`Server::post`] does, but returns an error if the connection fails.
    pub fn try_post(&self, path: &str, kind: &str, body: &[u8]) -> Result<Reply, ureq::Error> {
        let request = self.agent.post(self.url(path)).header("content-type", kind);
        request.send(body).map(|response| Reply::new(Ok(response)))
    }

    /// Sends an image as raw body to `/v1/classify`. `query` is empty or starts with `?`.
    pub fn classify(&self, query: &str, image: &[u8]) -> Reply {
        let path = format!("/v1/classify{query}");
        self.post(&path, "application/octet-stream", image)
    }

    /// Opens a TCP connection to the server, for requests that an HTTP client cannot send.
    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Returns the value of the first line of `/metrics` that starts with `sample`. Panics if no
    /// line starts with `sample`.
    pub fn metric(&self, sample: &str) -> f64 {
        let page = self.get("/metrics").text();
        let line = page.lines().find(|line| line.starts_with(sample));
        let line = line.unwrap_or_else(|| panic!("no sample `{sample}` in /metrics:\n{page}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    /// Returns the value of `field`, such as `VmRSS`, in the server's `/proc/PID/status`, converted
    /// to bytes.
    pub fn memory(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(field)).unwrap();
        let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kib << 10
    }

    /// Resets the server's peak memory (the field `VmHWM` of [`memory`](Self::memory)) to its
    /// current resident memory.
    pub fn reset_peak_memory(&self) {
        std::fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5").unwrap();
    }

    /// Returns the id of the server's process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Returns the ids of the server's child processes.
    pub fn children(&self) -> Vec<u32> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id()));
        let tasks = tasks.into_iter().flatten().map_while(Result::ok);
        let children = |task: std::fs::DirEntry| {
            let list = std::fs::read_to_string(task.path().join("children"));
            let list = list.unwrap_or_default();
            list.split_whitespace()
                .map(|id| id.parse().unwrap())
                .collect::<Vec<u32>>()
        };
        tasks.flat_map(children).collect()
    }

    /// Sends SIGTERM to the server.
    pub fn terminate(&self) {
        let killed = Command::new("kill")
            .arg(self.child.id().to_string())
            .status();
        assert!(killed.unwrap().success());
    }

    /// Waits until the server exits. Returns its exit code and its log: the lines of stderr and of
    /// stdout, without the first line of stdout.
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

/// Waits for the event `listening` in a log in JSON, and returns the line that is printed to stdout with a log in text.
fn listening_event(log: &Mutex<String>) -> String {
    let mut address = None;
    eventually("the server listens", || {
        let log = log.lock().unwrap();
        let events = log.lines();
        let mut events = events.filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let event = events.find(|event| event["fields"]["message"] == "listening");
        address = event.map(|event| event["fields"]["address"].as_str().unwrap().to_owned());
        address.is_some()
    });
    format!("listening on http://{}", address.unwrap_or_default())
}

/// Starts a thread that appends the lines of `from`, the server's stdout or stderr, to `log` until
/// `from` ends.
fn follow(from: impl Read + Send + 'static, log: Arc<Mutex<String>>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            let mut log = log.lock().unwrap();
            log.push_str(&line);
            log.push('\n');
        }
    })
}
