//! Changes of the served models while the server runs: a model is replaced, added, unloaded or
//! removed.
//!
//! A model changes as a whole: its new variants are loaded and warm before they take the place of
//! the old ones in one step. Requests that have chosen an entry keep it, and the old networks are
//! freed when the last of these requests has ended. If anything fails, the old variants go on
//! serving.

use std::collections::HashMap;
use std::sync::Arc;

use super::entry::{Entry, State};
use super::find::Found;
use super::models::{Registry, Shared};
use super::step::Target;
use crate::error::ServeError;
use crate::store::Fingerprint;

/// Files of each model by its name, as they were when it was loaded.
pub(super) type Known = HashMap<String, Fingerprint>;

/// The number of models that [`Registry::sync`] has changed, and of those that it could not change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Changes {
    /// Models that were replaced, added or removed.
    pub changed: usize,
    /// Models, and entries of the models directory, that could not be loaded.
    pub failed: usize,
}

impl Registry {
    /// Records the files of the models, as they were when the models were found at start.
    pub fn remember(&self, files: HashMap<String, Fingerprint>) {
        *self.0.known() = files;
    }

    /// Loads the model or variant `reference` from its files, although it may be loaded already, and
    /// returns its entry when it is warm. The operation continues if the caller does not wait. A stop of the server
    /// abandons it.
    ///
    /// # Errors
    /// [`ServeError::UnknownModel`] if there is no model or variant of this name,
    /// [`ServeError::ModelBusy`] if the model is being changed already,
    /// [`ServeError::ModelReloadFailed`] if it cannot be loaded; the old one goes on serving.
    /// [`ServeError::Draining`] if the server stops meanwhile.
    pub async fn reload(&self, reference: &str) -> Result<Arc<Entry>, ServeError> {
        let (shared, reference) = (Arc::clone(&self.0), reference.to_owned());
        let operation = tokio::spawn(async move { shared.reload(&reference).await });
        tokio::select! {
            biased;
            result = operation => result.unwrap_or(Err(PANICKED)),
            () = self.0.loads.stopping.cancelled() => Err(ServeError::Draining),
        }
    }

    /// Unloads the model or variant `reference`: its queue is finished, and then its memory is freed.
    /// Returns its first entry.
    ///
    /// # Errors
    /// [`ServeError::UnknownModel`] if no served model has this name, [`ServeError::ModelBusy`] if the
    /// model is being changed already.
    pub async fn unload(&self, reference: &str) -> Result<Arc<Entry>, ServeError> {
        let (shared, reference) = (Arc::clone(&self.0), reference.to_owned());
        let operation = tokio::spawn(async move { shared.unload(&reference).await });
        operation.await.unwrap_or(Err(PANICKED))
    }

    /// Compares the served models with their files: replaces the models that have changed, adds new
    /// ones, and removes those that are gone. `hashed` states whether files with another modification
    /// time are compared by their content.
    pub async fn sync(&self, hashed: bool) -> Changes {
        let shared = Arc::clone(&self.0);
        let operation = tokio::spawn(async move { shared.sync(hashed).await });
        let failed = Changes {
            changed: 0,
            failed: 1,
        };
        operation.await.unwrap_or(failed)
    }
}

const PANICKED: ServeError = ServeError::Internal("an operation on a model panicked");

impl Shared {
    async fn reload(self: Arc<Self>, reference: &str) -> Result<Arc<Entry>, ServeError> {
        if self.loads.stopping.is_cancelled() {
            return Err(ServeError::Draining);
        }
        let (model, variant) = split(reference);
        let operation = self.operations.try_begin(model);
        let busy = || ServeError::ModelBusy {
            model: model.to_owned(),
        };
        let _operation = operation.ok_or_else(busy)?;
        let found = self.loads.find().await;
        let found = found.map_err(|error| self.not_reloaded(reference, &error.to_string()))?;
        let offers = found.of_model(model);
        let known = variant.is_none_or(|v| offers.iter().any(|offer| offer.source.variant == v));
        let (Some(first), true) = (offers.first(), known) else {
            return Err(self.not_found(reference, &found));
        };
        let files = found.files.get(model).cloned().unwrap_or_default();
        let target = Target {
            variant: variant.unwrap_or(&first.source.variant).to_owned(),
            whole: variant.is_none(),
        };
        let loads = offers.iter().map(|offer| &offer.source);
        let mut loads = loads.filter(|source| source.variant == target.variant);
        if let Some(instances) = loads.find_map(|source| self.loads.instances.too_many(source)) {
            let model = model.to_owned();
            return Err(ServeError::ModelInUse { model, instances });
        }
        self.replace(model, offers, files, Some(&target)).await?;
        let snapshot = self.snapshot();
        Ok(Arc::clone(snapshot.named(reference)?))
    }

    /// Returns the error for the model or variant `reference`, which is not in `found`.
    fn not_found(&self, reference: &str, found: &Found) -> ServeError {
        let (model, _) = split(reference);
        let snapshot = self.snapshot();
        let entries = snapshot.of_model(model);
        if let Some(broken) = found.broken(model, &entries) {
            return self.report_broken(model, &entries, broken);
        }
        match snapshot.named(reference) {
            Err(unknown) => unknown,
            Ok(_) => {
                self.not_reloaded(reference, "its files are gone; the old one goes on serving")
            }
        }
    }

    /// Logs, counts and reports that the served variants `reference` cannot be loaded again.
    fn not_reloaded(&self, reference: &str, reason: &str) -> ServeError {
        let snapshot = self.snapshot();
        let entries = snapshot.entries().iter();
        let entries = entries.filter(|entry| entry.matches(reference));
        let entries: Vec<Arc<Entry>> = entries.cloned().collect();
        let labels: Vec<_> = entries.iter().map(|entry| entry.label()).collect();
        self.failed(reference, &labels, &entries, reason)
    }

    async fn unload(self: Arc<Self>, reference: &str) -> Result<Arc<Entry>, ServeError> {
        let (model, _) = split(reference);
        let operation = self.operations.try_begin(model);
        let busy = || ServeError::ModelBusy {
            model: model.to_owned(),
        };
        let _operation = operation.ok_or_else(busy)?;
        let snapshot = self.snapshot();
        let first = Arc::clone(snapshot.named(reference)?);
        let _room = self.room.lock().await;
        for entry in snapshot.entries() {
            if entry.matches(reference) {
                // Dropping the state may drop the model, which is freed in the background.
                entry.set(State::Unloaded).retire();
                entry.report(None);
                self.loads.metrics.unloaded(entry.label());
                tracing::info!(model = entry.id(), "model unloaded");
            }
        }
        self.use_freed_memory();
        Ok(first)
    }
}

/// Splits `name@variant` into its parts.
fn split(reference: &str) -> (&str, Option<&str>) {
    match reference.split_once('@') {
        Some((model, variant)) => (model, Some(variant)),
        None => (reference, None),
    }
}
