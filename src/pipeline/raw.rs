//! No postprocessing: the network's outputs as they are.

use super::{Cost, Postprocess, PostprocessInput, Timing};
use crate::engine::{Output, Outputs};
use crate::error::ServeError;
use crate::registry::LoadedModel;

/// Returns the network's outputs, for protocols whose clients postprocess the outputs themselves.
pub struct RawOutputs;

impl Postprocess for RawOutputs {
    type Output = Outputs;

    fn cost(&self) -> Cost {
        Cost::Negligible
    }

    fn run(
        &self,
        _: &LoadedModel,
        input: PostprocessInput,
        _: &mut Timing,
    ) -> Result<Outputs, ServeError> {
        Ok(input.outputs)
    }

    fn bytes(outputs: &Outputs) -> usize {
        outputs.iter().map(Output::bytes).sum()
    }
}
