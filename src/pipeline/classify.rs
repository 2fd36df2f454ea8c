//! Classification: logits to the most probable classes.

use std::sync::Arc;
use std::time::Instant;

use super::infer::{Keep, infer};
use super::{Answer, Images, Timing, finite, record};
use crate::app::App;
use crate::error::ServeError;
use crate::image::{DecodeOptions, Orientation};
use crate::metrics::Stage;
use crate::postprocess::classify::{Prediction, classify};
use crate::registry::LoadedModel;

/// A validated request for classification.
pub struct ClassifyRequest {
    /// The model.
    pub model: Arc<LoadedModel>,
    /// Classes to answer with, at least 1.
    pub top_k: usize,
    /// Whether EXIF orientation counts.
    pub orientation: Orientation,
    /// The pictures.
    pub images: Images,
}

/// Classifies the pictures of a request.
///
/// # Errors
/// [`ServeError`] for the first picture that fails; the others are dropped from the queue.
pub async fn classify_pictures(
    app: &App,
    request: ClassifyRequest,
    deadline: Instant,
) -> Result<Answer<Vec<Prediction>>, ServeError> {
    let ClassifyRequest {
        model,
        top_k,
        orientation,
        images,
    } = request;
    let options = DecodeOptions {
        max_pixels: app.limits.max_pixels,
        orientation,
    };
    let pending = infer(app, &model, images, options, deadline, Keep::Size).await?;
    let mut timing = Timing::default();
    let mut results = Vec::with_capacity(pending.len());
    for picture in pending {
        let mut inferred = picture.outputs().await?;
        let started = Instant::now();
        let logits = finite(&inferred.outputs)?;
        results.push(classify(&logits.data, &model.labels, top_k));
        inferred.timing[Stage::postprocess] = started.elapsed();
        record(&model, inferred.timing);
        timing = timing + inferred.timing;
    }
    Ok(Answer {
        model,
        results,
        timing,
    })
}
