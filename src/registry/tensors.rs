//! The memory for the tensors of all models: how much the models need, and how it is divided among
//! the loaded models.

use thiserror::Error;

use super::LoadedModel;
use crate::image::Preprocessor;
use crate::manifest::{ModelManifest, Task};
use crate::memory::{Demand, Division, TENSOR_BYTES_PER_MODEL};

/// Memory in bytes for the tensors of a model that suffices for full batches, unless the model's
/// largest image alone needs more.
const FULL_BATCH_BYTES: u64 = 32 << 20;
/// Memory of the input and outputs of one image of a detector, as a multiple of its input: the
/// outputs of `RetinaNet` are 6 times as large as its input.
const DETECTOR_INPUTS: u64 = 7;
/// Memory of the input and outputs of one image of a model that is not a detector, as a multiple of
/// its input.
const USUAL_INPUTS: u64 = 2;

/// The memory for tensors is too small for the tensors of one largest image of each model.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "the memory for tensors of {total} bytes is too small for the loaded models: one image of each needs {needed} \
     ({}); set `tensor_memory_bytes` to at least {needed}, or load fewer models",
    .models.iter().map(|(model, bytes)| format!("{model}: {bytes}")).collect::<Vec<_>>().join(", ")
)]
pub struct TensorMemoryError {
    /// Memory for the tensors of all models, in bytes.
    pub total: u64,
    /// The smallest memory for the tensors of all models that suffices, in bytes.
    pub needed: u64,
    /// Each model as `name@variant`, and the memory in bytes that the tensors of its largest image
    /// need.
    pub models: Vec<(String, u64)>,
}

/// Divides `total` bytes of memory for tensors among the loaded models `models`, which must not
/// have images in work yet. Each model has its own share, so that images of one model never wait
/// for memory that images of another model hold.
///
/// # Errors
/// [`TensorMemoryError`] if `total` is too small for one image of each model.
pub fn share_tensor_memory(models: &[LoadedModel], total: u64) -> Result<(), TensorMemoryError> {
    let demands: Vec<Demand> = models
        .iter()
        .map(|model| model.batcher.tensor_demand())
        .collect();
    let division = Division::new(total, &demands).ok_or_else(|| TensorMemoryError {
        total,
        needed: Demand::sum(demands.iter().copied()).floor,
        models: models
            .iter()
            .zip(&demands)
            .map(|(model, demand)| (model.id(), demand.floor))
            .collect(),
    })?;
    for (model, demand) in models.iter().zip(&demands) {
        model.batcher.raise_tensor_memory(division.size(*demand));
    }
    Ok(())
}

/// Estimates the memory that the tensors of the models with these manifests need, before the models
/// are loaded and the sizes of their outputs are known.
pub fn expected_tensor_demand<'a>(
    manifests: impl IntoIterator<Item = &'a ModelManifest>,
) -> Demand {
    let demand = |manifest: &ModelManifest| {
        let pixels = Preprocessor::new(&manifest.preprocess).largest_pixels();
        let input = pixels * 3 * size_of::<f32>() as u64;
        let inputs = match manifest.task {
            Task::Detection => DETECTOR_INPUTS,
            _ => USUAL_INPUTS,
        };
        Demand::new(
            input,
            (inputs * input).max(FULL_BATCH_BYTES),
            TENSOR_BYTES_PER_MODEL,
        )
    };
    Demand::sum(manifests.into_iter().map(demand))
}
