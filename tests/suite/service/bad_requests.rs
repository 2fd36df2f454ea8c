//! Checks that malformed requests, which no HTTP client sends, get a 4xx response or a closed
//! connection in time, and that the server still works afterwards.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use crate::common::{Server, photo};

/// Deadline of each request, which includes receiving its body.
const DEADLINE: Duration = Duration::from_secs(1);
/// Longest time in which a malformed request must be finished, on a busy machine. The server takes
/// the deadline, and up to 2 s to read and discard the remaining body.
const LONGEST: Duration = Duration::from_secs(8);

const POST: &str = "POST /v1/classify HTTP/1.1\r\nhost: x\r\nconnection: close\r\n";

/// Sends `request` on a new connection. Returns everything that the server sends until it closes
/// the connection, and the time that this takes.
fn exchange(server: &Server, request: &[u8]) -> (String, Duration) {
    let mut stream = server.connect();
    let started = Instant::now();
    // Errors are ignored, because the server may close the connection before it has read the whole
    // request.
    let _ = stream.write_all(request);
    let mut reply = Vec::new();
    let _ = stream.read_to_end(&mut reply);
    (
        String::from_utf8_lossy(&reply).into_owned(),
        started.elapsed(),
    )
}

/// Checks that the server's final response to `request` has one of `statuses`, arrives in time and
/// is short. Status 0 stands for a connection that the server closes without a response.
fn expect(server: &Server, name: &str, request: impl AsRef<[u8]>, statuses: &[u16]) {
    let (reply, elapsed) = exchange(server, request.as_ref());
    let last = reply.rsplit("HTTP/1.1 ").next().unwrap_or_default();
    let status = last.get(..3).and_then(|status| status.parse().ok());
    let status = status.unwrap_or(0);
    assert!(statuses.contains(&status), "{name}: {status} {reply}");
    assert!(elapsed < LONGEST, "{name}: {elapsed:?}");
    assert!(reply.len() < 4096, "{name}: {} bytes", reply.len());
}

fn still_serves(server: &Server) {
    let reply = server.classify("?top_k=1", &photo("coffee_500x375.jpg"));
    assert_eq!(reply.labels(), ["espresso"]);
}

#[test]
fn malformed_requests_are_rejected_or_closed() {
    let deadline = DEADLINE.as_millis().to_string();
    let server = Server::start(&["--request-timeout-ms", &deadline, "--threads", "1"]);
    targets(&server);
    heads(&server);
    bodies(&server);
    still_serves(&server);
    let page = server.get("/metrics").text();
    let failed = page.lines().find(|line| {
        line.starts_with("sightline_requests_total{")
            && line.contains(r#"status="5"#)
            // Readiness probes get 503 while the server starts.
            && !line.contains("/health/ready")
    });
    assert_eq!(failed, None);
}

fn targets(server: &Server) {
    let get =
        |target: &str| format!("GET {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    let post = |query: &str| {
        format!(
            "POST /v1/classify?{query} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
        )
    };
    let long = |letters: usize| "a".repeat(letters);
    let many = |parameters: usize| {
        let pairs: Vec<_> = (0..parameters).map(|n| format!("p{n}=1")).collect();
        pairs.join("&")
    };
    let cases = [
        ("a path of 9 kB", get(&format!("/{}", long(9000))), 404),
        (
            "a model of 9 kB",
            get(&format!("/v1/models/{}", long(9000))),
            404,
        ),
        (
            "a value of 9 kB",
            post(&format!("model={}", long(9000))),
            404,
        ),
        ("a name of 9 kB", post(&long(9000)), 400),
        ("a target of 40 kB", get(&format!("/{}", long(40_000))), 431),
        ("100 parameters", post(&many(100)), 400),
        ("3,000 parameters", post(&many(3000)), 400),
        ("a parameter twice", post("top_k=1&top_k=2"), 400),
        ("a parameter 100 times", post(&"top_k=1&".repeat(100)), 400),
        ("an encoded NUL in a value", post("top_k=1%00"), 400),
        ("an encoded NUL in a name", post("top_k%00=1"), 400),
        ("an encoded NUL in a model", post("model=%00"), 404),
        ("an encoded NUL in a path", get("/v1/models/%00"), 404),
        ("a raw NUL in a query", post("top_k=1\0"), 400),
        ("a raw NUL in a path", get("/v1\0"), 400),
        ("invalid UTF-8 in a value", post("top_k=%FF"), 400),
        ("invalid UTF-8 in a name", post("%C3%28=1"), 400),
        ("invalid UTF-8 in a model", post("model=%F0%28%8C%BC"), 404),
        ("invalid UTF-8 in a path", get("/v1/models/%FF"), 400),
        ("half a percent encoding", post("top_k=%"), 400),
        ("a wrong percent encoding", post("top_k=%zz"), 400),
        ("a path with dots", get("/../../etc/passwd"), 404),
        ("the target of OPTIONS", get("*"), 404),
    ];
    for (name, request, status) in cases {
        expect(server, name, request, &[status]);
    }
}

fn heads(server: &Server) {
    let with = |header: &str| format!("{POST}{header}\r\n\r\n");
    let many = "h: 1\r\n".repeat(200);
    let cases: &[(&str, String, &[u16])] = &[
        (
            "two lengths",
            with("content-length: 5\r\ncontent-length: 6"),
            &[400],
        ),
        ("a list of lengths", with("content-length: 5, 6"), &[400]),
        ("a negative length", with("content-length: -1"), &[400]),
        ("a signed length", with("content-length: +1"), &[400]),
        ("a length in words", with("content-length: many"), &[400]),
        (
            "a length of 20 digits",
            with("content-length: 99999999999999999999"),
            &[400],
        ),
        (
            "a length of 2^63",
            with("content-length: 9223372036854775808"),
            &[413],
        ),
        (
            "an unknown encoding",
            with("transfer-encoding: zip"),
            &[400],
        ),
        ("a space in a name", with("content length: 1"), &[400]),
        ("a NUL in a value", with("x: \0"), &[400]),
        ("a folded header", with("x: 1\r\n y"), &[400]),
        ("200 headers", with(&many), &[431]),
        ("no method", "/ HTTP/1.1\r\n\r\n".to_owned(), &[400]),
        (
            "a wrong version",
            "GET / HTTP/9.9\r\n\r\n".to_owned(),
            &[400],
        ),
        (
            "HTTP/2 without frames",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nGET / HTTP/1.1\r\n\r\n".to_owned(),
            &[0, 400],
        ),
        ("no HTTP", "SSH-2.0-x\r\n\r\n".to_owned(), &[0, 400]),
        (
            "TLS",
            "\x16\x03\x01\x01\0\x01\0\0\r\n\r\n".to_owned(),
            &[0, 400],
        ),
    ];
    for (name, request, statuses) in cases {
        expect(server, name, request, statuses);
    }
}

fn bodies(server: &Server) {
    let chunked = |chunks: &str| format!("{POST}transfer-encoding: chunked\r\n\r\n{chunks}");
    let overflow = "F".repeat(17);
    let cases: &[(&str, String, &[u16])] = &[
        (
            "a chunk size of 17 digits",
            chunked(&format!("{overflow}\r\nx")),
            &[400],
        ),
        ("a negative chunk size", chunked("-1\r\nx\r\n"), &[400]),
        ("an empty chunk size", chunked("\r\nx\r\n"), &[400]),
        (
            "a chunk that is longer than its size",
            chunked("2\r\nabcdef\r\n0\r\n\r\n"),
            &[400],
        ),
        (
            "a chunk of 2^60 bytes",
            chunked("1000000000000000\r\nabc"),
            &[408, 413],
        ),
        (
            "a chunk that is shorter than its size",
            chunked("64\r\nabc"),
            &[408],
        ),
        ("chunks without an end", chunked("3\r\nabc\r\n"), &[408]),
        (
            "a body that never comes",
            format!("{POST}content-length: 9\r\n\r\n"),
            &[408],
        ),
        (
            "a client that waits for 100 Continue",
            format!("{POST}content-length: 9\r\nexpect: 100-continue\r\n\r\n"),
            &[408],
        ),
        (
            "both framings",
            format!(
                "{POST}content-length: 9\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
            ),
            &[400, 415],
        ),
    ];
    for (name, request, statuses) in cases {
        expect(server, name, request, statuses);
    }
}
