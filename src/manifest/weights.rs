//! Checkpoints that are published for a model, and the checkpoint that a model was exported from.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Resize;

/// A published checkpoint of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WeightsFile {
    /// Name among the model's checkpoints, such as `IMAGENET1K_V1`.
    pub name: String,
    /// Download address. `None` if the checkpoint is not published as a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// File of the checkpoint in the manifest's folder. `None` if the weights are not embedded in
    /// the binary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// First hexadecimal digits of the SHA-256 of the checkpoint's file.
    pub sha256_prefix: String,
    /// License under which the checkpoint is published, as an SPDX expression. `None` if its publisher states none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub license: Option<String>,
    /// Data set that the weights were trained on, whose own terms of use can apply to them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training_data: Option<String>,
    /// Number of trained parameters of the network, without buffers.
    pub parameters: u64,
    /// Published accuracy in percent, by the name of the metric.
    pub metrics: BTreeMap<String, f64>,
    /// Resize that the published accuracy was measured with. `None` if it is the resize of the
    /// model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resize: Option<Resize>,
    /// Outputs that another implementation computed from the checkpoint. `None` if there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parity: Option<Parity>,
}

/// Elements of the first output of a network for the generated input `parity`, computed by another implementation from
/// the same checkpoint. `onnx_export::formula::uniform` generates the input `[1, 3, H, W] f32`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parity {
    /// Positions of the elements in the output, in C order.
    pub elements: Vec<usize>,
    /// Their values.
    pub values: Vec<f32>,
}

/// The checkpoint that a model was exported from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// File name of the checkpoint.
    pub checkpoint: String,
    /// SHA-256 of the checkpoint, 64 hexadecimal digits.
    pub checkpoint_sha256: String,
    /// License of the weights, as an SPDX expression. `None` if it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub license: Option<String>,
    /// Data set that the weights were trained on, whose own terms of use can apply to them. `None` if it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training_data: Option<String>,
    /// Number of trained parameters of the network, without buffers.
    pub parameters: u64,
}
