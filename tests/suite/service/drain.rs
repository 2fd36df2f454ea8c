//! Checks what clients see while a server stops: readiness, requests during the drain delay, and signals.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::scope;
use std::time::{Duration, Instant};

use crate::common::{PATIENCE, Server, SetOnDrop, agent, eventually, photo};

/// Sends `GET path` over a new connection and returns the response, with its head.
fn get(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let head = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    exchange(address, head.as_bytes())
}

/// Sends `request` over a new connection and returns the response, with its head. The server must close the connection.
fn exchange(address: SocketAddr, request: &[u8]) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(request)?;
    let mut response = String::new();
    stream.read_to_string(&mut response)?;
    Ok(response)
}

/// A request to classify a photograph of a cup of coffee.
fn classify() -> Vec<u8> {
    let image = photo("coffee_500x375.jpg");
    let length = image.len();
    let head = format!(
        "POST /v1/classify?top_k=1 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
         content-type: image/jpeg\r\ncontent-length: {length}\r\n\r\n"
    );
    [head.as_bytes(), &image].concat()
}

#[test]
fn during_the_drain_delay_the_server_is_not_ready_but_serves_every_request() {
    let delay = Duration::from_secs(3);
    let server = Server::start(&["--drain-delay", "3s", "--admin-listen", "127.0.0.1:0"]);
    let admin: SocketAddr = server
        .printed("health and metrics on http://")
        .parse()
        .unwrap();
    let request = classify();
    let mut kept = server.connect();
    let signalled = Instant::now();
    server.terminate();
    eventually("the admin listener is not ready", || {
        get(admin, "/health/ready").is_ok_and(|text| text.contains("\"draining\""))
    });
    assert!(signalled.elapsed() < delay, "too slow to test");
    // A connection from before the signal is closed by its response.
    kept.write_all(b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n")
        .unwrap();
    let mut live = String::new();
    kept.read_to_string(&mut live).unwrap();
    assert!(live.starts_with("HTTP/1.1 200 "), "{live}");
    let mut served = 0;
    while signalled.elapsed() + Duration::from_millis(500) < delay {
        let ready = get(server.address, "/health/ready").unwrap();
        assert!(ready.starts_with("HTTP/1.1 503 "), "{ready}");
        let live = get(server.address, "/health/live").unwrap();
        assert!(live.starts_with("HTTP/1.1 200 "), "{live}");
        let response = exchange(server.address, &request).unwrap();
        assert!(response.contains("espresso"), "{response}");
        served += 1;
    }
    assert!(served > 0);
    let (code, log) = server.wait();
    assert_eq!(code, Some(0), "{log}");
    assert!(signalled.elapsed() >= delay);
    assert!(log.contains("delay_ms=3000"), "{log}");
}

#[test]
fn a_second_signal_ends_the_drain_delay() {
    let server = Server::start(&["--drain-delay", "600s"]);
    server.terminate();
    server.printed("still serving new requests");
    assert_eq!(server.get("/health/live").status, 200);
    server.terminate();
    let (code, log) = server.wait();
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("error: second SIGTERM"), "{log}");
}

#[test]
fn a_server_that_is_still_starting_does_not_wait_for_the_delay() {
    let server = Server::launch(&["--drain-delay", "600s", "--instances", "16"]);
    server.terminate();
    let (code, log) = server.wait();
    assert_eq!(code, Some(0), "{log}");
}

#[test]
fn requests_in_flight_at_the_end_of_the_delay_finish() {
    let server = Server::start(&["--drain-delay", "200ms"]);
    let request = classify();
    let (head, rest) = request.split_at(5000);
    let mut stream = server.connect();
    stream.write_all(head).unwrap();
    server.terminate();
    eventually("new requests are rejected", || {
        let response = agent().get(server.url("/v1/models")).call();
        response.is_ok_and(|response| response.status() == 503)
    });
    stream.write_all(rest).unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    assert!(response.contains("espresso"), "{response}");
    assert_eq!(server.wait().0, Some(0));
}

/// Clients send requests without a pause, half of them over new connections. Every request that was sent before the
/// signal gets a response.
#[test]
fn a_stop_under_load_loses_no_request() {
    let request = classify();
    for round in 0..4 {
        let server = Server::start(&["--drain-delay", if round % 2 == 0 { "0" } else { "300ms" }]);
        let (signalled, exited) = (AtomicBool::new(false), AtomicBool::new(false));
        let served = AtomicUsize::new(0);
        let (address, request) = (server.address, &request);
        let client = || {
            while !exited.load(Ordering::Acquire) {
                match exchange(address, request) {
                    Ok(response) if response.starts_with("HTTP/1.1 200 ") => {
                        served.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(response) => assert!(response.contains("\"draining\""), "{response}"),
                    // The server may have exited before the request arrived, but not before the signal.
                    Err(error) => assert!(signalled.load(Ordering::Acquire), "{error}"),
                }
            }
        };
        scope(|scope| {
            for _ in 0..4 {
                scope.spawn(client);
            }
            let _exited = SetOnDrop(&exited);
            eventually("requests are served", || {
                served.load(Ordering::Relaxed) >= 8
            });
            signalled.store(true, Ordering::Release);
            server.terminate();
            let (code, log) = server.wait();
            exited.store(true, Ordering::Release);
            assert_eq!(code, Some(0), "{log}");
        });
    }
}
