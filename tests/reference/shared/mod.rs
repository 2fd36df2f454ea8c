//! What the crate's own tests compile as well.

#![allow(
    clippy::print_stderr,
    clippy::unwrap_used,
    dead_code,
    missing_docs,
    unreachable_pub,
    reason = "each test file uses its own part"
)]

pub mod bilinear;
pub mod python;
pub mod rle;
