//! The gRPC interface with the unmodified gRPC clients of Triton.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "panicking is how a test fails"
)]

mod common;
mod reference;

use std::process::Command;

use common::Server;
use reference::shared::skip;

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
    let address = server.printed("gRPC on ");
    let photo = common::path("photos/coffee_500x375.jpg");
    let script = Command::new(&python)
        .arg("tests/clients/triton_grpc.py")
        .args([&*address, &server.url("")])
        .arg(photo)
        .arg("efficientnet_lite0")
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&script.stderr);
    if script.status.code() == Some(LACKING) {
        skip::announce_outside_ci(test, &format!("{python}: {errors}"));
        return;
    }
    assert!(script.status.success(), "{errors}");
    let metrics = server.get("/metrics").text();
    for sample in [
        r#"route="/inference.GRPCInferenceService/ModelInfer",status="200""#,
        r#"route="/inference.GRPCInferenceService/ModelInfer",status="404""#,
        r#"route="/inference.GRPCInferenceService/ModelStreamInfer",status="200""#,
    ] {
        assert!(metrics.contains(sample), "{sample}");
    }
}
