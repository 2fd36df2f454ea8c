//! The real binary as a server on a free port, and a client for it.
//!
//! Starting takes a third of a second and the tests of a file are processes of their own, so files
//! hold few large tests, each with one server.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a test fails by its panic; each test file compiles all of this and uses a part"
)]

pub mod checkpoint;
pub mod coco;
pub mod quantizing;

use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

/// Longest wait for anything that a server does.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// The type of problem documents.
pub const PROBLEM: &str = "application/problem+json";

/// The file `path` below `tests/`.
pub fn path(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests")
        .join(path)
}

/// The bytes of a file below `tests/`.
pub fn read(file: &str) -> Vec<u8> {
    std::fs::read(path(file)).unwrap()
}

/// The picture `name` of `tests/photos`.
pub fn photo(name: &str) -> Vec<u8> {
    read(&format!("photos/{name}"))
}

/// The picture `name` of `tests/golden/images`.
pub fn odd(name: &str) -> Vec<u8> {
    read(&format!("golden/images/{name}"))
}

/// `sightline ARGS...`, with ONNX Runtime where there is one and no setting of the developer's own.
pub fn sightline<S: AsRef<std::ffi::OsStr>>(args: &[S]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sightline"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("SIGHTLINE_") {
            command.env_remove(name);
        }
    }
    let cached = ".cache/onnxruntime/libonnxruntime.so";
    let cached = Path::new(env!("CARGO_MANIFEST_DIR")).join(cached);
    if std::env::var_os("ORT_DYLIB_PATH").is_none() && cached.is_file() {
        command.env("ORT_DYLIB_PATH", cached);
    }
    // The models directory of whoever runs the tests must not count.
    command.env("XDG_DATA_HOME", "/nonexistent");
    command.args(args).stdin(Stdio::null());
    command
}

/// Runs `sightline ARGS...` to its end: exit code, stdout and stderr.
pub fn run<S: AsRef<std::ffi::OsStr>>(args: &[S]) -> (Option<i32>, String, String) {
    finish(sightline(args))
}

/// Exports the checkpoint `weights` of a network of the catalogue into the folder `out`.
pub fn export(network: &str, weights: &Path, out: &Path) {
    let args: [&std::ffi::OsStr; 6] = [
        "export".as_ref(),
        network.as_ref(),
        "--weights".as_ref(),
        weights.as_os_str(),
        "-o".as_ref(),
        out.as_os_str(),
    ];
    let (code, _, error) = run(&args);
    assert_eq!(code, Some(0), "{error}");
}

/// [`run`] for what takes longer than anything that a server does.
pub fn run_within<S: AsRef<std::ffi::OsStr>>(
    args: &[S],
    patience: Duration,
) -> (Option<i32>, String, String) {
    finish_within(sightline(args), patience)
}

/// Runs a command to its end, and kills it if that does not come: exit code, stdout and stderr.
pub fn finish(command: Command) -> (Option<i32>, String, String) {
    finish_within(command, PATIENCE)
}

fn finish_within(mut command: Command, patience: Duration) -> (Option<i32>, String, String) {
    let spawned = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = spawned.unwrap();
    let stdout = drain(child.stdout.take().unwrap());
    let stderr = drain(child.stderr.take().unwrap());
    let status = wait(&mut child, patience);
    (
        status.code(),
        stdout.join().unwrap(),
        stderr.join().unwrap(),
    )
}

fn drain(mut from: impl Read + Send + 'static) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn wait(child: &mut Child, patience: Duration) -> ExitStatus {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            panic!("the process did not end within {patience:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Asks `condition` until it holds.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A running server, killed when dropped.
pub struct Server {
    child: Child,
    /// Where it listens.
    pub address: SocketAddr,
    agent: ureq::Agent,
    log: Arc<Mutex<String>>,
}

impl Server {
    /// `sightline serve ARGS...` on a free port, ready.
    pub fn start(args: &[&str]) -> Self {
        let server = Self::launch(args);
        eventually("the server is ready", || {
            server.get("/health/ready").status == 200
        });
        server
    }

    /// `sightline serve ARGS...` on a free port, listening but perhaps not ready.
    pub fn launch(args: &[&str]) -> Self {
        let mut command = sightline(&["serve", "--listen", "127.0.0.1:0"]);
        command.args(args);
        if !args.contains(&"--precision") && !args.contains(&"--config") {
            // Which precision is preferred depends on the machine, and answers must not.
            command.env("SIGHTLINE_PRECISION", "fp32");
        }
        let spawned = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = spawned.unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        follow(child.stderr.take().unwrap(), Arc::clone(&log));
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut first = String::new();
        stdout.read_line(&mut first).unwrap();
        follow(stdout, Arc::clone(&log));
        let Some((_, address)) = first.trim().split_once("listening on http://") else {
            let _ = child.wait();
            panic!("the server did not start: {first} {}", log.lock().unwrap());
        };
        Self {
            child,
            address: address.parse().unwrap(),
            agent: agent(),
            log,
        }
    }

    /// The address of `path`.
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

    /// `POST path` with a picture and an `Accept` header.
    pub fn post_accepting(&self, path: &str, accept: &str, picture: &[u8]) -> Reply {
        let request = self.agent.post(self.url(path)).header("accept", accept);
        Reply::new(
            request
                .header("content-type", "application/octet-stream")
                .send(picture),
        )
    }

    /// As `post`, where the connection may fail.
    pub fn try_post(&self, path: &str, kind: &str, body: &[u8]) -> Result<Reply, ureq::Error> {
        let request = self.agent.post(self.url(path)).header("content-type", kind);
        request.send(body).map(|response| Reply::new(Ok(response)))
    }

    /// Classifies one picture, sent as it is, with `query`.
    pub fn classify(&self, query: &str, picture: &[u8]) -> Reply {
        let path = format!("/v1/classify{query}");
        self.post(&path, "application/octet-stream", picture)
    }

    /// A connection of its own for requests that no client would send.
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

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        let killed = Command::new("kill")
            .arg(self.child.id().to_string())
            .status();
        assert!(killed.unwrap().success());
    }

    /// Waits for the end: exit code and all that was printed.
    pub fn wait(mut self) -> (Option<i32>, String) {
        let status = wait(&mut self.child, PATIENCE);
        // The readers see the end of the pipes a moment later.
        std::thread::sleep(Duration::from_millis(50));
        (status.code(), self.log.lock().unwrap().clone())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn follow(from: impl Read + Send + 'static, log: Arc<Mutex<String>>) {
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            let mut log = log.lock().unwrap();
            log.push_str(&line);
            log.push('\n');
        }
    });
}

/// A client that takes every status as an answer and uses no proxy.
pub fn agent() -> ureq::Agent {
    let config = ureq::Agent::config_builder()
        .timeout_global(Some(PATIENCE))
        .http_status_as_error(false)
        .allow_non_standard_methods(true)
        .proxy(None);
    config.build().into()
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Reply {
    /// Its status.
    pub status: u16,
    headers: ureq::http::HeaderMap,
    /// Its body.
    pub body: Vec<u8>,
}

impl Reply {
    fn new(response: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Self {
        let mut response = response.unwrap();
        let body = response.body_mut().with_config().limit(128 << 20);
        let body = body.read_to_vec().unwrap();
        Self {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            body,
        }
    }

    /// A header's value, or nothing.
    pub fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value.map_or("", |value| value.to_str().unwrap())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The code of a problem document, which must be whole and agree with the status.
    pub fn code(&self) -> String {
        assert_eq!(self.header("content-type"), PROBLEM, "{self:?}");
        let problem = self.json();
        let code = problem["code"].as_str().unwrap().to_owned();
        assert_eq!(problem["status"], self.status);
        assert_eq!(problem["type"], format!("urn:sightline:problem:{code}"));
        for text in ["title", "detail"] {
            assert!(!problem[text].as_str().unwrap().is_empty(), "{problem}");
        }
        code
    }

    /// The predictions for each picture.
    pub fn results(&self) -> Vec<Value> {
        assert_eq!(self.status, 200, "{}", self.text());
        self.json()["results"].as_array().unwrap().clone()
    }

    /// The best label for each picture.
    pub fn labels(&self) -> Vec<String> {
        let best = |result: &Value| {
            result["predictions"][0]["label"]
                .as_str()
                .unwrap()
                .to_owned()
        };
        self.results().iter().map(best).collect()
    }
}

/// A form of `parts`, each a name and bytes, and its content type.
pub fn form(parts: &[(&str, &[u8])]) -> (&'static str, Vec<u8>) {
    let mut body = Vec::new();
    for (name, bytes) in parts {
        let head = format!(
            "--frontier\r\ncontent-disposition: form-data; name=\"{name}\"; filename=\"a\"\r\n\r\n"
        );
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(bytes);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"--frontier--\r\n");
    ("multipart/form-data; boundary=frontier", body)
}

/// A JSON body of `pictures`.
pub fn json_body(pictures: &[&[u8]]) -> Vec<u8> {
    let images: Vec<Value> = pictures
        .iter()
        .map(|bytes| serde_json::json!({ "data": STANDARD.encode(bytes) }))
        .collect();
    serde_json::json!({ "images": images })
        .to_string()
        .into_bytes()
}
