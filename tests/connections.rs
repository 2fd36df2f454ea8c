//! Checks that the admin listener responds while clients hold every connection of the public
//! listener, and how the server reacts to signals.

#![expect(
    clippy::unwrap_used,
    reason = "a panic in a test helper is how the test fails"
)]

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use common::{Server, agent, eventually, finish, sightline};

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
    assert_eq!(get("/v1/models").status(), 404);
    let mut probe = sightline(&["healthcheck"]);
    probe
        .env("SIGHTLINE_ADMIN_LISTEN", &admin)
        .env("SIGHTLINE_LISTEN", "0.0.0.0:1");
    let (code, stdout, stderr) = finish(probe);
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(stdout, format!("ready http://{admin}\n"));
}

#[test]
fn a_signal_while_models_load_ends_the_server() {
    let server = Server::launch(&[]);
    server.terminate();
    let (code, log) = server.wait();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("stopped\n"), "{log}");
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
