//! Loading of the models that are loaded at the start of the server.

use std::sync::Arc;

use futures_util::future::try_join_all;
use thiserror::Error;

use super::entry::{Entry, State};
use super::evict::OverModelMemory;
use super::loads::AttemptError;
use super::models::{Registry, Shared};

/// A model of the start cannot be loaded. The text names the model.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct StartError(String);

impl From<AttemptError> for StartError {
    fn from(error: AttemptError) -> Self {
        Self(error.to_string())
    }
}

impl From<OverModelMemory> for StartError {
    fn from(error: OverModelMemory) -> Self {
        Self(error.to_string())
    }
}

impl Registry {
    /// Loads the entries that `at_start` selects, in parallel as far as the cores and the memory for
    /// loading allow. With a limit on the memory of models they are loaded one after the other, pinned
    /// models first, and those that do not fit are left to be loaded on first use.
    ///
    /// # Errors
    /// [`StartError`] for the first model that cannot be loaded.
    pub async fn load_at_start(&self, at_start: impl Fn(&Entry) -> bool) -> Result<(), StartError> {
        let snapshot = self.snapshot();
        let entries = snapshot.entries().iter();
        let mut entries: Vec<_> = entries.filter(|entry| at_start(entry)).collect();
        let models = &self.0.loads.models;
        if !models.is_limited() {
            try_join_all(entries.iter().map(|entry| self.0.load_entry(entry))).await?;
            return Ok(());
        }
        entries.sort_by_key(|entry| !models.is_pinned(entry.source()));
        for entry in entries {
            let fits = self.0.load_within(entry).await?;
            if !fits {
                let model = entry.id();
                tracing::warn!(
                    model,
                    "model does not fit `model_memory` beside the others: it is loaded on first use"
                );
            }
        }
        Ok(())
    }
}

impl Shared {
    /// Loads an entry before the server is ready.
    async fn load_entry(&self, entry: &Entry) -> Result<(), AttemptError> {
        let (source, plan) = (entry.source().clone(), entry.plan());
        let model = self.loads.load(source, plan, false).await?;
        self.loads.models.measure(&model);
        entry.set(State::Loaded(Arc::new(model)));
        self.loads.metrics.loaded(entry.label()).set(1);
        Ok(())
    }

    /// Loads an entry before the server is ready if its memory fits beside that of the loaded models.
    /// Returns whether it does.
    ///
    /// # Errors
    /// As [`Shared::load_entry`], and [`OverModelMemory`] for a pinned model that does not fit.
    async fn load_within(&self, entry: &Entry) -> Result<bool, StartError> {
        let pinned = self.loads.models.is_pinned(entry.source());
        for measured in [false, true] {
            if let Err(over) = self.check_room(entry) {
                entry.evict();
                self.loads.metrics.loaded(entry.label()).set(0);
                return if pinned { Err(over.into()) } else { Ok(false) };
            }
            if !measured {
                self.load_entry(entry).await?;
            }
        }
        Ok(true)
    }

    /// Checks that `entry` fits the memory for models beside all other loaded models.
    fn check_room(&self, entry: &Entry) -> Result<(), OverModelMemory> {
        let snapshot = self.snapshot();
        let others = snapshot.entries().iter();
        let others = others.filter(|other| !std::ptr::eq(Arc::as_ptr(other), entry));
        let used = others.filter_map(|other| other.model()?.memory_bytes).sum();
        let needed = self.loads.models.expected(entry.source());
        self.loads.models.check(needed, used)
    }
}
