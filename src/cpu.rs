//! Int8 capabilities of this CPU.

use onnx_export::quantize::Target;

/// Returns whether this CPU has an int8 dot product instruction (AVX-512 VNNI, AVX-VNNI or Arm's dot product), without
/// which an int8 network is hardly faster than its fp32 form.
pub fn has_int8_dot() -> bool {
    #[cfg(target_arch = "x86_64")]
    let has = is_x86_feature_detected!("avx512vnni") || is_x86_feature_detected!("avxvnni");
    #[cfg(target_arch = "aarch64")]
    let has = std::arch::is_aarch64_feature_detected!("dotprod");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let has = false;
    has
}

/// Returns the kind of CPU that int8 weights should be quantized for, to run fastest on this one.
pub fn int8_target() -> Target {
    if has_int8_dot() {
        Target::Vnni
    } else {
        Target::Avx2
    }
}
