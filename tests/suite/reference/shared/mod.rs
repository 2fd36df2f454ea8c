//! Helpers that the unit tests of the crate and the tests in `tests/` use: slow reference
//! implementations, comparison with Python packages, random values, and the announcement of skipped
//! tests.

#![allow(
    clippy::print_stderr,
    clippy::unwrap_used,
    dead_code,
    missing_docs,
    unreachable_pub,
    reason = "each test file compiles all helpers and uses some"
)]

pub mod bilinear;
pub mod fuzz;
pub mod mutation;
pub mod python;
pub mod random;
pub mod rle;
pub mod skip;
