//! Classification: logits to the most probable classes.

use std::time::Instant;

use super::{Finish, Inferred, Need, Timing, finite};
use crate::error::ServeError;
use crate::metrics::Stage;
use crate::postprocess::classify::{Prediction, classify};
use crate::registry::LoadedModel;

/// The most probable classes of each picture, best first.
pub struct Classify {
    /// Classes to answer with, at least 1.
    pub top_k: usize,
}

impl Finish for Classify {
    type Answer = Vec<Prediction>;

    /// A thousand numbers: too little to wake a thread for.
    fn need(&self) -> Need {
        Need::Nothing
    }

    fn finish(
        &self,
        model: &LoadedModel,
        inferred: Inferred,
    ) -> Result<(Vec<Prediction>, Timing), ServeError> {
        let mut timing = inferred.timing;
        let started = Instant::now();
        let logits = finite(&inferred.outputs)?;
        let predictions = classify(&logits.data, &model.labels, self.top_k);
        timing[Stage::postprocess] = started.elapsed();
        Ok((predictions, timing))
    }

    fn bytes(_: &Vec<Prediction>) -> usize {
        0
    }
}
