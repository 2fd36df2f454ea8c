//! Classification: logits or scores become the most probable classes.

use std::time::Instant;

use super::{Cost, Postprocess, PostprocessInput, Timing, finite};
use crate::error::ServeError;
use crate::metrics::Stage;
use crate::postprocess::classify::{Prediction, classify, scores};
use crate::registry::LoadedModel;

/// Returns the most probable classes of each image, best first.
pub struct Classify {
    /// Number of classes to return, at least 1.
    pub top_k: usize,
}

impl Postprocess for Classify {
    type Output = Vec<Prediction>;

    /// Returns [`Cost::Negligible`], because the softmax of a thousand logits takes less time than
    /// waking a thread.
    fn cost(&self) -> Cost {
        Cost::Negligible
    }

    fn run(
        &self,
        model: &LoadedModel,
        input: PostprocessInput,
        timing: &mut Timing,
    ) -> Result<Vec<Prediction>, ServeError> {
        let started = Instant::now();
        let output = finite(model.manifest.task, &input.outputs)?;
        let activation = model.manifest.activation.unwrap_or_default();
        let scores = scores(&output.data, activation);
        let predictions = classify(&scores, &model.labels, self.top_k);
        timing[Stage::postprocess] = started.elapsed();
        Ok(predictions)
    }

    fn bytes(_: &Vec<Prediction>) -> usize {
        0
    }
}
