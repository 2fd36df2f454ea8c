//! Postprocessing: from a network's output tensors to labels, boxes or masks, with one module per task.
//!
//! The functions are pure: they see neither sockets nor sessions.

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
    /// The numbers of classes and of labels differ.
    #[error("the model's output has {classes} classes, but its label file has {labels} lines")]
    Labels {
        /// Number of classes in the output.
        classes: usize,
        /// Number of lines in the label file.
        labels: usize,
    },
    /// The outputs do not have the shape that the task needs.
    #[error("the model's output must be {expected}, got outputs of shapes {got:?} for one image")]
    Shapes {
        /// The shape that the task needs.
        expected: &'static str,
        /// The outputs' shapes for one image, without the batch axis.
        got: Vec<Vec<usize>>,
    },
    /// A detection model's manifest does not say how to decode its outputs.
    #[error(
        "cannot decode boxes: the model.toml of a detection model needs an `architecture` with a detection head and a `[detection]` table"
    )]
    NoDetector,
    /// More classes than a mask can hold.
    #[error(
        "the model's output has {classes} classes, but a mask has at most {}",
        segment::MAX_CLASSES
    )]
    Classes {
        /// Number of classes in the output.
        classes: usize,
    },
    /// The outputs do not fit the model's anchors or default boxes.
    #[error(transparent)]
    Detect(#[from] detect::DetectError),
    /// The output is not a valid tensor of class scores, or no mask can be computed from it.
    #[error(transparent)]
    Segment(#[from] segment::SegmentError),
    /// The output that the task reads is missing or has another data type.
    #[error(transparent)]
    Access(#[from] OutputAccessError),
    /// The outputs for the gray test image contain NaN or infinity.
    #[error("the model's outputs for a uniform gray image contain NaN or infinite values")]
    NotFinite,
}

/// Returns the output that a task reads: `logits` for classification, `out` for segmentation, or the first output if
/// the network has none of that name.
///
/// # Errors
/// [`OutputAccessError`] if there are no outputs, or if the output's data type is not f32.
pub fn primary_output(task: Task, outputs: &Outputs) -> Result<&Tensor, OutputAccessError> {
    outputs.f32_or_first(match task {
        Task::Segmentation => "out",
        Task::Classification | Task::Detection => "logits",
    })
}

/// Checks a network's outputs for one test image against its task and the number of `labels`, when a
/// model is loaded. Further outputs of a segmentation network (auxiliary heads) are ignored.
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
        (Task::Classification, _) => return Err(shapes("logits [N, classes]")),
        (Task::Segmentation, _) => return Err(shapes("logits [N, classes, H, W]")),
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
