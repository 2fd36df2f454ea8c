//! Postprocessing: from a network's output tensors to labels, boxes or masks, with one module per
//! task.
//!
//! The functions only compute on tensors: they use neither sockets nor ONNX Runtime's sessions.

pub mod classify;
pub mod detect;
pub mod scores;
pub mod segment;

use thiserror::Error;

use crate::engine::{OutputAccessError, Outputs, Tensor};
use crate::manifest::Task;

/// The reason why a network's outputs cannot be used for the model's task.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum OutputError {
    /// The number of classes in the model's output is not the number of lines in its label file.
    #[error("the model's output has {classes} classes, but its label file has {labels} lines")]
    Labels {
        /// Number of classes in the output.
        classes: usize,
        /// Number of lines in the label file.
        labels: usize,
    },
    /// The model's outputs do not have the shapes that its task requires.
    #[error("the model's outputs for one image must be {expected}, got tensors of shapes {got:?}")]
    Shapes {
        /// The outputs for one image that the task requires, without the batch axis.
        expected: &'static str,
        /// The shapes of the outputs for one image, without the batch axis.
        got: Vec<Vec<usize>>,
    },
    /// The manifest of a detection model lacks the settings that are needed to decode its outputs.
    #[error(
        "cannot decode boxes: the model.toml of a detection model needs an `architecture` with a detection head and a `[detection]` table"
    )]
    NoDetector,
    /// The output of a segmentation model has more classes than a mask can hold.
    #[error(
        "the segmentation model's output has {classes} classes, but a mask can hold at most {}",
        segment::MAX_CLASSES
    )]
    Classes {
        /// Number of classes in the output.
        classes: usize,
    },
    /// No boxes can be computed from the outputs of a detection model.
    #[error(transparent)]
    Detect(#[from] detect::DetectError),
    /// The output of a segmentation model is not a valid tensor of class scores, or no mask can be
    /// computed from it.
    #[error(transparent)]
    Segment(#[from] segment::SegmentError),
    /// The output that the task reads is missing or is not of the data type f32.
    #[error(transparent)]
    Access(#[from] OutputAccessError),
    /// The outputs for the uniform gray test image contain NaN or infinite values.
    #[error(
        "the outputs for a uniform gray test image contain NaN or infinity: check the model's weights"
    )]
    NotFinite,
}

/// Returns the output that a task reads: `out` for segmentation, `logits` for the other tasks. If
/// the network has no output of this name, returns its first output.
///
/// # Errors
/// [`OutputAccessError`] if there are no outputs, or if the output's data type is not f32.
pub fn primary_output(task: Task, outputs: &Outputs) -> Result<&Tensor, OutputAccessError> {
    outputs.f32_or_first(match task {
        Task::Segmentation => "out",
        Task::Classification | Task::Detection => "logits",
    })
}

/// Checks the outputs of a classification or segmentation network for one test image, when a model
/// is loaded: their shape, their values, and the number of classes, which must be `labels`. Further
/// outputs of a segmentation network (auxiliary heads) are ignored.
///
/// Detection models are checked by [`detect::Detector::check`] instead.
///
/// # Errors
/// [`OutputError`] if the outputs do not fit the task or the labels, or are not finite.
pub fn check_outputs(task: Task, outputs: &Outputs, labels: usize) -> Result<(), OutputError> {
    let shapes = |expected| OutputError::Shapes {
        expected,
        got: outputs
            .iter()
            .map(|output| output.shape().to_vec())
            .collect(),
    };
    let output = primary_output(task, outputs)?;
    let classes = match (task, &output.shape[..]) {
        (Task::Classification, [classes]) if outputs.len() == 1 => *classes,
        (Task::Segmentation, [classes, _, _]) => *classes,
        (Task::Classification, _) => return Err(shapes("one tensor of logits [classes]")),
        (Task::Segmentation, _) => return Err(shapes("logits [classes, H, W]")),
        (Task::Detection, _) => return Err(OutputError::NoDetector),
    };
    if task == Task::Segmentation && classes > segment::MAX_CLASSES {
        return Err(OutputError::Classes { classes });
    }
    if classes != labels {
        return Err(OutputError::Labels { classes, labels });
    }
    if !output.data.iter().all(|value| value.is_finite()) {
        return Err(OutputError::NotFinite);
    }
    Ok(())
}
