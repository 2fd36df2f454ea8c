//! No postprocessing: the network's outputs as they are.

use super::{Cost, Postprocess, PostprocessInput, Timing};
use crate::engine::Tensor;
use crate::error::ServeError;
use crate::registry::LoadedModel;

/// Returns the network's outputs, for protocols whose clients postprocess themselves.
pub struct RawOutputs;

impl Postprocess for RawOutputs {
    type Output = Vec<Tensor>;

    fn cost(&self) -> Cost {
        Cost::Negligible
    }

    fn run(
        &self,
        _: &LoadedModel,
        input: PostprocessInput,
        _: &mut Timing,
    ) -> Result<Vec<Tensor>, ServeError> {
        Ok(input.outputs)
    }

    fn bytes(outputs: &Vec<Tensor>) -> usize {
        let values: usize = outputs.iter().map(|output| output.data.len()).sum();
        values * size_of::<f32>()
    }
}
