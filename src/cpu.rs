//! What this CPU is good at, beyond the kernels of `simd`.

use onnx_export::quantize::Target;

/// Whether it multiplies and adds 8-bit numbers in one step; an int8 network counts on that to be faster
/// than its fp32 one.
pub fn has_int8_dot() -> bool {
    #[cfg(target_arch = "x86_64")]
    let has = is_x86_feature_detected!("avx512vnni") || is_x86_feature_detected!("avxvnni");
    #[cfg(target_arch = "aarch64")]
    let has = std::arch::is_aarch64_feature_detected!("dotprod");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let has = false;
    has
}

/// The numbers that suit this CPU's int8 kernels.
pub fn int8_target() -> Target {
    if has_int8_dot() {
        Target::Vnni
    } else {
        Target::Avx2
    }
}
