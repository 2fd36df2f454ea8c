//! The instances of each model that are alive, and the removal of the metrics of removed models.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use super::LoadedModel;
use super::entry::Entry;
use super::models::Shared;
use crate::metrics::ModelLabel;
use crate::store::ModelSource;

/// Maximum number of instances of a model that are alive when another one is loaded. All but one were replaced or
/// unloaded, and requests still use them.
const MAX_INSTANCES: usize = 3;
/// Time until the instances of a removed model are looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Keeps an instance of a model in `Instances`.
pub type Instance = Arc<()>;

/// The instances of each model, by `name@variant`, that are loaded or that requests still use.
#[derive(Debug, Default)]
pub(super) struct Instances(Mutex<HashMap<String, Vec<Weak<()>>>>);

impl Instances {
    pub(super) fn add(&self, model: &LoadedModel) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = all.entry(model.id()).or_default();
        own.push(Arc::downgrade(&model.instance));
    }

    /// Returns the number of instances of the model `id` that are alive, and forgets those that are not.
    fn alive(&self, id: &str) -> usize {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, instances| {
            instances.retain(|instance| instance.strong_count() > 0);
            !instances.is_empty()
        });
        all.get(id).map_or(0, Vec::len)
    }

    /// Returns the number of instances of `source` that requests still use although they were replaced or unloaded, if
    /// there are too many of them to load another instance.
    pub(super) fn too_many(&self, source: &ModelSource) -> Option<usize> {
        let alive = self.alive(&source.id());
        (alive >= MAX_INSTANCES).then(|| alive - 1)
    }
}

impl Shared {
    /// Removes the metrics of the removed variants `entries` when no request uses them any more.
    pub(super) fn forget_later(self: &Arc<Self>, entries: &[Arc<Entry>]) {
        for entry in entries {
            let (shared, label) = (Arc::clone(self), entry.label());
            let removed = Removed {
                entry: Arc::downgrade(entry),
                id: entry.id(),
                model: label.model.to_owned(),
                variant: label.variant.to_owned(),
            };
            tokio::spawn(async move { shared.forget(removed).await });
        }
    }

    async fn forget(self: Arc<Self>, removed: Removed) {
        let label = removed.label();
        let is_used = || {
            let stuck = self.loads.metrics.stuck(label) > 0;
            removed.entry.strong_count() > 0 || self.loads.instances.alive(&removed.id) > 0 || stuck
        };
        while is_used() {
            let stopping = self.loads.stopping.cancelled();
            if tokio::time::timeout(LOOK_AGAIN, stopping).await.is_ok() {
                return;
            }
        }
        // No instance is created while this is held.
        let _operation = self.operations.begin(&removed.model).await;
        if self.snapshot().named(&removed.id).is_err() && !is_used() {
            self.loads.forget(label);
        }
    }
}

/// A variant that was removed.
struct Removed {
    entry: Weak<Entry>,
    id: String,
    model: String,
    variant: String,
}

impl Removed {
    fn label(&self) -> ModelLabel<'_> {
        ModelLabel {
            model: &self.model,
            variant: &self.variant,
        }
    }
}
