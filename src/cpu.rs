//! Int8 capabilities and vector instructions of this CPU.

use std::fs::File;
use std::io::Read as _;

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

/// Starts of the names that Linux gives to instruction sets for vectors and matrices.
const VECTOR_FEATURES: [&str; 12] = [
    "amx", "asimd", "avx", "bf16", "f16c", "fma", "fphp", "i8mm", "sme", "sse4", "ssse3", "sve",
];
/// Bytes of `/proc/cpuinfo` that are read: the description of the first core is shorter.
const CPUINFO_BYTES: u64 = 16 << 10;

/// Returns the names of the instruction sets for vectors and matrices that this CPU has, sorted and separated by spaces.
/// ONNX Runtime and the int8 operators choose layouts and kernels by some of them. `None` if Linux does not tell.
pub fn vector_features() -> Option<String> {
    let mut text = Vec::new();
    let file = File::open("/proc/cpuinfo").ok()?;
    file.take(CPUINFO_BYTES).read_to_end(&mut text).ok()?;
    features_of(&String::from_utf8_lossy(&text))
}

/// Returns the instruction sets of the first core that `cpuinfo`, the text of `/proc/cpuinfo`, describes.
fn features_of(cpuinfo: &str) -> Option<String> {
    let mut lines = cpuinfo.lines().filter_map(|line| line.split_once(':'));
    let (_, flags) = lines.find(|(name, _)| matches!(name.trim(), "flags" | "Features"))?;
    let flags = flags.split_whitespace();
    let is_vector = |flag: &&str| VECTOR_FEATURES.iter().any(|start| flag.starts_with(start));
    let mut features: Vec<&str> = flags.filter(is_vector).collect();
    features.sort_unstable();
    Some(features.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vector_features_are_those_of_the_first_core_in_any_order() {
        let intel =
            "processor\t: 0\nflags\t\t: fpu sse2 fma avx2 avx\n\nprocessor\t: 1\nflags\t\t: avx\n";
        assert_eq!(features_of(intel).as_deref(), Some("avx avx2 fma"));
        let arm = "BogoMIPS\t: 243\nFeatures\t: fp asimd crc32 asimddp\n";
        assert_eq!(features_of(arm).as_deref(), Some("asimd asimddp"));
        assert_eq!(features_of("hart\t: 0\n"), None);
    }
}
