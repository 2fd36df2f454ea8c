//! The served variants at one moment, and the lookup of models by name.

use std::sync::Arc;

use super::LoadedModel;
use super::entry::Entry;
use crate::batch::Unready;
use crate::defaults::Defaults;
use crate::error::ServeError;
use crate::manifest::Task;
use crate::nearest::nearest;

/// Maximum number of models that an error about an unknown name lists.
const LISTED: usize = 20;
/// Maximum number of characters of a client's name that an error echoes.
const ECHOED: usize = 64;

/// The served variants of all models at one moment, in the order of the configuration. The first
/// variant of a model is the one that the model's name selects without a variant.
#[derive(Default)]
pub struct Snapshot {
    entries: Vec<Arc<Entry>>,
    defaults: Defaults,
}

impl Snapshot {
    /// Returns a snapshot of `entries`, among which are the models of `defaults`.
    pub(super) fn new(entries: Vec<Arc<Entry>>, defaults: Defaults) -> Self {
        Self { entries, defaults }
    }

    /// Returns all entries in the order of the configuration.
    pub fn entries(&self) -> &[Arc<Entry>] {
        &self.entries
    }

    /// Returns the default models.
    pub fn defaults(&self) -> &Defaults {
        &self.defaults
    }

    /// Returns the loaded models in the order of the configuration.
    pub fn models(&self) -> Vec<Arc<LoadedModel>> {
        let entries = self.entries.iter();
        entries.filter_map(|entry| entry.model()).collect()
    }

    /// Returns the entries of the model `name`.
    pub(super) fn of_model(&self, name: &str) -> Vec<Arc<Entry>> {
        let entries = self.entries.iter().filter(|entry| entry.name() == name);
        entries.cloned().collect()
    }

    /// Returns whether `entry` is part of this snapshot. It is not if its model was replaced.
    pub fn contains(&self, entry: &Arc<Entry>) -> bool {
        self.entries.iter().any(|other| Arc::ptr_eq(other, entry))
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
    /// `name` is `None`, returns the default of the task or, without one, the first of the task.
    ///
    /// # Errors
    /// [`ServeError::NoModel`] if no model of the task is served and `name` is `None`,
    /// [`ServeError::UnknownModel`] if no served model has the name, [`ServeError::WrongTask`] if
    /// the model has another task.
    pub fn for_task(&self, task: Task, name: Option<&str>) -> Result<&Arc<Entry>, ServeError> {
        let Some(name) = name.or_else(|| self.defaults.of(task)) else {
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
        self.find(name).ok_or_else(|| self.unknown(name))
    }

    /// Returns the served variant that `name` names as `MODEL` or `MODEL@VARIANT`. `None` if none has the name; unlike
    /// with [`Snapshot::named`], similar names are not searched for.
    pub fn find(&self, name: &str) -> Option<&Arc<Entry>> {
        self.entries.iter().find(|entry| entry.matches(name))
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
