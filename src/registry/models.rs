//! The registry: every variant that the server serves, and the lookup of models by name.

use std::sync::Arc;

use super::entry::Entry;
use super::loads::Loads;
use super::{LoadedModel, TensorMemoryError, share_tensor_memory};
use crate::batch::Unready;
use crate::error::ServeError;
use crate::manifest::Task;
use crate::nearest::nearest;

/// Maximum number of models that an error about an unknown name lists.
const LISTED: usize = 20;
/// Maximum number of characters of a client's name that an error echoes.
const ECHOED: usize = 64;

/// The served variants of all models in the order of the configuration. The first variant of a model
/// is the one that the model's name selects without a variant.
#[derive(Default)]
pub struct Registry {
    entries: Arc<[Arc<Entry>]>,
    /// Loads the entries that are not loaded at start. `None` if all are loaded.
    loads: Option<Loads>,
}

impl Registry {
    /// Returns a registry of `entries`, in this order. A request for an entry that is not loaded
    /// fails, unless [`Registry::loading`] follows.
    pub fn new(entries: Vec<Entry>) -> Self {
        Self {
            entries: entries.into_iter().map(Arc::new).collect(),
            loads: None,
        }
    }

    /// Sets the loader of entries that are not loaded at start.
    #[must_use]
    pub fn loading(self, loads: Loads) -> Self {
        Self {
            loads: Some(loads),
            ..self
        }
    }

    /// Returns all entries in the order of the configuration.
    pub fn entries(&self) -> &[Arc<Entry>] {
        &self.entries
    }

    /// Returns the loaded models in the order of the configuration.
    pub fn models(&self) -> Vec<Arc<LoadedModel>> {
        let entries = self.entries.iter();
        entries.filter_map(|entry| entry.model()).collect()
    }

    /// Divides `total` bytes of memory for tensors among the loaded models.
    ///
    /// # Errors
    /// As [`share_tensor_memory`].
    pub fn share_tensor_memory(&self, total: u64) -> Result<(), TensorMemoryError> {
        share_tensor_memory(&self.models(), total)
    }

    /// Returns the loaded model of `entry`. Waits until it is loaded if it is loaded on first use;
    /// the caller bounds this time.
    ///
    /// # Errors
    /// [`ServeError::ModelLoading`] if too many requests wait already,
    /// [`ServeError::ModelLoadsPaused`] if another model could not be loaded recently,
    /// [`ServeError::ModelLoadFailed`], [`ServeError::ModelChanged`], [`ServeError::ModelMemory`] or
    /// [`ServeError::ModelTensorMemory`] if the model could not be loaded,
    /// [`ServeError::Draining`] if the server stops meanwhile.
    pub async fn load(&self, entry: &Arc<Entry>) -> Result<Arc<LoadedModel>, ServeError> {
        if let Some(model) = entry.model() {
            return Ok(model);
        }
        let loads = self.loads.as_ref();
        let loads = loads.ok_or(ServeError::Internal("the registry has no loader"))?;
        loads.wait(entry, &self.entries).await
    }

    /// Makes the requests that wait for models fail, because the server stops.
    pub fn stop_loading(&self) {
        if let Some(loads) = &self.loads {
            loads.stop();
        }
    }

    /// Returns the loaded models that are not ready, as `name@variant`. A few of many models must not make the server
    /// unready, because the others would be taken out of rotation with them.
    ///
    /// # Errors
    /// [`ServeError::NoModelReady`] if no loaded model is ready.
    pub fn check_workers(&self) -> Result<Vec<String>, ServeError> {
        let models = self.models();
        let unready = models
            .iter()
            .filter_map(|model| Some((model.id(), model.batcher.unready()?)));
        let unready: Vec<(String, Unready)> = unready.collect();
        if !unready.is_empty() && unready.len() == models.len() {
            return Err(ServeError::NoModelReady { models: unready });
        }
        Ok(unready.into_iter().map(|(model, _)| model).collect())
    }

    /// Returns the served variant of `task` that `name` names as `MODEL` or `MODEL@VARIANT`. If
    /// `name` is `None`, returns the first one of the task.
    ///
    /// # Errors
    /// [`ServeError::NoModel`] if no model of the task is served and `name` is `None`,
    /// [`ServeError::UnknownModel`] if no served model has the name, [`ServeError::WrongTask`] if
    /// the model has another task.
    pub fn for_task(&self, task: Task, name: Option<&str>) -> Result<&Arc<Entry>, ServeError> {
        let Some(name) = name else {
            let mut entries = self.entries.iter();
            let first = entries.find(|entry| entry.source().manifest.task == task);
            return first.ok_or(ServeError::NoModel { task });
        };
        let entry = self.named(name)?;
        if entry.source().manifest.task == task {
            return Ok(entry);
        }
        Err(ServeError::WrongTask {
            expected: task,
            name: entry.id(),
            task: entry.source().manifest.task,
        })
    }

    /// Returns the served variant that `name` names as `MODEL` or `MODEL@VARIANT`.
    ///
    /// # Errors
    /// [`ServeError::UnknownModel`], which lists served models, if none has the name.
    pub fn named(&self, name: &str) -> Result<&Arc<Entry>, ServeError> {
        let mut entries = self.entries.iter();
        let found = entries.find(|entry| entry.matches(name));
        found.ok_or_else(|| self.unknown(name))
    }

    /// Returns the error for the unknown name `name`. It lists the variants of the named model
    /// first.
    fn unknown(&self, name: &str) -> ServeError {
        let name: String = name.chars().take(ECHOED).collect();
        let model = name.split_once('@').map_or(&*name, |(model, _)| model);
        let of_model = |entry: &&Arc<Entry>| entry.source().manifest.name == model;
        let (own, others): (Vec<_>, Vec<_>) = self.entries.iter().partition(of_model);
        let mut served: Vec<String> = own.iter().chain(&others).map(|entry| entry.id()).collect();
        let more = served.len().saturating_sub(LISTED);
        served.truncate(LISTED);
        if more > 0 {
            served.push(format!("and {more} more"));
        }
        ServeError::UnknownModel {
            meant: self.meant(&name),
            name,
            served,
        }
    }

    /// Returns the reference that the unknown reference `name` was probably meant to be: a served
    /// model of a similar name, or, if the model is served, its variant of a similar name.
    fn meant(&self, name: &str) -> Option<String> {
        let sources = || self.entries.iter().map(|entry| entry.source());
        let (model, variant) = match name.split_once('@') {
            Some((model, variant)) => (model, Some(variant)),
            None => (name, None),
        };
        let of_model = || sources().filter(|source| source.manifest.name == model);
        if let (Some(variant), Some(_)) = (variant, of_model().next()) {
            let variant = nearest(variant, of_model().map(|source| source.variant.as_str()))?;
            return Some(format!("{model}@{variant}"));
        }
        let model = nearest(model, sources().map(|source| source.manifest.name.as_str()))?;
        let whole = variant.map(|variant| format!("{model}@{variant}"));
        let exists = |id: &String| self.entries.iter().any(|entry| entry.id() == *id);
        Some(whole.filter(exists).unwrap_or_else(|| model.to_owned()))
    }
}
