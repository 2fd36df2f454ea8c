//! What the registry asks its owner for: the models that are to be served now.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::ModelPlan;
use super::entry::Entry;
use crate::store::{FileList, Fingerprint, ModelSource};

/// Finds the models to serve, as at the start of the server. Both functions may block.
pub trait Find: Send + Sync + 'static {
    /// Reads the manifests of the models to serve.
    ///
    /// # Errors
    /// The reason, if no statement about any model is possible, as for a models directory that does
    /// not exist.
    fn find(&self) -> Result<Found, String>;

    /// Returns the names, times and sizes of all files that [`Find::find`] depends on.
    /// Cheap enough to be called every few seconds.
    fn files(&self) -> FileList;
}

/// A variant to serve.
#[derive(Debug, Clone)]
pub struct Offer {
    /// The variant, which is not loaded.
    pub source: ModelSource,
    /// Settings of its queue and workers.
    pub plan: ModelPlan,
    /// Whether the variant is loaded at start; others are loaded when they are first requested.
    pub at_start: bool,
}

/// An entry of the models directory, or a model that a setting names, that cannot be served.
#[derive(Debug, Clone)]
pub struct BrokenModel {
    /// Name of the folder, of the file or of the model.
    pub name: String,
    /// Path of the folder or file. `None` if it is not known.
    pub path: Option<PathBuf>,
    /// Why it cannot be served, for the log.
    pub reason: String,
}

/// The models to serve.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// All variants in the order of the configuration; those of a model follow each other.
    pub offers: Vec<Offer>,
    /// What cannot be served.
    pub broken: Vec<BrokenModel>,
    /// Files of each model by its name, as they were before the manifests were read or later.
    pub files: HashMap<String, Fingerprint>,
}

impl BrokenModel {
    /// Returns whether this is the model that `entry` has served until now.
    pub(super) fn is(&self, entry: &Entry) -> bool {
        let source = entry.source();
        let inside = |path: &PathBuf| {
            let manifest = source.path.as_ref();
            manifest.is_some_and(|manifest| manifest.starts_with(path))
        };
        source.manifest.name == self.name || self.path.as_ref().is_some_and(inside)
    }
}

impl Found {
    /// Returns the names of the models in order.
    pub(super) fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for offer in &self.offers {
            let name = offer.source.manifest.name.as_str();
            if names.last() != Some(&name) && !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }

    /// Returns the variants of the model `name`.
    pub(super) fn of_model(&self, name: &str) -> Vec<Offer> {
        let offers = self.offers.iter();
        let offers = offers.filter(|offer| offer.source.manifest.name == name);
        offers.cloned().collect()
    }

    /// Returns why one of `entries` cannot be served any more. `None` if nothing is known.
    pub(super) fn broken(&self, name: &str, entries: &[Arc<Entry>]) -> Option<&BrokenModel> {
        let mut broken = self.broken.iter();
        broken.find(|broken| broken.name == name || entries.iter().any(|entry| broken.is(entry)))
    }
}
