//! Helpers that the unit tests of this crate share with those of the server: random values,
//! mutations of files, and runs of the functions that read them.

#![allow(
    clippy::unwrap_used,
    dead_code,
    missing_docs,
    unreachable_pub,
    reason = "the tests use some of the helpers"
)]

pub mod fuzz;
pub mod mutation;
pub mod random;
