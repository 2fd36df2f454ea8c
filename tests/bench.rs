//! `sightline bench --url`: load tests of a running server.

#![allow(clippy::unwrap_used, reason = "panicking is how a test fails")]

mod common;

use std::fs;

use common::{Server, path, run, tiny};
use serde_json::{Value, json};

/// Runs `sightline bench --json --url URL ARGS...`. Returns the exit code, the report and the errors.
fn bench(url: &str, args: &[&str]) -> (Option<i32>, Value, String) {
    let (code, stdout, stderr) = run(&[&["bench", "--json", "--url", url], args].concat());
    (code, serde_json::from_str(&stdout).unwrap(), stderr)
}

#[test]
fn a_running_server_is_measured() {
    let directory = tempfile::tempdir().unwrap();
    let models = directory.path().join("models");
    tiny::export(&models.join("tiny"));
    let server = Server::start(&["--models", models.to_str().unwrap()]);
    let url = server.url("");

    let images = directory.path().join("images");
    fs::create_dir_all(images.join("subfolder")).unwrap();
    for name in ["coffee.png", "rocket.jpg"] {
        fs::copy(path("photos").join(name), images.join(name)).unwrap();
    }
    fs::write(images.join("notes.txt"), "not an image").unwrap();
    let (code, report, stderr) = bench(&url, &["--images", images.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!((&report["sent"], &report["images"]), (&json!(3), &json!(3)));
    assert_eq!(report["statuses"]["200"], 2, "{report}");
    let error = report["first_error"].as_str().unwrap();
    assert!(error.starts_with("notes.txt: status 4"), "{error}");

    let (code, report, stderr) = bench(&url, &["--rate", "20", "--seconds", "1"]);
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(
        (&report["sent"], &report["unsent"]),
        (&json!(20), &json!(0))
    );
    assert_eq!(report["statuses"], json!({"200": 20}));
    let at = |name: &str| report["latency_ms"][name].as_f64().unwrap();
    assert!(
        0.0 < at("p50") && at("p50") <= at("p99") && at("p99") <= at("max"),
        "{report}"
    );

    let (code, report, stderr) = bench(&url, &["--requests", "3", "--connections", "1"]);
    assert_eq!((code, &report["sent"]), (Some(0), &json!(3)), "{stderr}");
    assert_eq!(report["rate"], Value::Null);

    let (code, stdout, stderr) = run(&["bench", "--url", &url, "--requests", "2"]);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(
        stdout.contains("closed loop, 8 connections, 1 images") && stdout.contains("2 x 200"),
        "{stdout}"
    );
}

#[test]
fn a_server_that_does_not_respond_is_an_error_with_a_report() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let (code, report, stderr) = bench(&format!("http://{closed}"), &["--requests", "2"]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("no request succeeded"), "{stderr}");
    assert_eq!(report["failures"], json!({"no connection": 2}));
    for args in [
        &["--rate", "5"][..],
        &["--url", "http://a", "--rate", "0"],
        &["--seconds", "1"],
    ] {
        assert_eq!(run(&[&["bench"], args].concat()).0, Some(2), "{args:?}");
    }
}
