//! The memory for loaded models: which of them are unloaded to make room for others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use thiserror::Error;

use super::LoadedModel;
use super::entry::Entry;
use super::models::Shared;
use crate::memory::ByteSize;
use crate::store::{ModelRef, ModelSource};

/// Expected memory of a model that was never loaded, in bytes per byte of its files: the weights,
/// and as much again for the activations of its workers.
const EXPECTED_PER_BYTE: u64 = 2;

/// The limit on the memory of the loaded models, and the models that are never unloaded for it.
#[derive(Default)]
pub struct ModelMemory {
    /// Memory in bytes. `None` if it is not limited.
    total: Option<u64>,
    /// Models that stay loaded.
    pinned: Vec<ModelRef>,
    /// Memory in bytes that models took when they were loaded, by `name@variant`.
    measured: Mutex<HashMap<String, u64>>,
}

/// The memory for models is too small, even if all models are unloaded that may be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "the model needs {} of memory, but of the {} for models (`model_memory`) {} are used by models that stay loaded: \
     raise `model_memory`, or pin fewer models",
    ByteSize(*.needed), ByteSize(*.total), ByteSize(*.used)
)]
pub struct OverModelMemory {
    needed: u64,
    total: u64,
    used: u64,
}

impl ModelMemory {
    /// Returns a limit of `total` bytes, or none if it is `None`. The models `pinned` are not
    /// unloaded for it.
    pub fn new(total: Option<u64>, pinned: Vec<ModelRef>) -> Self {
        Self {
            total,
            pinned,
            measured: Mutex::default(),
        }
    }

    pub(super) fn is_limited(&self) -> bool {
        self.total.is_some()
    }

    pub(super) fn is_pinned(&self, source: &ModelSource) -> bool {
        self.pinned.iter().any(|pinned| pinned.names(source))
    }

    /// Returns the memory in bytes that `source` is expected to take when it is loaded.
    pub(super) fn expected(&self, source: &ModelSource) -> u64 {
        let measured = self.measured.lock();
        let measured = measured.unwrap_or_else(PoisonError::into_inner);
        let estimate = || source.file_bytes().unwrap_or_default() * EXPECTED_PER_BYTE;
        measured.get(&source.id()).copied().unwrap_or_else(estimate)
    }

    /// Checks that `needed` bytes fit beside `used` bytes, which stay in use.
    pub(super) fn check(&self, needed: u64, used: u64) -> Result<(), OverModelMemory> {
        match self.total {
            Some(total) if used.saturating_add(needed) > total => Err(OverModelMemory {
                needed,
                total,
                used,
            }),
            _ => Ok(()),
        }
    }

    pub(super) fn measure(&self, model: &LoadedModel) {
        let measured = self.measured.lock();
        let mut measured = measured.unwrap_or_else(PoisonError::into_inner);
        if let Some(bytes) = model.memory_bytes {
            measured.insert(model.id(), bytes);
        }
    }
}

impl Shared {
    /// Unloads the models that were not used for the longest time until `needed` bytes fit the
    /// memory for models. The entries `leaving` do not count: they are about to be replaced.
    ///
    /// # Errors
    /// [`OverModelMemory`] if pinned models leave too little. Nothing is unloaded in this case.
    pub(super) fn evict_for(
        &self,
        needed: u64,
        leaving: &[Arc<Entry>],
    ) -> Result<(), OverModelMemory> {
        let models = &self.loads.models;
        let Some(total) = models.total else {
            return Ok(());
        };
        let snapshot = self.snapshot();
        let bytes = |entry: &Arc<Entry>| Some(entry.model()?.memory_bytes.unwrap_or_default());
        let staying = |entry: &&Arc<Entry>| !leaving.iter().any(|other| Arc::ptr_eq(other, entry));
        let loaded = snapshot.entries().iter().filter(staying);
        let loaded = loaded.filter_map(|entry| Some((entry, bytes(entry)?)));
        let (pinned, mut others): (Vec<_>, Vec<_>) =
            loaded.partition(|(entry, _)| models.is_pinned(entry.source()));
        let sum = |list: &[(&Arc<Entry>, u64)]| list.iter().map(|(_, bytes)| bytes).sum::<u64>();
        let pinned = sum(&pinned);
        models.check(needed, pinned)?;
        let mut used = pinned + sum(&others) + needed;
        others.sort_by_key(|(entry, _)| entry.used());
        for (entry, bytes) in others {
            if used <= total {
                break;
            }
            if entry.evict() {
                used -= bytes;
                self.loads.metrics.unloaded(entry.label());
                let model = entry.id();
                tracing::info!(model, memory_bytes = bytes, "model unloaded to make room");
            }
        }
        Ok(())
    }
}
