//! Run-time choice of vector instructions: one binary for every CPU of an architecture.
//!
//! A kernel is written once, as plain loops that vectorise, and compiled for each instruction set
//! (x86-64: SSE2, SSE4.2, AVX2, AVX-512; aarch64: NEON). `fearless_simd` detects and calls; it is
//! the one place where `unsafe` is needed, and it is not here.

use fearless_simd::{Level, Simd};

/// A loop that is worth compiling once per instruction set.
///
/// `run` and all that it calls in its loops must be `#[inline(always)]`: a function that stays
/// separate is compiled for the oldest CPU.
pub(crate) trait Kernel {
    /// What the loop computes.
    type Output;

    /// Does the work; `simd` stands for the instruction set and offers its shuffles.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// Runs a kernel with the widest instructions that this CPU has.
pub(crate) fn dispatch<K: Kernel>(kernel: K) -> K::Output {
    fearless_simd::dispatch!(Level::new(), simd => kernel.run(simd))
}
