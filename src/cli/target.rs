//! Which processors an int8 network is made for.

use clap::ValueEnum;
use onnx_export::quantize::Target;
use sightline::cpu::int8_target;

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum TargetName {
    /// Such as this one
    Auto,
    /// AVX-512 VNNI, AVX-VNNI, Arm dot product: 8-bit weights
    Vnni,
    /// Older x86: 7-bit weights
    Avx2,
}

impl TargetName {
    pub(super) fn target(self) -> Target {
        match self {
            Self::Vnni => Target::Vnni,
            Self::Avx2 => Target::Avx2,
            Self::Auto => int8_target(),
        }
    }
}
