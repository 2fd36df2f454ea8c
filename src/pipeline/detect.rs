//! Detection: a detector's outputs to boxes in the picture.

use std::sync::Arc;
use std::time::Instant;

use super::infer::{Finish, Inferred, Source, answer};
use super::{Answer, Images, Timing};
use crate::app::App;
use crate::draw::{self, DrawnFormat};
use crate::engine::Tensor;
use crate::error::ServeError;
use crate::image::{DecodeOptions, ImageSize, Orientation};
use crate::metrics::Stage;
use crate::postprocess::detect::{DetectOptions, Detection};
use crate::registry::LoadedModel;

/// A validated request for detection.
pub struct DetectRequest {
    /// The model.
    pub model: Arc<LoadedModel>,
    /// Whether EXIF orientation counts.
    pub orientation: Orientation,
    /// Which of the objects are answered with.
    pub options: DetectOptions,
    /// Whether, and as what, the picture is drawn with its boxes.
    pub drawn: Option<DrawnFormat>,
    /// The pictures; one only, if they are drawn into.
    pub images: Images,
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

/// Detects objects in the pictures of a request.
///
/// # Errors
/// [`ServeError`] for the first picture that fails; the others are dropped from the queue.
pub async fn detect_pictures(
    app: &App,
    request: DetectRequest,
    deadline: Instant,
) -> Result<Answer<Detected>, ServeError> {
    let DetectRequest {
        model,
        orientation,
        options,
        drawn,
        images,
    } = request;
    let decode = DecodeOptions {
        max_pixels: app.limits.max_pixels,
        orientation,
    };
    let finish = Detect {
        model: Arc::clone(&model),
        options,
        drawn,
    };
    answer(app, model, images, decode, deadline, finish).await
}

struct Detect {
    model: Arc<LoadedModel>,
    options: DetectOptions,
    drawn: Option<DrawnFormat>,
}

impl Finish for Detect {
    type Answer = Detected;
    const PIXELS: bool = true;

    fn finish(&self, inferred: Inferred) -> Result<(Detected, Timing), ServeError> {
        let Inferred {
            outputs,
            mut timing,
            size: picture,
            source,
            ..
        } = inferred;
        let started = Instant::now();
        let detections = self.detections(&outputs, picture)?;
        drop(outputs);
        let detected = Instant::now();
        timing[Stage::postprocess] = detected - started;
        let drawn = match self.drawn {
            Some(format) => Some(self.draw(&detections, &source, format)?),
            None => None,
        };
        timing[Stage::encode] = detected.elapsed();
        let detected = Detected {
            picture,
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
        outputs: &[Tensor],
        picture: ImageSize,
    ) -> Result<Vec<Detection>, ServeError> {
        let Some(detector) = &self.model.detector else {
            return Err(ServeError::Internal("the model is no detector"));
        };
        let detections = detector.detect(outputs, picture, &self.options);
        detections.map_err(|error| {
            tracing::error!(model = self.model.id(), %error, "no detections");
            ServeError::Internal("no boxes can be made of what the network answered")
        })
    }

    fn draw(
        &self,
        detections: &[Detection],
        source: &Source,
        format: DrawnFormat,
    ) -> Result<Vec<u8>, ServeError> {
        let mut image = source.decode()?;
        draw::detections(&mut image, detections, &self.model.labels);
        Ok(draw::encode(&image, format)?)
    }
}
