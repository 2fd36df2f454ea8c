//! Locks that keep two operations from changing one model at the same time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedMutexGuard;

/// One lock for each model that an operation loads, replaces, unloads or removes.
#[derive(Default)]
pub(super) struct Operations(Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>);

/// The right to change a model, until this value is dropped.
pub(super) struct Operation(#[expect(dead_code, reason = "held for its drop")] OwnedMutexGuard<()>);

impl Operations {
    /// Waits until no operation changes `model`.
    pub(super) async fn begin(&self, model: &str) -> Operation {
        Operation(self.lock_of(model).lock_owned().await)
    }

    /// Returns `None` if an operation changes `model` now.
    pub(super) fn try_begin(&self, model: &str) -> Option<Operation> {
        self.lock_of(model).try_lock_owned().ok().map(Operation)
    }

    /// Returns the lock of `model`, and forgets the locks that nobody holds or waits for.
    fn lock_of(&self, model: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        locks.retain(|_, lock| Arc::strong_count(lock) > 1);
        Arc::clone(locks.entry(model.to_owned()).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_model_has_one_operation_at_a_time_and_its_lock_is_forgotten() {
        let operations = Operations::default();
        let first = operations.begin("a").await;
        assert!(operations.try_begin("a").is_none());
        drop(operations.try_begin("b").unwrap());
        drop(first);
        let again = operations.try_begin("a");
        assert!(again.is_some());
        assert_eq!(operations.0.lock().unwrap().len(), 1);
    }
}
