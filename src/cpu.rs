//! Int8 capabilities of this CPU.

use onnx_export::quantize::Target;

/// Returns whether this CPU has an int8 dot product instruction: AVX-512 VNNI, AVX-VNNI or Arm's
/// dot product. Without this instruction an int8 model is hardly faster than the same model in
/// fp32.
pub fn has_int8_dot() -> bool {
    #[cfg(target_arch = "x86_64")]
    let has = is_x86_feature_detected!("avx512vnni") || is_x86_feature_detected!("avxvnni");
    #[cfg(target_arch = "aarch64")]
    let has = std::arch::is_aarch64_feature_detected!("dotprod");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let has = false;
    has
}

/// Returns the CPU family that a model should be quantized for to run fastest on this CPU.
pub fn int8_target() -> Target {
    if has_int8_dot() {
        Target::Vnni
    } else {
        Target::Avx2
    }
}
