//! Calls the server with the unmodified `tritonclient` over HTTP, and attacks its routes with raw connections.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::process::Command;

use crate::common::{Server, checkpoint, path};
use crate::reference::shared::skip;

/// Returns the Python interpreter that has `tritonclient`. If there is none, panics in CI; elsewhere announces that the
/// test is skipped and returns `None`.
fn python() -> Option<String> {
    let python = std::env::var("SIGHTLINE_TEST_TRITONCLIENT").ok();
    if python.is_none() {
        skip::announce_outside_ci(
            "requests of tritonclient",
            "SIGHTLINE_TEST_TRITONCLIENT does not name a Python that has it",
        );
    }
    python
}

#[test]
fn tritonclient_gets_the_results_of_v1() {
    let Some(python) = python() else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let networks = [
        ("ssdlite320_mobilenet_v3_large", "ssd"),
        ("lraspp_mobilenet_v3_large", "lraspp"),
        ("mobilenet_v3_small", "small"),
    ];
    for (network, name) in networks {
        checkpoint::export(network, None, directory.path(), name);
    }
    let server = Server::start(&[
        "--models",
        directory.path().to_str().unwrap(),
        "--admin-listen",
        "127.0.0.1:0",
    ]);
    let admin = server.printed("health and metrics on http://");
    let address = server.address.to_string();
    let photos = ["coffee_500x375.jpg", "rocket.jpg"];
    let output = Command::new(python)
        .arg(path("open_inference/client.py"))
        .args([&address, admin.trim(), "small", "ssd", "lraspp"])
        .args(photos.map(|photo| path("photos").join(photo)))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
}

/// Sends `request` over a new connection and returns the head and body of the response.
fn raw(server: &Server, request: &[u8]) -> String {
    let mut stream = server.connect();
    // The server may respond and close before it has read everything.
    let _ = stream.write_all(request);
    let mut response = Vec::new();
    let _ = stream.read_to_end(&mut response);
    String::from_utf8_lossy(&response).into_owned()
}

#[test]
fn hostile_bodies_take_bounded_memory() {
    let server = Server::start(&["--max-body-bytes", "1048576"]);
    let head =
        "POST /v2/models/efficientnet_lite0/infer HTTP/1.1\r\nhost: x\r\nconnection: close\r\n";
    // More chunks than another server has survived, each of one byte.
    let mut chunks = format!("{head}transfer-encoding: chunked\r\n\r\n");
    for _ in 0..70_000 {
        write!(chunks, "1\r\n[\r\n").unwrap();
    }
    chunks.push_str("0\r\n\r\n");
    let response = raw(&server, chunks.as_bytes());
    assert!(response.starts_with("HTTP/1.1 400"), "{response}");
    assert!(response.contains("100 levels deep"), "{response}");
    // A header length above the body, and one of another request in the same connection.
    for length in ["18446744073709551615", "9", "-5", "1e3", "0x10"] {
        let request = format!(
            "{head}inference-header-content-length: {length}\r\ncontent-length: 2\r\n\r\n{{}}"
        );
        let response = raw(&server, request.as_bytes());
        assert!(response.starts_with("HTTP/1.1 400"), "{length}: {response}");
        assert!(response.contains("application/json"), "{response}");
    }
    server.reset_peak_memory();
    let before = server.memory("VmRSS");
    // Few bytes that state many elements, and many small elements.
    let many = format!(
        r#"{{"inputs":[{{"name":"input","shape":[1,3,224,224],"datatype":"FP32","data":[{}1]}}]}}"#,
        "1,".repeat(500_000)
    );
    let huge = r#"{"inputs":[{"name":"input","shape":[4611686018427387904],"datatype":"FP32","data":[1]}]}"#;
    let names = format!(
        r#"{{"inputs":[],"outputs":[{}{{}}]}}"#,
        r#"{"name":""},"#.repeat(80_000)
    );
    for body in [many.as_str(), huge, &names] {
        for _ in 0..8 {
            let route = "/v2/models/efficientnet_lite0/infer";
            let reply = server.post(route, "application/json", body.as_bytes());
            assert_eq!(reply.status, 400, "{}", reply.text());
        }
    }
    let grown = server.memory("VmHWM").saturating_sub(before);
    assert!(grown < 24 << 20, "{grown} bytes");
    assert_eq!(server.get("/v2/health/ready").status, 200);
}
