//! Helpers for tests of the `sightline` binary: they run its commands, start its server, and send
//! HTTP requests to the server.
//!
//! Each test runs in its own process, and starting a server takes a third of a second. The test files therefore have
//! few large tests, each with one server.

pub mod checkpoint;
pub mod client;
pub mod coco;
pub mod command;
pub mod hostile;
pub mod mirror;
pub mod onnx;
pub mod quantizing;
pub mod server;
pub mod tiny;
pub mod tls;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

pub use client::{Reply, agent, form, json_body};
pub use command::{export, finish, predicted, run, run_within, sightline};
pub use server::Server;

/// Time limit for a server's start or response, or for a command. A debug build takes up to 30 s to load the int8
/// model on a busy machine.
pub const PATIENCE: Duration = Duration::from_mins(2);

/// Sets a flag when it is dropped, also if the test fails: threads of a scope that run until the flag is set would
/// otherwise keep a failed test running for ever.
pub struct SetOnDrop<'a>(pub &'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Returns the absolute path of the file `tests/PATH`.
pub fn path(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests")
        .join(path)
}

/// Reads the file `tests/FILE`.
pub fn read(file: &str) -> Vec<u8> {
    std::fs::read(path(file)).unwrap()
}

/// Reads the photograph `tests/photos/NAME`.
pub fn photo(name: &str) -> Vec<u8> {
    read(&format!("photos/{name}"))
}

/// Reads the unusual or damaged image `tests/golden/images/NAME`.
pub fn odd(name: &str) -> Vec<u8> {
    read(&format!("golden/images/{name}"))
}

/// Returns a manifest without the SHA-256 of its files, so that a test can replace the files.
pub fn without_sha256(manifest: &str) -> String {
    let lines = manifest.lines();
    let kept = lines.filter(|line| !line.contains("sha256 =") || line.starts_with("checkpoint_"));
    kept.flat_map(|line| [line, "\n"]).collect()
}

/// Evaluates `condition` repeatedly until it is true. Panics if that takes longer than
/// [`PATIENCE`]; `what` describes the condition in the panic message.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
