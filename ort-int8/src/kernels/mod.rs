//! Int8 kernels for operations where ONNX Runtime's are slow: depthwise convolutions, functions of one element as a
//! lookup table, and quantization of its blocked fp32 layout.
//!
//! Tensors are uint8 with the channels last: `[N, H, W, C]`. Results are bit-identical to those of ONNX Runtime's own
//! kernels. Each kernel has an AVX-512 form and a scalar form; the latter runs on other CPUs.
//!
//! Not here: ONNX graphs and ONNX Runtime. The kernels take slices.

mod depthwise;
#[cfg(target_arch = "x86_64")]
mod depthwise_avx512;
mod error;
mod lookup;
mod quantize;
#[cfg(test)]
mod reference;
mod rows;
mod spec;
#[cfg(test)]
mod tests;

pub use depthwise::{Depthwise, Image, Scratch};
pub use error::KernelError;
pub use lookup::lookup;
pub use quantize::{BlockedQuantization, quantize_blocked};
pub use spec::DepthwiseSpec;

/// Elements that one AVX-512 instruction processes.
const LANES: usize = 64;
/// Channels that ONNX Runtime's blocked layout (`NCHWc`) keeps together on CPUs with AVX-512.
pub const CHANNEL_BLOCK: usize = 16;
/// Kernel taps whose products one instruction adds.
const QUAD: usize = 4;

/// Returns whether this CPU has the instructions that the kernels are written for: AVX-512 as of Ice Lake, with VNNI
/// and VBMI.
pub fn is_supported() -> bool {
    #[cfg(target_arch = "x86_64")]
    let supported = fearless_simd::Level::new().as_avx512().is_some();
    #[cfg(not(target_arch = "x86_64"))]
    let supported = false;
    supported
}
