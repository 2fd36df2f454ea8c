//! The memory for the tensors of all models: how much the models need, and how it is divided among
//! the loaded models.

use std::borrow::Borrow;
use std::sync::Arc;
use std::time::Instant;

use thiserror::Error;

use super::{LoadedModel, Served};
use crate::budget::Exhausted;
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
pub fn share_tensor_memory<M: Borrow<LoadedModel>>(
    models: &[M],
    total: u64,
) -> Result<(), TensorMemoryError> {
    let models: Vec<&LoadedModel> = models.iter().map(Borrow::borrow).collect();
    let division = divide(&models, total)?;
    for model in models {
        let size = division.size(model.batcher.tensor_demand());
        model.batcher.raise_tensor_memory(size);
    }
    Ok(())
}

/// Returns the division of `total` bytes of memory for tensors among `models`.
fn divide(models: &[&LoadedModel], total: u64) -> Result<Division, TensorMemoryError> {
    let demand = |model: &&LoadedModel| model.batcher.tensor_demand();
    let demands: Vec<Demand> = models.iter().map(demand).collect();
    Division::new(total, &demands).ok_or_else(|| TensorMemoryError {
        total,
        needed: Demand::sum(demands.iter().copied()).floor,
        models: models
            .iter()
            .zip(&demands)
            .map(|(model, demand)| (model.id(), demand.floor))
            .collect(),
    })
}

/// Why there is no room for the tensors of other models.
#[derive(Debug, Error)]
pub(super) enum NoRoom {
    /// The memory is too small for one image of each model.
    #[error(transparent)]
    TooSmall(#[from] TensorMemoryError),
    /// Images in work held too much memory for too long.
    #[error("images in work do not leave enough memory for the tensors of another model: {0}")]
    Held(#[from] Exhausted),
}

/// Divides `total` bytes of memory for tensors again, among the models `loaded`, which may have
/// images in work, and the models `new`, which have none. Waits until the images in work hold no more
/// than the new shares, but not longer than until `end`.
///
/// # Errors
/// [`NoRoom`] if `total` is too small, or if images in work hold too much memory at `end`. The
/// shares of the models `loaded` are unchanged in this case.
pub(super) async fn make_room(
    loaded: &[Arc<LoadedModel>],
    new: &[LoadedModel],
    total: u64,
    end: Instant,
) -> Result<(), NoRoom> {
    let all: Vec<&LoadedModel> = loaded.iter().map(|model| &**model).chain(new).collect();
    let division = divide(&all, total)?;
    for model in loaded {
        let size = division.size(model.batcher.tensor_demand());
        let lowered = model.batcher.lower_tensor_memory(size, end).await;
        if let Err(held) = lowered {
            // The models that were lowered before get their shares back.
            share_tensor_memory(loaded, total)?;
            return Err(held.into());
        }
    }
    for model in new {
        let size = division.size(model.batcher.tensor_demand());
        model.batcher.raise_tensor_memory(size);
    }
    Ok(())
}

/// Estimates the memory that the tensors of the models `served` need, before the models are loaded
/// and the sizes of their outputs are known. A model that is loaded when it is first requested needs
/// no memory until then, so it does not keep the server from starting; with enough memory there is
/// room for its full batches from the start.
pub fn expected_tensor_demand<'a>(served: impl IntoIterator<Item = &'a Served>) -> Demand {
    let demand = |served: &Served| {
        let demand = expected_demand(&served.source.manifest);
        if served.at_start {
            return demand;
        }
        Demand::new(0, demand.floor, demand.enough)
    };
    Demand::sum(served.into_iter().map(demand))
}

/// Estimates the memory that the tensors of one model need.
fn expected_demand(manifest: &ModelManifest) -> Demand {
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
}
