//! Embeddings: the pooled features that a classification network computes before it classifies.

use std::time::Instant;

use super::{Cost, Postprocess, PostprocessInput, Timing};
use crate::engine::EMBEDDING;
use crate::error::ServeError;
use crate::metrics::Stage;
use crate::registry::LoadedModel;

/// Returns the pooled features of each image, `[D] f32`.
pub struct Embed {
    /// Whether the features are divided by their Euclidean length.
    pub normalize: bool,
}

impl Postprocess for Embed {
    type Output = Vec<f32>;

    fn cost(&self) -> Cost {
        Cost::Negligible
    }

    fn reads_embedding(&self) -> bool {
        true
    }

    fn run(
        &self,
        _: &LoadedModel,
        mut input: PostprocessInput,
        timing: &mut Timing,
    ) -> Result<Vec<f32>, ServeError> {
        let started = Instant::now();
        let output = input.outputs.take(EMBEDDING);
        let features = output.and_then(|output| output.into_f32().ok());
        let features = features.ok_or(ServeError::Internal("the model produced no embedding"))?;
        let mut features = features.data;
        if !features.iter().all(|value| value.is_finite()) {
            return Err(ServeError::Internal(
                "the model produced NaN or infinite features",
            ));
        }
        if self.normalize {
            normalize(&mut features);
        }
        timing[Stage::postprocess] = started.elapsed();
        Ok(features)
    }

    fn bytes(features: &Vec<f32>) -> usize {
        size_of_val(&features[..])
    }
}

/// Divides `features` by their Euclidean length, so that the dot product of two embeddings is their cosine similarity.
/// Features that are all 0 stay so.
///
/// Source: `torch.nn.functional.normalize`.
fn normalize(features: &mut [f32]) {
    let square = |value: &f32| f64::from(*value) * f64::from(*value);
    let length = features.iter().map(square).sum::<f64>().sqrt();
    // The smallest length of torch.
    let length = length.max(1e-12);
    for value in features {
        *value = (f64::from(*value) / length) as f32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalized_features_have_unit_length() {
        let cases: [(&[f32], &[f32]); 4] = [
            (&[3.0, 4.0], &[0.6, 0.8]),
            (&[0.0, 0.0], &[0.0, 0.0]),
            (&[1e30, 0.0], &[1.0, 0.0]),
            (&[], &[]),
        ];
        for (features, expected) in cases {
            let mut normalized = features.to_vec();
            normalize(&mut normalized);
            assert_eq!(normalized, expected);
        }
    }
}
