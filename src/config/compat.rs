//! Which routes of other servers are served in addition.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// A server whose routes are served in addition to the own ones, so that its clients work unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lowercase")]
pub enum Compat {
    /// `DeepStack` and `CodeProject.AI`: `/v1/vision/detection`.
    DeepStack,
    /// `TorchServe`: `/predictions/{model}` and `/ping`.
    TorchServe,
}
