//! Helpers that the crate's unit tests compile too: slow references, the Python packages to compare with, random
//! values, and the announcement of skipped tests.

#![allow(
    clippy::print_stderr,
    clippy::unwrap_used,
    dead_code,
    missing_docs,
    unreachable_pub,
    reason = "each test file uses a part"
)]

pub mod bilinear;
pub mod python;
pub mod random;
pub mod rle;
pub mod skip;
