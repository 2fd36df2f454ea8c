//! What the output of a classification network already is.

use serde::{Deserialize, Serialize};

/// The last operation of a classification network, which says what is left to do for scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// The output is logits. Scores are their softmax.
    #[default]
    None,
    /// The output is probabilities: values of 0 to 1 whose sum is 1. They are the scores.
    Softmax,
    /// The output is one independent score of 0 to 1 per class, as for images with several labels.
    Sigmoid,
}

impl Activation {
    /// Returns the name in manifests.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Softmax => "softmax",
            Self::Sigmoid => "sigmoid",
        }
    }
}
