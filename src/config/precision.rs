//! The precision of a model that is named without a variant.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::cpu::has_int8_dot;
use crate::manifest::Precision;

/// How to choose the precision of a model that is named without a variant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PrecisionChoice {
    /// int8 if the model has an int8 variant and the CPU has int8 dot-product instructions, else
    /// fp32.
    #[default]
    Auto,
    /// Always fp32, even if the model has an int8 variant.
    Fp32,
    /// int8 if the model has an int8 variant, else fp32.
    Int8,
}

impl PrecisionChoice {
    /// Returns the precision to load on this CPU for a model that has an fp32 and an int8 variant.
    pub fn preferred(self) -> Precision {
        match self {
            Self::Int8 => Precision::Int8,
            Self::Auto if has_int8_dot() => Precision::Int8,
            Self::Auto | Self::Fp32 => Precision::Fp32,
        }
    }
}
