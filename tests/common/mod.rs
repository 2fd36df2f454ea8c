//! Helpers of the tests that run the real binary: its command line, its server, and a client.
//!
//! Starting a server takes a third of a second and the tests of a file are processes of their own, so files
//! hold few large tests, each with one server.

#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a test fails by its panic; each test file compiles all of this and uses a part"
)]

pub mod checkpoint;
pub mod client;
pub mod coco;
pub mod command;
pub mod quantizing;
pub mod server;
pub mod tiny;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub use client::{PROBLEM, Reply, agent, form, json_body};
pub use command::{export, finish, run, run_within, sightline};
pub use server::Server;

/// Longest wait for a server or command. Generous: a debug build loads the int8 model in 30 s on a busy machine.
pub const PATIENCE: Duration = Duration::from_mins(2);

/// The file `path` below `tests/`.
pub fn path(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests")
        .join(path)
}

/// The bytes of a file below `tests/`.
pub fn read(file: &str) -> Vec<u8> {
    std::fs::read(path(file)).unwrap()
}

/// The image `name` of `tests/photos`.
pub fn photo(name: &str) -> Vec<u8> {
    read(&format!("photos/{name}"))
}

/// The unusual or damaged image `name` of `tests/golden/images`.
pub fn odd(name: &str) -> Vec<u8> {
    read(&format!("golden/images/{name}"))
}

/// Evaluates `condition` until it holds; fails after [`PATIENCE`].
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
