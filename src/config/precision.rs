//! The precision of a model that is named without a variant.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::manifest::Precision;

/// How `--precision` chooses the precision of a model that is named without a variant. If the flag
/// is not set, the manifest's `default` decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PrecisionChoice {
    /// int8 if the model has an int8 variant and the CPU has int8 dot-product instructions, else
    /// fp32. Models then give different results on different CPUs.
    Auto,
    /// Always fp32, even if the model has an int8 variant.
    Fp32,
    /// int8 if the model has an int8 variant, else fp32.
    Int8,
}

impl PrecisionChoice {
    /// Returns the precision to load for a model that has an fp32 and an int8 variant.
    /// `has_int8_dot` is whether the CPU has int8 dot-product instructions.
    pub fn preferred(self, has_int8_dot: bool) -> Precision {
        match self {
            Self::Int8 => Precision::Int8,
            Self::Auto if has_int8_dot => Precision::Int8,
            Self::Auto | Self::Fp32 => Precision::Fp32,
        }
    }
}
