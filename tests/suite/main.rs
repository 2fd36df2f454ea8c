//! The tests of Sightline's binary and of its networks. One program, so that the helpers and the library are compiled
//! and linked once; `cargo nextest run service::keys` runs one file.
//!
//! [`networks`] compares values with torchvision's and Pillow's, [`commands`] runs commands, and [`service`] sends
//! requests to running servers.

#![allow(
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    missing_docs,
    unreachable_pub,
    reason = "tests fail by panicking and print what they measured; the library's tests share some helpers"
)]

mod commands;
mod common;
mod networks;
mod reference;
mod service;
