#![doc = include_str!("../README.md")]

mod accelerate;
pub mod kernels;
mod operators;
mod random;
mod rewrite;
#[cfg(test)]
mod test_library;

pub use accelerate::{AccelerateError, Accelerated, accelerate};
pub use operators::operators;
