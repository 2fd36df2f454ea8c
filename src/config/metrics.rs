//! Which metrics of other servers are exported in addition.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// A server whose metrics are exported in addition to the own ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MetricsCompat {
    /// NVIDIA Triton Inference Server: `nv_inference_*`.
    Triton,
}
