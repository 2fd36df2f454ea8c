//! Detection: a detector's outputs to boxes in the picture.

use std::sync::Arc;
use std::time::Instant;

use super::infer::{Inferred, Keep, infer};
use super::{Answer, Images, Timing, record};
use crate::app::App;
use crate::draw::{self, DrawnFormat};
use crate::error::ServeError;
use crate::image::{DecodeOptions, ImageSize, Orientation};
use crate::metrics::Stage;
use crate::pool::joined;
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
    let keep = match drawn {
        Some(_) => Keep::Pixels,
        None => Keep::Size,
    };
    let pending = infer(app, &model, images, decode, deadline, keep).await?;
    let options = Arc::new(options);
    let mut jobs = Vec::with_capacity(pending.len());
    for picture in pending {
        let inferred = picture.outputs().await?;
        let (model, options) = (Arc::clone(&model), Arc::clone(&options));
        let job = move || finish(&model, &options, drawn, inferred);
        jobs.push(app.pool.start(job).await?);
    }
    let mut timing = Timing::default();
    let mut results = Vec::with_capacity(jobs.len());
    for job in jobs {
        let (detected, stages) = joined(job).await??;
        record(&model, stages);
        results.push(detected);
        timing = timing + stages;
    }
    Ok(Answer {
        model,
        results,
        timing,
    })
}

/// The work after the network, for one picture. Runs on the picture pool.
fn finish(
    model: &LoadedModel,
    options: &DetectOptions,
    drawn: Option<DrawnFormat>,
    inferred: Inferred,
) -> Result<(Detected, Timing), ServeError> {
    let Inferred {
        outputs,
        mut timing,
        size: picture,
        pixels,
    } = inferred;
    let started = Instant::now();
    let Some(detector) = &model.detector else {
        return Err(ServeError::Internal("the model is no detector"));
    };
    let detections = detector
        .detect(&outputs, picture, options)
        .map_err(|error| {
            tracing::error!(model = model.id(), %error, "no detections");
            ServeError::Internal("no boxes can be made of what the network answered")
        })?;
    drop(outputs);
    let detected = Instant::now();
    timing[Stage::postprocess] = detected - started;
    let drawn = match (drawn, pixels) {
        (Some(format), Some(mut pixels)) => {
            draw::detections(&mut pixels.image, &detections, &model.labels);
            Some(draw::encode(&pixels.image, format).ok_or(ServeError::TooLargeToDraw { format })?)
        }
        _ => None,
    };
    timing[Stage::encode] = detected.elapsed();
    let detected = Detected {
        picture,
        detections,
        drawn,
    };
    Ok((detected, timing))
}
