//! Int8 kernels for operations whose kernels in ONNX Runtime are slow: depthwise convolution,
//! lookup tables for functions of one element, and quantization of ONNX Runtime's blocked fp32
//! layout.
//!
//! Int8 tensors are uint8 with the channels last: `[N, H, W, C]`. Results are bit-identical to
//! those of ONNX Runtime's own kernels. Each kernel has an AVX-512 form and a scalar form for other
//! CPUs.
//!
//! Not here: ONNX graphs and ONNX Runtime. The kernels read and write slices.

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

/// Number of uint8 elements that one AVX-512 instruction processes.
const LANES: usize = 64;
/// Number of channels that ONNX Runtime's blocked layout (`NCHWc`) stores next to each other for
/// each pixel on CPUs with AVX-512.
pub const CHANNEL_BLOCK: usize = 16;
/// Number of kernel taps whose products one instruction (`vpdpbusd`) adds to the sum of an element.
const QUAD: usize = 4;

/// Returns whether this CPU has the instructions of the kernels' AVX-512 forms: AVX-512 as of Ice
/// Lake, with VNNI and VBMI.
pub fn is_supported() -> bool {
    #[cfg(target_arch = "x86_64")]
    let supported = fearless_simd::Level::new().as_avx512().is_some();
    #[cfg(not(target_arch = "x86_64"))]
    let supported = false;
    supported
}
