//! From a network's outputs to answers, one module a task.

pub mod classify;
pub mod detect;
pub mod scores;
pub mod segment;

use thiserror::Error;

use crate::engine::Tensor;
use crate::manifest::Task;

/// Outputs that do not answer a model's task.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum OutputError {
    /// As many labels as classes are needed.
    #[error("the network tells {classes} classes apart, its label file has {labels} lines")]
    Labels {
        /// Classes of the output.
        classes: usize,
        /// Lines of the label file.
        labels: usize,
    },
    /// Outputs of another form.
    #[error("expected {expected}, got outputs of shapes {got:?} for one picture")]
    Shapes {
        /// What the task needs.
        expected: &'static str,
        /// The outputs' shapes for one picture.
        got: Vec<Vec<usize>>,
    },
    /// More classes than a mask can hold.
    #[error(
        "the network tells {classes} classes apart, a mask at most {}",
        segment::MAX_CLASSES
    )]
    Classes {
        /// Classes of the output.
        classes: usize,
    },
    /// An answer that is not a number.
    #[error("the network answers a grey picture with numbers that are not finite")]
    NotFinite,
}

/// Checks what a network gave for one picture, once, when it is loaded. Segmentation networks may
/// have further outputs: auxiliary heads, which are not answered with.
///
/// # Errors
/// [`OutputError`].
pub fn check_outputs(task: Task, outputs: &[Tensor], labels: usize) -> Result<(), OutputError> {
    let shapes = |expected| OutputError::Shapes {
        expected,
        got: outputs.iter().map(|output| output.shape.clone()).collect(),
    };
    let (output, classes) = match (task, outputs) {
        (Task::Classification, [output]) if output.shape.len() == 1 => (output, output.shape[0]),
        (Task::Segmentation, [output, ..]) if output.shape.len() == 3 => (output, output.shape[0]),
        (Task::Classification, _) => return Err(shapes("logits [N, classes]")),
        (Task::Segmentation, _) => return Err(shapes("logits [N, classes, H, W]")),
        (Task::Detection, _) => return Err(shapes("another task: detectors are not served yet")),
    };
    if task == Task::Segmentation && classes > segment::MAX_CLASSES {
        return Err(OutputError::Classes { classes });
    }
    if classes != labels {
        return Err(OutputError::Labels { classes, labels });
    }
    if !output.data.iter().all(|number| number.is_finite()) {
        return Err(OutputError::NotFinite);
    }
    Ok(())
}
