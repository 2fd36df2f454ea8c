//! Classification: logits to the most probable classes.

use std::sync::Arc;
use std::time::Instant;

use super::infer::{Finish, Inferred, answer};
use super::{Answer, Images, Timing, finite};
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
    let finish = Classify {
        model: Arc::clone(&model),
        top_k,
    };
    answer(app, model, images, options, deadline, finish).await
}

struct Classify {
    model: Arc<LoadedModel>,
    top_k: usize,
}

impl Finish for Classify {
    type Answer = Vec<Prediction>;
    /// A thousand numbers: too little to wake a thread for.
    const PIXELS: bool = false;

    fn finish(&self, inferred: Inferred) -> Result<(Vec<Prediction>, Timing), ServeError> {
        let mut timing = inferred.timing;
        let started = Instant::now();
        let logits = finite(&inferred.outputs)?;
        let predictions = classify(&logits.data, &self.model.labels, self.top_k);
        timing[Stage::postprocess] = started.elapsed();
        Ok((predictions, timing))
    }

    fn bytes(_: &Vec<Prediction>) -> usize {
        0
    }
}
