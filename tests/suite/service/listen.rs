//! Checks that `serve` listens on several addresses, on Unix sockets, and on sockets of systemd.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::common::command::wait;
use crate::common::{self, PATIENCE, Server, eventually, finish, photo, run, sightline};
use rustix::process::{Pid, Signal, kill_process};

/// A request to classify `image`.
fn request(image: &[u8]) -> Vec<u8> {
    let length = image.len();
    let head = format!(
        "POST /v1/classify?top_k=1 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
         content-type: image/jpeg\r\ncontent-length: {length}\r\n\r\n"
    );
    [head.as_bytes(), image].concat()
}

/// Sends `request` over a Unix socket and returns the response.
fn over_unix(path: &Path, request: &[u8]) -> String {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request).unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    response
}

/// Sends `request` over TCP and returns the response.
fn over_tcp(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request).unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    response
}

const LIVE: &[u8] = b"GET /health/live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

/// Returns the path of a socket in a new folder, and the folder.
fn socket() -> (tempfile::TempDir, PathBuf, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("http.sock");
    let address = format!("unix:{}", path.display());
    (folder, path, address)
}

#[test]
fn a_server_serves_several_addresses_and_unix_sockets() {
    let (folder, path, address) = socket();
    let admin = folder.path().join("admin.sock");
    let admin_address = format!("unix:{}", admin.display());
    let list = format!("127.0.0.1:0,127.0.0.1:0,{address}");
    let server = Server::start(&["--listen", &list, "--admin-listen", &admin_address]);
    let second: SocketAddr = server.printed("also listening on http://").parse().unwrap();
    assert_eq!(
        server.printed("also listening on unix:"),
        path.to_str().unwrap()
    );
    assert_eq!(
        server.printed("health and metrics on unix:"),
        admin.to_str().unwrap()
    );
    let image = request(&photo("coffee_500x375.jpg"));
    for response in [
        over_tcp(server.address, &image),
        over_tcp(second, &image),
        over_unix(&path, &image),
    ] {
        assert!(response.contains("espresso"), "{response}");
    }
    assert!(over_unix(&admin, LIVE).starts_with("HTTP/1.1 200 "));
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o660);
    for address in [&address, &admin_address] {
        let (code, stdout, stderr) = run(&["healthcheck", "--listen", address]);
        assert_eq!(code, Some(0), "{stderr}");
        assert!(
            stdout.starts_with(&format!("ready {address}, version ")),
            "{stdout}"
        );
    }
    server.terminate();
    let (code, log) = server.wait();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("peer=unix"), "{log}");
    assert!(!path.exists() && !admin.exists());
}

#[test]
fn all_connections_count_together() {
    let (_folder, path, address) = socket();
    let list = format!("127.0.0.1:0,{address}");
    let server = Server::start(&["--listen", &list, "--max-connections", "2"]);
    // Each gets a response, so that both have their slots.
    let mut idle: Vec<TcpStream> = Vec::new();
    for _ in 0..2 {
        let mut stream = server.connect();
        assert!(is_open(&mut stream));
        idle.push(stream);
    }
    assert!(over_unix(&path, LIVE).starts_with("HTTP/1.1 200 "));
    // The connection over the Unix socket took the slot of a TCP connection.
    let open: Vec<bool> = idle.iter_mut().map(is_open).collect();
    assert_eq!(open, [false, true]);
    for _ in 0..2 {
        assert!(over_unix(&path, LIVE).starts_with("HTTP/1.1 200 "));
    }
}

/// Returns whether the server responds over `stream`, which stays open.
fn is_open(stream: &mut TcpStream) -> bool {
    let mut response = [0; 4096];
    let sent = stream.write_all(b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n");
    let read = sent.and_then(|()| stream.read(&mut response));
    read.is_ok_and(|length| response[..length].starts_with(b"HTTP/1.1 200 "))
}

#[test]
fn a_socket_of_a_killed_server_is_replaced_and_that_of_a_running_one_is_not() {
    let (_folder, path, address) = socket();
    let mut first = spawn(sightline(&["serve", "--listen", &address]));
    eventually("the first server listens", || {
        UnixStream::connect(&path).is_ok()
    });
    let (code, _, stderr) = run(&["serve", "--listen", &address]);
    assert_eq!(code, Some(1), "{stderr}");
    let used =
        format!("cannot listen on {address}: the address is in use by another Sightline (version ");
    assert!(stderr.contains(&used), "{stderr}");
    first.kill().unwrap();
    first.wait().unwrap();
    assert!(path.exists());
    let mut second = spawn(sightline(&[
        "serve",
        "--listen",
        &address,
        "--unix-socket-mode",
        "600",
    ]));
    eventually("the second server listens", || {
        UnixStream::connect(&path).is_ok()
    });
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    // A second signal ends the server without a drain, but the file is removed all the same.
    let mut stuck = UnixStream::connect(&path).unwrap();
    stuck
        .write_all(b"POST /v1/classify HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n")
        .unwrap();
    eventually("the request is in flight", || {
        let metrics = b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        over_unix(&path, metrics).contains("sightline_in_flight 2")
    });
    terminate(&second);
    eventually("the server drains", || {
        over_unix(&path, b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n").contains("\"draining\"")
    });
    terminate(&second);
    assert_eq!(wait(&mut second, PATIENCE).code(), Some(1));
    assert!(!path.exists());
}

#[test]
fn paths_that_cannot_be_sockets_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "text").unwrap();
    let long = format!("unix:/{}", "a".repeat(200));
    let missing = format!("unix:{}/missing/a.sock", folder.path().display());
    let occupied = format!("unix:{}", file.display());
    for (address, code, expected) in [
        (long.as_str(), 2, "at most 107 bytes, got 201"),
        ("unix:a.sock", 2, "expected an absolute path after `unix:`"),
        (&missing, 1, "No such file or directory"),
        (&occupied, 1, "the path exists and is not a socket"),
    ] {
        let (actual, _, stderr) = run(&["serve", "--listen", address]);
        assert_eq!(actual, Some(code), "{stderr}");
        assert!(stderr.contains(expected), "{stderr}");
    }
    assert_eq!(std::fs::read_to_string(file).unwrap(), "text");
}

#[test]
fn all_ipv6_addresses_include_ipv4_unless_it_is_named() {
    if TcpListener::bind("[::1]:0").is_err() {
        println!("skipped: this machine has no IPv6");
        return;
    }
    let server = Server::launch(&["--listen", "[::]:0"]);
    let port = server.address.port();
    for client in [format!("127.0.0.1:{port}"), format!("[::1]:{port}")] {
        let response = over_tcp(client.parse().unwrap(), LIVE);
        assert!(
            response.starts_with("HTTP/1.1 200 "),
            "{client}: {response}"
        );
    }
    let (code, stdout, stderr) = run(&["healthcheck", "--listen", &format!("[::]:{port}")]);
    assert!(
        code == Some(0) || stderr.contains("`starting`"),
        "{stdout} {stderr}"
    );
    drop(server);
    let both = format!("0.0.0.0:{port},[::]:{port}");
    let server = Server::launch(&["--listen", &both]);
    for client in [format!("127.0.0.1:{port}"), format!("[::1]:{port}")] {
        let response = over_tcp(client.parse().unwrap(), LIVE);
        assert!(
            response.starts_with("HTTP/1.1 200 "),
            "{client}: {response}"
        );
    }
    drop(server);
}

/// Lets systemd check the unit files in `packaging/systemd`.
#[test]
fn the_unit_files_are_valid() {
    if Command::new("systemd-analyze")
        .arg("--version")
        .output()
        .is_err()
    {
        println!("skipped: systemd-analyze is not installed");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut units = Vec::new();
    for file in std::fs::read_dir(common::path("../packaging/systemd")).unwrap() {
        let file = file.unwrap();
        let text = std::fs::read_to_string(file.path()).unwrap();
        let text = text.replace("/usr/local/bin/sightline", env!("CARGO_BIN_EXE_sightline"));
        units.push(folder.path().join(file.file_name()));
        std::fs::write(units.last().unwrap(), text).unwrap();
    }
    assert_eq!(units.len(), 3);
    let mut command = Command::new("systemd-analyze");
    let (code, _, stderr) = {
        command.arg("verify").args(units);
        finish(command)
    };
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
}

/// A process that is killed when the value is dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl std::ops::Deref for Process {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.0
    }
}

impl std::ops::DerefMut for Process {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

fn spawn(mut command: Command) -> Process {
    let output = command.stdout(Stdio::null()).stderr(Stdio::null());
    Process(output.spawn().unwrap())
}

fn terminate(process: &Child) {
    kill_process(Pid::from_child(process), Signal::TERM).unwrap();
}

/// Returns a command that runs `sightline serve ARGS...` with `sockets` as its file descriptors 3, 4 and so on, as
/// systemd does. `names` is the value of `LISTEN_FDNAMES`.
fn activated(sockets: &[&dyn std::os::fd::AsRawFd], names: &str, args: &str) -> Command {
    let count = sockets.len();
    let path = |socket: &&dyn std::os::fd::AsRawFd| socket.as_raw_fd();
    // The sockets are copied to high descriptors first, because their own may be 3 or 4.
    let high: Vec<String> = (0..count).map(|index| (10 + index).to_string()).collect();
    let copy = sockets
        .iter()
        .map(path)
        .zip(&high)
        .map(|(from, to)| format!("{to}<&{from}"));
    let shift = high
        .iter()
        .enumerate()
        .map(|(index, from)| format!("{}<&{from} {from}<&-", 3 + index));
    let redirections: Vec<String> = copy.chain(shift).collect();
    let program = sightline(&["serve"]);
    let script = format!(
        "exec {}\nLISTEN_PID=$$ LISTEN_FDS={count} LISTEN_FDNAMES={names} exec \"$0\" serve {args}",
        redirections.join(" "),
    );
    let mut command = Command::new("bash");
    command.args(["-c", &script]).arg(program.get_program());
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
}

/// Lets child processes inherit `socket`.
fn inheritable(socket: &impl std::os::fd::AsFd) {
    rustix::io::fcntl_setfd(socket, rustix::io::FdFlags::empty()).unwrap();
}

#[test]
fn sockets_of_systemd_replace_the_addresses() {
    let (_folder, path, _) = socket();
    let (http, admin) = (
        TcpListener::bind("127.0.0.1:0").unwrap(),
        UnixListener::bind(&path).unwrap(),
    );
    inheritable(&http);
    inheritable(&admin);
    let address = http.local_addr().unwrap();
    // The address of `--listen` is not used; it would be an error, because the test listens on it.
    let used = TcpListener::bind("127.0.0.1:0").unwrap();
    let args = format!("--listen {}", used.local_addr().unwrap());
    let mut command = activated(&[&http, &admin], "http:admin", &args);
    let mut server = Process(command.stdout(Stdio::piped()).spawn().unwrap());
    let mut stdout = BufReader::new(server.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert!(
        line.ends_with(&format!(" listening on http://{address}\n")),
        "{line}"
    );
    line.clear();
    stdout.read_line(&mut line).unwrap();
    assert_eq!(
        line,
        format!("health and metrics on unix:{}\n", path.display())
    );
    drop((http, admin));
    assert!(over_tcp(address, LIVE).starts_with("HTTP/1.1 200 "));
    assert!(over_unix(&path, LIVE).starts_with("HTTP/1.1 200 "));
    terminate(&server);
    assert_eq!(wait(&mut server, PATIENCE).code(), Some(0));
    // The file belongs to systemd.
    assert!(path.exists());
}

#[test]
fn unusable_sockets_of_systemd_are_errors() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let datagram = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    inheritable(&listener);
    inheritable(&datagram);
    inheritable(&stream);
    let cases: [(&dyn std::os::fd::AsRawFd, &str, &str); 3] = [
        (&listener, "smtp", "unknown name `smtp`"),
        (
            &datagram,
            "http",
            "expected a TCP socket or a Unix stream socket",
        ),
        (&stream, "http", "the socket does not listen"),
    ];
    for (socket, name, expected) in cases {
        let (code, _, stderr) = finish(activated(&[socket], name, ""));
        assert_eq!(code, Some(1), "{stderr}");
        assert!(stderr.contains(expected), "{stderr}");
    }
    let mut command = sightline(&["serve"]);
    command.env("LISTEN_FDS", "99999999999");
    let (code, _, stderr) = finish(command);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("expected at most 32 sockets"), "{stderr}");
}

#[test]
fn systemd_is_told_when_the_server_is_ready_and_when_it_stops() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let receive = || {
        let mut message = [0; 512];
        let bytes = socket.recv(&mut message).unwrap();
        String::from_utf8_lossy(&message[..bytes]).into_owned()
    };
    let mut command = sightline(&["serve", "--listen", "127.0.0.1:0", "--drain-delay", "50ms"]);
    command.env("NOTIFY_SOCKET", &path);
    let mut server = spawn(command);
    assert_eq!(receive(), "STATUS=loading models\n");
    assert_eq!(receive(), "READY=1\nSTATUS=ready\n");
    terminate(&server);
    let stopping = "STOPPING=1\nSTATUS=draining: still serving new requests for 50 ms\n";
    assert_eq!(receive(), stopping);
    assert_eq!(wait(&mut server, PATIENCE).code(), Some(0));
}
