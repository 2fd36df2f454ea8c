//! The registry: the variants that the server serves now, and the requests' access to them.

use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::change::Known;
use super::entry::Entry;
use super::loads::Loads;
use super::operations::Operations;
use super::snapshot::Snapshot;
use super::{LoadedModel, TensorMemoryError, share_tensor_memory};
use crate::config::ConfigError;
use crate::defaults::{DefaultModel, Defaults};
use crate::error::ServeError;
use crate::store::ModelSource;

/// The served models. A request takes a [`Snapshot`] and keeps the entry that it finds there, so
/// that models can change while it runs. Clones share the same models.
#[derive(Clone)]
pub struct Registry(pub(super) Arc<Shared>);

/// The choice of the default models, from the settings.
#[derive(Debug, Clone, Default)]
pub struct DefaultRules {
    /// Default models that a setting names. A change that would remove one of them, or give it
    /// another task, is an error.
    pub configured: Vec<DefaultModel>,
    /// Whether `--model` names the served models.
    pub named: bool,
}

impl DefaultRules {
    fn choose(&self, entries: &[Arc<Entry>]) -> Result<Defaults, ConfigError> {
        let sources: Vec<&ModelSource> = entries.iter().map(|entry| entry.source()).collect();
        Defaults::choose(&self.configured, &sources, self.named)
    }
}

/// The state of a registry, which the tasks that load models share with the requests.
pub(super) struct Shared {
    /// Replaced as a whole. The lock is held for the time of a copy.
    snapshot: RwLock<Arc<Snapshot>>,
    defaults: DefaultRules,
    pub(super) loads: Loads,
    /// One operation at a time for each model.
    pub(super) operations: Operations,
    /// Held while memory is divided among the models and while the snapshot changes.
    pub(super) room: tokio::sync::Mutex<()>,
    /// Files of the models, as they were when they were loaded.
    pub(super) known: Mutex<Known>,
}

impl Registry {
    /// Returns a registry of `entries`, in this order, without default models. A request for an
    /// entry that is not loaded fails.
    pub fn new(entries: Vec<Entry>) -> Self {
        let entries = entries.into_iter().map(Arc::new).collect();
        let snapshot = Snapshot::new(entries, Defaults::default());
        Self::of(snapshot, Loads::none(), DefaultRules::default())
    }

    /// Returns a registry of `entries`, in this order, whose entries `loads` loads.
    ///
    /// # Errors
    /// [`ConfigError::Value`] if a default model that `defaults` names is not served.
    pub fn with(
        entries: Vec<Entry>,
        loads: Loads,
        defaults: DefaultRules,
    ) -> Result<Self, ConfigError> {
        let entries: Vec<_> = entries.into_iter().map(Arc::new).collect();
        let chosen = defaults.choose(&entries)?;
        Ok(Self::of(Snapshot::new(entries, chosen), loads, defaults))
    }

    fn of(snapshot: Snapshot, loads: Loads, defaults: DefaultRules) -> Self {
        Self(Arc::new(Shared {
            snapshot: RwLock::new(Arc::new(snapshot)),
            defaults,
            loads,
            operations: Operations::default(),
            room: tokio::sync::Mutex::default(),
            known: Mutex::default(),
        }))
    }

    /// Returns the models that are served now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.0.snapshot()
    }

    /// Divides `total` bytes of memory for tensors among the loaded models.
    ///
    /// # Errors
    /// As [`share_tensor_memory`].
    pub fn share_tensor_memory(&self, total: u64) -> Result<(), TensorMemoryError> {
        share_tensor_memory(&self.snapshot().models(), total)
    }

    /// Returns the loaded model of `entry`. Waits until it is loaded if it is loaded on first use;
    /// the caller bounds this time.
    ///
    /// # Errors
    /// [`ServeError::ModelLoading`] if too many requests wait already,
    /// [`ServeError::ModelLoadFailed`], [`ServeError::ModelChanged`], [`ServeError::ModelMemory`] or
    /// [`ServeError::ModelTensorMemory`] if the model could not be loaded,
    /// [`ServeError::ModelUnloaded`] if an operator unloaded it, [`ServeError::Draining`] if the
    /// server stops meanwhile.
    pub async fn load(&self, entry: &Arc<Entry>) -> Result<Arc<LoadedModel>, ServeError> {
        match entry.model() {
            Some(model) => Ok(model),
            None => self.0.wait(entry).await,
        }
    }

    /// Makes the requests that wait for models fail, because the server stops.
    pub fn stop_loading(&self) {
        self.0.loads.stop();
    }
}

impl Shared {
    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        let snapshot = self.snapshot.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&snapshot)
    }

    /// Replaces the entries by those that `change` returns, and chooses the default models anew. The
    /// caller holds the lock [`Shared::room`].
    ///
    /// # Errors
    /// [`ConfigError::Value`] if a configured default model would not be served. Nothing changes in
    /// this case.
    pub(super) fn publish(
        &self,
        change: impl FnOnce(&[Arc<Entry>]) -> Vec<Arc<Entry>>,
    ) -> Result<(), ConfigError> {
        let before = self.snapshot();
        let entries = change(before.entries());
        let chosen = self.defaults.choose(&entries)?;
        if chosen != *before.defaults() {
            chosen.log();
        }
        let after = Arc::new(Snapshot::new(entries, chosen));
        let mut snapshot = self
            .snapshot
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *snapshot = after;
        Ok(())
    }

    /// No code panics while it holds this lock.
    pub(super) fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
