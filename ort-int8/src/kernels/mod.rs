//! Int8 kernels for operations whose kernels in ONNX Runtime are slow: depthwise and pointwise
//! convolution, addition, products with a gate, lookup tables for functions of one element, and
//! quantization of ONNX Runtime's blocked fp32 layout.
//!
//! Int8 tensors are uint8 with the channels last: `[N, H, W, C]`. Results are bit-identical to
//! those of ONNX Runtime's own kernels. Each kernel has a form for each [`Isa`] that gains from it, and
//! a scalar form.
//!
//! The kernels for vector instructions load, compute and store in loops over arrays, not in closures: the
//! compiler inlines a closure into a kernel or not from one build to the next, and a call for each vector
//! takes longer than its work.
//!
//! Not here: ONNX graphs and ONNX Runtime. The kernels read and write slices.

mod add;
#[cfg(target_arch = "x86_64")]
mod blocked;
#[cfg(target_arch = "x86_64")]
mod blocked_avx512;
mod depthwise;
#[cfg(target_arch = "x86_64")]
mod depthwise_avx2;
#[cfg(target_arch = "x86_64")]
mod depthwise_avx512;
mod error;
mod gate;
mod isa;
#[cfg(target_arch = "x86_64")]
mod linear_avx512;
mod lookup;
#[cfg(target_arch = "x86_64")]
mod lookup_avx2;
mod phase;
mod pointwise;
#[cfg(target_arch = "x86_64")]
mod pointwise_avx2;
#[cfg(target_arch = "x86_64")]
mod pointwise_avx512;
mod quantize;
#[cfg(test)]
mod reference;
mod requantize;
#[cfg(target_arch = "x86_64")]
mod requantize_avx512;
mod rows;
mod spec;
#[cfg(target_arch = "x86_64")]
mod stacked;
#[cfg(target_arch = "x86_64")]
mod stacked_avx512;
#[cfg(target_arch = "x86_64")]
mod store;
#[cfg(test)]
mod tests;

pub use add::Addition;
pub use depthwise::{Depthwise, Image, Scratch};
pub use error::KernelError;
pub use gate::Gate;
pub use isa::Isa;
pub use lookup::lookup;
pub use pointwise::{Pointwise, PointwiseSpec};
pub use quantize::{BlockedQuantization, quantize_blocked};
pub(crate) use requantize::pairs_fit;
pub use spec::DepthwiseSpec;

/// Number of uint8 elements that one AVX-512 instruction processes. The AVX2 kernels process them in
/// two halves.
const LANES: usize = 64;
/// Number of kernel taps or input channels that the kernels multiply together for each element.
const QUAD: usize = 4;
/// Weights that a vector instruction multiplies, aligned so that it reads a single cache line.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Weights([i8; LANES]);

/// Order of the 32-bit parts of a vector of 32 results that brings the results of each of four
/// registers together. Packing four registers of 8 results interleaves them: four results of each register at a time.
#[cfg(target_arch = "x86_64")]
const UNPACKED: [i32; 8] = [0, 4, 1, 5, 2, 6, 3, 7];
/// [`UNPACKED`] for a vector of 64 results, packed from four registers of 16 results.
#[cfg(target_arch = "x86_64")]
const UNPACKED_WIDE: [i32; 16] = [0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15];

/// Returns the number of channels that ONNX Runtime's blocked layout (`NCHWc`) stores next to each
/// other for each pixel on this CPU. `None` if this crate has no kernel for the layout.
///
/// Source: ONNX Runtime's `MlasNchwcGetBlockSize`.
pub(crate) fn channel_block() -> Option<usize> {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            return Some(16);
        }
        if is_x86_feature_detected!("avx2") {
            return Some(8);
        }
    }
    None
}
