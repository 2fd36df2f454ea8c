//! Postprocessing of one image: the network's outputs that are wanted, and the result of the model's task.

use std::sync::Arc;
use std::time::Instant;

use super::face::Face;
use super::inputs::Inputs;
use super::outputs::Plan;
use crate::engine::{EMBEDDING, Output};
use crate::error::ServeError;
use crate::image::ImageSize;
use crate::manifest::Task;
use crate::metrics::Stage;
use crate::pipeline::{
    Classify, Cost, Detect, Detected, Input, MaskSize, Postprocess, PostprocessInput, Segment,
    Timing, check_masks, finite,
};
use crate::postprocess::classify::Prediction;
use crate::registry::LoadedModel;

/// Returns outputs of the network, the result of the task, or both.
pub(super) struct Answer {
    /// Names of the network's outputs to return.
    pub(super) raw: Vec<Arc<str>>,
    /// Computes the result of the task. `None` if it is not wanted.
    pub(super) task: Option<TaskAnswer>,
    /// Whether the client has preprocessed the image, so that outputs that are not finite are its fault.
    pub(super) prepared: bool,
}

/// The postprocessing of a task.
pub(super) enum TaskAnswer {
    Classes(Classify),
    Boxes(Detect),
    Mask(Segment),
}

/// The results of one image.
pub(super) struct ImageResult {
    /// The network's outputs in the order of [`Answer::raw`].
    pub(super) raw: Vec<Output>,
    /// `None` if the result of the task is not wanted.
    pub(super) task: Option<TaskResult>,
}

/// The result of a task for one image.
pub(super) enum TaskResult {
    Classes(Vec<Prediction>),
    Boxes(Detected),
    Mask {
        size: ImageSize,
        /// Class of each pixel, row by row.
        classes: Vec<u8>,
    },
}

impl Postprocess for Answer {
    type Output = ImageResult;

    fn cost(&self) -> Cost {
        match &self.task {
            None => Cost::Negligible,
            Some(TaskAnswer::Classes(classes)) => classes.cost(),
            Some(TaskAnswer::Boxes(boxes)) => boxes.cost(),
            Some(TaskAnswer::Mask(_)) => Cost::Pixels,
        }
    }

    fn reads_embedding(&self) -> bool {
        self.raw.iter().any(|name| **name == *EMBEDDING)
    }

    fn check(&self, inputs: &[Input]) -> Result<(), ServeError> {
        match &self.task {
            Some(TaskAnswer::Mask(segment)) if segment.size == MaskSize::Input => {
                check_masks(inputs)
            }
            _ => Ok(()),
        }
    }

    fn run(
        &self,
        model: &LoadedModel,
        mut input: PostprocessInput,
        timing: &mut Timing,
    ) -> Result<ImageResult, ServeError> {
        let raw = self.raw(&mut input)?;
        let Some(task) = &self.task else {
            return Ok(ImageResult { raw, task: None });
        };
        if self.prepared && model.manifest.task != Task::Detection {
            check_finite(model, &input)?;
        }
        let result = match task {
            TaskAnswer::Classes(classes) => TaskResult::Classes(classes.run(model, input, timing)?),
            TaskAnswer::Boxes(boxes) => TaskResult::Boxes(boxes.run(model, input, timing)?),
            TaskAnswer::Mask(segment) => {
                let started = Instant::now();
                let scores = finite(model.manifest.task, &input.outputs)?;
                let mask = segment.mask(model, scores, &input)?;
                timing[Stage::postprocess] = started.elapsed();
                TaskResult::Mask {
                    size: mask.size(),
                    classes: mask.into_classes(),
                }
            }
        };
        Ok(ImageResult {
            raw,
            task: Some(result),
        })
    }

    fn bytes(result: &ImageResult) -> usize {
        result.bytes()
    }
}

impl ImageResult {
    /// Returns the memory of the results in bytes.
    pub(super) fn bytes(&self) -> usize {
        let raw: usize = self.raw.iter().map(Output::bytes).sum();
        raw + match &self.task {
            Some(TaskResult::Mask { classes, .. }) => classes.len(),
            Some(TaskResult::Boxes(boxes)) => Detect::bytes(boxes),
            Some(TaskResult::Classes(_)) | None => 0,
        }
    }
}

impl Answer {
    /// Returns the postprocessing for `plan`, which has `task` among its steps only if a part of its result is wanted.
    ///
    /// # Errors
    /// [`ServeError::BadParameter`] if boxes are wanted for a tensor whose size the model's preprocessing would change: they
    /// would not be in pixels of the tensor.
    pub(super) fn new(
        model: &LoadedModel,
        inputs: &Inputs,
        plan: &Plan,
        mut task: TaskAnswer,
    ) -> Result<Self, ServeError> {
        let prepared = inputs.face == Face::Tensor;
        if let TaskAnswer::Classes(classes) = &mut task {
            classes.top_k = classes.top_k.max(plan.most_classes());
        }
        let task = plan.wants_task().then_some(task);
        if let (Some(TaskAnswer::Boxes(_)), Some(Input::Raw(tensor))) =
            (&task, inputs.images.first())
        {
            check_unresized(model, tensor.size())?;
        }
        Ok(Self {
            raw: plan.raw.clone(),
            task,
            prepared,
        })
    }

    /// Returns the wanted outputs of the network. They are copied only if the task needs the outputs, too.
    fn raw(&self, input: &mut PostprocessInput) -> Result<Vec<Output>, ServeError> {
        let missing = ServeError::Internal("the model did not return one of its outputs");
        let copied = self.task.is_some();
        let output = |name: &Arc<str>| {
            if copied {
                input.outputs.get(name).ok().cloned()
            } else {
                input.outputs.take(name)
            }
        };
        let outputs: Option<Vec<Output>> = self.raw.iter().map(output).collect();
        outputs.ok_or(missing)
    }
}

/// Checks that the network's output for an image that the client has preprocessed is finite.
fn check_finite(model: &LoadedModel, input: &PostprocessInput) -> Result<(), ServeError> {
    let finite = finite(model.manifest.task, &input.outputs);
    finite.map(|_| ()).map_err(|_| ServeError::BadParameter {
        field: "input".to_owned(),
        expected: "normalized values, for which the network's outputs are finite".to_owned(),
        got: "values whose outputs are NaN or infinite".to_owned(),
    })
}

/// Checks that a detector's preprocessing keeps images of `size` as they are, apart from padding.
fn check_unresized(model: &LoadedModel, size: ImageSize) -> Result<(), ServeError> {
    let resize = model.preprocessor.detector_resize();
    let sizes = resize.and_then(|resize| resize.sizes(size).ok());
    if sizes.is_some_and(|sizes| sizes.resized == size) {
        return Ok(());
    }
    Err(ServeError::BadParameter {
        field: "inputs[0].shape".to_owned(),
        expected: "a size that the model's resize keeps, or only outputs of the network".to_owned(),
        got: format!("{} x {} pixels", size.width, size.height),
    })
}
