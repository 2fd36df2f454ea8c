//! Checks that the admin listener responds while clients hold every connection of the public
//! listener, and how the server reacts to signals.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::command::wait;
use crate::common::{Server, agent, eventually, finish, photo, sightline};

/// Longest time on a busy machine from a signal to the exit of a server that processes no requests.
/// Usually it takes 20 ms.
const STOP: Duration = Duration::from_secs(5);

/// Sends the header of a request with a body of 9 bytes, but never sends the body.
fn stuck(server: &Server) -> TcpStream {
    let mut stream = server.connect();
    let head = "POST /v1/classify HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    stream
}

#[test]
fn the_admin_listener_responds_while_clients_hold_every_connection() {
    let server = Server::start(&["--max-connections", "8", "--admin-listen", "127.0.0.1:0"]);
    let admin = server.printed("health and metrics on http://");
    let silent: Vec<_> = (0..100).map(|_| server.connect()).collect();
    // The 100 connections on which clients send nothing do not keep the public listener from
    // accepting a new connection.
    let (started, mut client) = (Instant::now(), server.connect());
    let request = "GET /health/live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    client.write_all(request.as_bytes()).unwrap();
    let mut reply = String::new();
    client.read_to_string(&mut reply).unwrap();
    assert!(reply.starts_with("HTTP/1.1 200 "), "{reply}");
    assert!(started.elapsed() < Duration::from_secs(5));
    drop(silent);

    let _stuck: Vec<_> = (0..8).map(|_| stuck(&server)).collect();
    let get = |path: &str| agent().get(format!("http://{admin}{path}")).call().unwrap();
    let mut in_flight = || {
        let text = get("/metrics").body_mut().read_to_string().unwrap();
        // The eight stuck requests and the request for the metrics itself are in flight.
        text.lines().any(|line| line == "sightline_in_flight 9")
    };
    eventually("every connection has a request in flight", &mut in_flight);
    let started = Instant::now();
    assert_eq!(get("/health/live").status(), 200);
    assert_eq!(get("/health/ready").status(), 200);
    assert!(started.elapsed() < Duration::from_secs(5));
    assert_eq!(get("/openapi.yaml").status(), 404);
    let mut probe = sightline(&["healthcheck"]);
    probe
        .env("SIGHTLINE_ADMIN_LISTEN", &admin)
        .env("SIGHTLINE_LISTEN", "0.0.0.0:1");
    let (code, stdout, stderr) = finish(probe);
    assert_eq!(code, Some(0), "{stderr}");
    let ready = format!("ready http://{admin}, version ");
    assert!(stdout.starts_with(&ready), "{stdout}");
}

/// Returns how many connections the test opens: half of this process's limit on open files, at most
/// 5,000.
fn connections() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let files = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let soft = files.and_then(|line| line.split_whitespace().nth(3));
    let soft = soft.unwrap().parse().unwrap_or(usize::MAX);
    (soft / 2).min(5000)
}

/// Opens connections whose requests never end. In every ten connections, one sends requests but
/// never reads the responses, five send nothing, and four send an incomplete head.
fn hold(server: &Server, connections: usize) -> Vec<TcpStream> {
    let request = "GET /openapi.yaml HTTP/1.1\r\nhost: x\r\n\r\n".repeat(20);
    let start = |position: usize| match position % 10 {
        0 => request.as_bytes(),
        1..=5 => b"",
        _ => b"GET / HTTP/1.1\r\nhost: ",
    };
    let open = |position| {
        let mut stream = server.connect();
        stream.set_nonblocking(true).unwrap();
        // Errors are ignored, because the server may have closed the connection to make room for
        // another.
        let _ = stream.write(start(position));
        if position % 100 == 0 {
            // If connections open faster than the server accepts them, the kernel drops attempts
            // beyond the listener's backlog and repeats them only after a second.
            std::thread::sleep(Duration::from_millis(50));
        }
        stream
    };
    (0..connections).map(open).collect()
}

#[test]
fn probes_and_requests_are_served_while_thousands_of_connections_are_held() {
    let server = Server::start(&["--admin-listen", "127.0.0.1:0"]);
    let admin = server.printed("health and metrics on http://");
    let coffee = photo("coffee_500x375.jpg");
    let count = connections();
    let held = hold(&server, count);
    let get = |base: &str, path: &str| {
        let started = Instant::now();
        let mut response = agent().get(format!("http://{base}{path}")).call().unwrap();
        assert_eq!(response.status(), 200, "{path}");
        response.body_mut().read_to_vec().unwrap();
        started.elapsed()
    };
    let public = server.address.to_string();
    let mut longest = Duration::ZERO;
    let trickle = |stream: &TcpStream| (&mut &*stream).write(b"x").is_ok();
    for round in 0..5 {
        // Connections at positions 6 to 9 of each ten have sent an incomplete head; they send one
        // more byte per round.
        let heads = held
            .iter()
            .enumerate()
            .filter(|(position, _)| position % 10 > 5);
        let open = heads.filter(|(_, stream)| trickle(stream)).count();
        for path in ["/health/live", "/health/ready", "/metrics"] {
            longest = longest.max(get(&admin, path)).max(get(&public, path));
        }
        assert_eq!(server.classify("?top_k=1", &coffee).labels(), ["espresso"]);
        println!("round {round}: {open} heads are trickled, longest probe {longest:?}");
    }
    println!("{count} connections were opened");
    assert!(longest < Duration::from_secs(2), "{longest:?}");
}

#[test]
fn a_signal_while_models_load_ends_the_server() {
    // The sessions of 16 workers take seconds to load. A signal must end the loading immediately,
    // whatever the grace period, which is only for requests.
    for grace in ["100", "600000"] {
        let server = Server::launch(&["--instances", "16", "--shutdown-grace-ms", grace]);
        let signalled = Instant::now();
        server.terminate();
        let (code, log) = server.wait();
        assert!(signalled.elapsed() < STOP, "{:?}", signalled.elapsed());
        assert_eq!(code, Some(0), "{log}");
        assert!(log.contains("stopped\n"), "{log}");
    }
}

#[test]
fn a_signal_at_any_moment_of_the_start_ends_the_server() {
    for delay in [0, 5, 20, 100, 500].map(Duration::from_millis) {
        let mut command = sightline(&["serve", "--listen", "127.0.0.1:0", "--instances", "16"]);
        let output = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = output.spawn().unwrap();
        std::thread::sleep(delay);
        let signalled = Instant::now();
        let mut kill = Command::new("kill");
        assert!(kill.arg(child.id().to_string()).status().unwrap().success());
        let status = wait(&mut child, STOP);
        println!("{delay:?}: {status} after {:?}", signalled.elapsed());
        let mut log = String::new();
        child.stdout.unwrap().read_to_string(&mut log).unwrap();
        // In its first milliseconds the process has no signal handler yet, so SIGTERM kills it
        // before it logs anything.
        let at_once = status.signal() == Some(15) && log.is_empty();
        assert!(
            status.code() == Some(0) || at_once,
            "{delay:?}: {status} {log}"
        );
    }
}

#[test]
fn a_second_signal_ends_the_drain_with_a_failure() {
    let server = Server::start(&["--shutdown-grace-ms", "600000"]);
    let _stuck = stuck(&server);
    eventually("the request is in flight", || {
        server.metric("sightline_in_flight") == 2.0
    });
    server.terminate();
    server.printed("draining");
    server.terminate();
    let (code, log) = server.wait();
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("error: second SIGTERM"), "{log}");
}
