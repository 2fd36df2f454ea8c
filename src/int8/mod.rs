//! Kernels for networks of 8-bit numbers, where ONNX Runtime's are slow: depthwise convolutions, functions of
//! one number as a table, and the way from its blocked floats.
//!
//! Numbers are `u8`, pixels are channels-last: `[N, H, W, C]`. What they compute equals ONNX Runtime's own
//! kernels to the bit.

mod depthwise;
#[cfg(target_arch = "x86_64")]
mod depthwise_avx512;
#[cfg(test)]
mod depthwise_tests;
mod lookup;
mod quantize;
#[cfg(test)]
mod reference;
mod rows;

pub use depthwise::{Depthwise, DepthwiseError, DepthwiseSpec, Scratch};
pub use lookup::lookup;
pub use quantize::quantize_blocked;

/// Channels, times pixels, that one step of a kernel computes.
const LANES: usize = 64;
/// Channels that ONNX Runtime keeps together on CPUs with AVX-512.
pub const CHANNEL_BLOCK: usize = 16;
/// Taps of a window whose products one instruction adds.
const QUAD: usize = 4;

/// Whether this CPU has the instructions that the kernels are written for.
pub fn is_supported() -> bool {
    #[cfg(target_arch = "x86_64")]
    let supported = fearless_simd::Level::new().as_avx512().is_some();
    #[cfg(not(target_arch = "x86_64"))]
    let supported = false;
    supported
}
