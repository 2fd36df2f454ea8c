//! Detection: a detector's outputs to boxes in the picture.

use std::time::Instant;

use super::{Finish, Inferred, Need, Timing};
use crate::draw::{self, DrawnFormat};
use crate::engine::Tensor;
use crate::error::ServeError;
use crate::image::ImageSize;
use crate::metrics::Stage;
use crate::postprocess::detect::{DetectOptions, Detection};
use crate::registry::LoadedModel;

/// The objects of each picture.
pub struct Detect {
    /// Which of the objects are answered with.
    pub options: DetectOptions,
    /// Whether, and as what, the picture is drawn with its boxes.
    pub drawn: Option<DrawnFormat>,
}

/// The answer for one picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Detected {
    /// Size of the picture as a viewer shows it; boxes are in its pixels.
    pub picture: ImageSize,
    /// The objects, best first.
    pub detections: Vec<Detection>,
    /// The picture with the boxes drawn in, as an image file.
    pub drawn: Option<Vec<u8>>,
}

impl Finish for Detect {
    type Answer = Detected;

    fn need(&self) -> Need {
        match self.drawn {
            Some(_) => Need::Picture,
            None => Need::Thread,
        }
    }

    fn finish(
        &self,
        model: &LoadedModel,
        mut inferred: Inferred,
    ) -> Result<(Detected, Timing), ServeError> {
        let started = Instant::now();
        let outputs = std::mem::take(&mut inferred.outputs);
        let detections = self.detections(model, &outputs, inferred.size)?;
        drop(outputs);
        let detected = Instant::now();
        let drawn = match self.drawn {
            Some(format) => {
                let mut image = inferred.decode()?;
                draw::detections(&mut image, &detections, &model.labels);
                Some(draw::encode(&image, format)?)
            }
            None => None,
        };
        let mut timing = inferred.timing;
        timing[Stage::postprocess] = detected - started;
        timing[Stage::encode] = detected.elapsed();
        let detected = Detected {
            picture: inferred.size,
            detections,
            drawn,
        };
        Ok((detected, timing))
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
        outputs: &[Tensor],
        picture: ImageSize,
    ) -> Result<Vec<Detection>, ServeError> {
        let Some(detector) = &model.detector else {
            return Err(ServeError::Internal("the model is no detector"));
        };
        let detections = detector.detect(outputs, picture, &self.options);
        detections.map_err(|error| {
            tracing::error!(model = model.id(), %error, "no detections");
            ServeError::Internal("no boxes can be made of what the network answered")
        })
    }
}
