//! The flag `--target`: the CPU family that an int8 network is quantized for.

use clap::ValueEnum;
use onnx_export::quantize::Target;
use sightline::cpu::int8_target;

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
pub(super) enum TargetName {
    /// The family of this CPU
    #[default]
    Auto,
    /// CPUs with AVX-512 VNNI, AVX-VNNI or Arm dot product: 8-bit weights
    Vnni,
    /// x86 CPUs without VNNI: 7-bit weights
    Avx2,
}

impl TargetName {
    /// Returns the CPU family; `auto` is the family of this CPU.
    pub(super) fn target(self) -> Target {
        match self {
            Self::Vnni => Target::Vnni,
            Self::Avx2 => Target::Avx2,
            Self::Auto => int8_target(),
        }
    }
}
