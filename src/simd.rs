//! Choice of vector instructions at run time, so that one binary serves every CPU of an architecture.
//!
//! A kernel is written once, as plain loops that the compiler vectorizes, and compiled for each instruction set
//! (x86-64: SSE2, SSE4.2, AVX2, AVX-512; aarch64: NEON). The crate `fearless_simd` detects which
//! instruction sets the CPU has, and contains the `unsafe` code that calls the kernel compiled for
//! one of them.

use fearless_simd::{Level, Simd};

/// A computation, written as plain loops, that is compiled once per instruction set.
///
/// `run` and every function that `run` calls in its loops must be `#[inline(always)]`: a function
/// that is not inlined is compiled for the oldest CPU of the architecture only, without the wider
/// vector instructions.
pub(crate) trait Kernel {
    /// Type of the value that [`run`](Self::run) returns.
    type Output;

    /// Runs the computation. `simd` represents the instruction set and provides operations such as shuffles.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// Runs `kernel` with the widest vector instructions of this CPU and returns its result.
pub(crate) fn dispatch<K: Kernel>(kernel: K) -> K::Output {
    fearless_simd::dispatch!(Level::new(), simd => kernel.run(simd))
}
