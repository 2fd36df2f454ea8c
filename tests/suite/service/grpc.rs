//! The gRPC interface with the unmodified gRPC clients of Triton.

use std::process::Command;

use crate::common::{self, Server};
use crate::reference::shared::skip;
use sightline::keys::KeyDigest;

/// Exit status with which the script reports that a Python package is missing.
const LACKING: i32 = 77;

#[test]
fn tritons_clients_work_unchanged() {
    let test = "tritons_clients_work_unchanged";
    let Ok(python) = std::env::var("SIGHTLINE_TEST_TRITONCLIENT") else {
        skip::announce_outside_ci(test, "SIGHTLINE_TEST_TRITONCLIENT names no Python");
        return;
    };
    let server = Server::start(&["--grpc-listen", "127.0.0.1:0"]);
    if !script_passes(test, &python, &server, &[]) {
        return;
    }
    let metrics = server.get("/metrics").text();
    for sample in [
        r#"route="/inference.GRPCInferenceService/ModelInfer",status="200""#,
        r#"route="/inference.GRPCInferenceService/ModelInfer",status="404""#,
        r#"route="/inference.GRPCInferenceService/ModelStreamInfer",status="200""#,
    ] {
        assert!(metrics.contains(sample), "{sample}");
    }
}

#[test]
fn tritons_client_controls_models_with_a_key() {
    let test = "tritons_client_controls_models_with_a_key";
    let Ok(python) = std::env::var("SIGHTLINE_TEST_TRITONCLIENT") else {
        skip::announce_outside_ci(test, "SIGHTLINE_TEST_TRITONCLIENT names no Python");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys");
    std::fs::write(&file, format!("alice {}\n", KeyDigest::of(b"secret"))).unwrap();
    let file = file.to_str().unwrap();
    let server = Server::start(&["--grpc-listen", "127.0.0.1:0", "--api-keys", file]);
    script_passes(test, &python, &server, &["secret"]);
}

/// Runs the script against `server`, with `keys` as its last arguments. Returns `false` if a Python package is missing.
fn script_passes(test: &str, python: &str, server: &Server, keys: &[&str]) -> bool {
    let script = Command::new(python)
        .arg("tests/clients/triton_grpc.py")
        .args([server.printed("gRPC on "), server.url("")])
        .arg(common::path("photos/coffee_500x375.jpg"))
        .arg("efficientnet_lite0")
        .args(keys)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&script.stderr);
    if script.status.code() == Some(LACKING) {
        skip::announce_outside_ci(test, &format!("{python}: {errors}"));
        return false;
    }
    assert!(script.status.success(), "{errors}");
    true
}
