//! Detection: a detector's outputs become boxes in the image.

use std::time::Instant;

use super::input::check_drawable;
use super::{Cost, Input, Postprocess, PostprocessInput, Timing};
use crate::draw::{self, Drawing};
use crate::engine::Outputs;
use crate::error::ServeError;
use crate::image::ImageSize;
use crate::metrics::Stage;
use crate::postprocess::detect::{DetectError, DetectOptions, Detection};
use crate::registry::LoadedModel;

/// Returns the objects of each image as boxes, and the image with the boxes drawn in if `drawn` is
/// set.
pub struct Detect {
    /// Thresholds, maximum number of detections, and classes to return.
    pub options: DetectOptions,
    /// Format and style of the image with the boxes drawn in. `None` if nothing is drawn.
    pub drawn: Option<Drawing>,
}

/// The detections of one image.
#[derive(Debug, Clone, PartialEq)]
pub struct Detected {
    /// Size of the image after it is decoded and, unless the request disables it, rotated as its
    /// metadata state. Boxes are in pixels of the image of this size.
    pub image: ImageSize,
    /// The detections, best first.
    pub detections: Vec<Detection>,
    /// The image with the boxes drawn in, as a file. `None` if [`Detect::drawn`] is `None`.
    pub drawn: Option<Vec<u8>>,
}

impl Postprocess for Detect {
    type Output = Detected;

    fn cost(&self) -> Cost {
        match self.drawn {
            Some(_) => Cost::Image,
            None => Cost::Thread,
        }
    }

    fn check(&self, inputs: &[Input]) -> Result<(), ServeError> {
        match self.drawn {
            Some(_) => check_drawable(inputs),
            None => Ok(()),
        }
    }

    fn run(
        &self,
        model: &LoadedModel,
        mut input: PostprocessInput,
        timing: &mut Timing,
    ) -> Result<Detected, ServeError> {
        let started = Instant::now();
        let outputs = std::mem::take(&mut input.outputs);
        let detections = self.detections(model, &outputs, &input)?;
        drop(outputs);
        let detected = Instant::now();
        let drawn = match self.drawn {
            Some(Drawing { format, style }) => {
                let mut image = input.decode()?;
                draw::detections(&mut image, &detections, &model.labels, style, &input.cancel)?;
                Some(draw::encode(&image, format, &input.cancel)?)
            }
            None => None,
        };
        timing[Stage::postprocess] = detected - started;
        timing[Stage::encode] = detected.elapsed();
        Ok(Detected {
            image: input.size,
            detections,
            drawn,
        })
    }

    fn bytes(detected: &Detected) -> usize {
        let boxes = detected.detections.len() * size_of::<Detection>();
        boxes + detected.drawn.as_ref().map_or(0, Vec::len)
    }
}

impl Detect {
    fn detections(
        &self,
        model: &LoadedModel,
        outputs: &Outputs,
        input: &PostprocessInput,
    ) -> Result<Vec<Detection>, ServeError> {
        let Some(detector) = &model.detector else {
            return Err(ServeError::Internal("the model is not a detector"));
        };
        let detections = detector.detect(outputs, input.size, &self.options, &input.cancel);
        detections.map_err(|error| match error {
            DetectError::Cancelled(cancelled) => cancelled.into(),
            error => {
                tracing::error!(model = model.id(), %error, "detector outputs rejected");
                ServeError::Internal("the model's outputs cannot be decoded to boxes")
            }
        })
    }
}
