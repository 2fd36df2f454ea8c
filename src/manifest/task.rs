//! Tasks: the kinds of results that models return.

use onnx_export::architecture::Head;
use serde::{Deserialize, Serialize};

/// The kind of result that a model returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// Class labels with scores for the whole image.
    Classification,
    /// One class label per pixel.
    Segmentation,
    /// Boxes with class labels and scores.
    Detection,
}

impl Task {
    /// Every task.
    pub const ALL: [Self; 3] = [Self::Classification, Self::Segmentation, Self::Detection];

    /// Returns the task's name in manifests and responses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Classification => "classification",
            Self::Segmentation => "segmentation",
            Self::Detection => "detection",
        }
    }

    /// Returns the task of a network with this head.
    pub fn of(head: &Head) -> Self {
        match head {
            Head::Classifier => Self::Classification,
            Head::Lraspp { .. } | Head::Deeplabv3 { .. } | Head::Fcn { .. } => Self::Segmentation,
            Head::FasterRcnn(_) | Head::Retinanet(_) | Head::Ssdlite(_) => Self::Detection,
        }
    }
}
