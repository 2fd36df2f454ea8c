//! Comparison of the served models with their files: after SIGHUP, and when the watch sees a change.

use std::sync::Arc;

use futures_util::future::join_all;

use super::change::Changes;
use super::entry::Entry;
use super::find::{BrokenModel, Found};
use super::models::Shared;
use crate::error::ServeError;
use crate::metrics::ModelLabel;

impl Shared {
    pub(super) async fn sync(self: Arc<Self>, hashed: bool) -> Changes {
        if self.loads.stopping.is_cancelled() {
            return Changes::default();
        }
        let found = match self.found(hashed).await {
            Ok(found) => found,
            Err(changes) => return changes,
        };
        let mut changes = Changes::default();
        changes.failed += self.report_all_broken(&found);
        let names = found.names().into_iter();
        let changed: Vec<&str> = names
            .filter(|name| self.has_changed(name, &found))
            .collect();
        let replaced = join_all(changed.iter().map(|name| self.sync_model(name, &found))).await;
        let replaced = replaced.into_iter().filter(|replaced| *replaced).count();
        changes.changed += replaced;
        changes.failed += changed.len() - replaced;
        let (removed, kept) = self.remove_missing(&found).await;
        changes.changed += removed;
        changes.failed += kept;
        changes
    }

    /// Returns the models to serve now, with the SHA-256 of their files if `hashed` is true.
    ///
    /// # Errors
    /// The result of the comparison if it is impossible, which is logged.
    async fn found(&self, hashed: bool) -> Result<Found, Changes> {
        const IMPOSSIBLE: Changes = Changes {
            changed: 0,
            failed: 1,
        };
        let found = match self.loads.find().await {
            Ok(found) if !found.offers.is_empty() => found,
            Ok(found) => return Err(self.nothing_found(&found)),
            Err(error) => {
                let error = error.to_string();
                tracing::error!(
                    error,
                    "cannot read the models; the loaded ones go on serving"
                );
                return Err(IMPOSSIBLE);
            }
        };
        if !hashed {
            return Ok(found);
        }
        self.hash(found).await.ok_or_else(|| {
            tracing::error!("the comparison of the models' files panicked");
            IMPOSSIBLE
        })
    }

    /// Reports that no model was found at all, which is more likely a mistake than a wish.
    fn nothing_found(&self, found: &Found) -> Changes {
        let broken = self.report_all_broken(found);
        tracing::error!("no model was found; the loaded ones go on serving");
        Changes {
            changed: 0,
            failed: broken.max(1),
        }
    }

    /// Completes the fingerprints in `found` with the SHA-256 of the files. `None` if the thread that
    /// reads them panics.
    async fn hash(&self, mut found: Found) -> Option<Found> {
        let known = self.known().clone();
        let hashing = tokio::task::spawn_blocking(move || {
            for offer in &found.offers {
                let name = &offer.source.manifest.name;
                let known = known.get(name).cloned().unwrap_or_default();
                let Some(files) = found.files.get_mut(name) else {
                    continue;
                };
                let hashed = offer.source.hashed_fingerprint(&known);
                // A file that has changed since it was found is compared again next time.
                if hashed.has_same_files(files) {
                    *files = hashed;
                }
            }
            found
        });
        hashing.await.ok()
    }

    /// Returns whether the model `name` of `found` differs from the served one.
    fn has_changed(&self, name: &str, found: &Found) -> bool {
        let entries = self.snapshot().of_model(name);
        let offers = found.of_model(name);
        let same_sources = entries.len() == offers.len()
            && entries
                .iter()
                .zip(&offers)
                .all(|(entry, offer)| *entry.source() == offer.source);
        let mut known = self.known();
        let (Some(known), Some(now)) = (known.get_mut(name), found.files.get(name)) else {
            return !same_sources;
        };
        let same = same_sources && known.has_same_content(now);
        if same {
            // The modification times, and the SHA-256 if they are known now.
            known.refresh(now);
            // What was wrong with the files has been undone.
            let served = entries.iter().filter(|entry| entry.failure().is_none());
            served.for_each(|entry| entry.report(None));
        }
        !same
    }

    /// Replaces or adds one model of `found`. Returns whether this succeeded.
    async fn sync_model(self: &Arc<Self>, name: &str, found: &Found) -> bool {
        let _operation = self.operations.begin(name).await;
        // An operator may have loaded the model meanwhile.
        if self.loads.stopping.is_cancelled() || !self.has_changed(name, found) {
            return true;
        }
        let files = found.files.get(name).cloned().unwrap_or_default();
        let replaced = self.replace(name, found.of_model(name), files, None);
        replaced.await.is_ok()
    }

    /// Reports everything in `found` that cannot be served. Returns the number of these entries.
    fn report_all_broken(&self, found: &Found) -> usize {
        let snapshot = self.snapshot();
        for broken in &found.broken {
            let entries = snapshot.entries().iter();
            let entries: Vec<_> = entries.filter(|entry| broken.is(entry)).cloned().collect();
            self.report_broken(&broken.name, &entries, broken);
        }
        found.broken.len()
    }

    /// Logs and counts that a model cannot be read any more, and reports it as the error of its
    /// `entries`.
    pub(super) fn report_broken(
        &self,
        model: &str,
        entries: &[Arc<Entry>],
        broken: &BrokenModel,
    ) -> ServeError {
        let model = entries.first().map_or(model, |entry| entry.name());
        let labels: Vec<ModelLabel<'_>> = match entries {
            [] => vec![ModelLabel { model, variant: "" }],
            entries => entries.iter().map(|entry| entry.label()).collect(),
        };
        self.failed(model, &labels, entries, &broken.reason)
    }

    /// Removes the models that `found` does not have, unless they are only broken. Returns the number
    /// of removed models, and of those that stay because they are configured as default models.
    async fn remove_missing(self: &Arc<Self>, found: &Found) -> (usize, usize) {
        let names = found.names();
        let snapshot = self.snapshot();
        let mut gone: Vec<&str> = Vec::new();
        for entry in snapshot.entries() {
            let name = entry.name();
            let broken = found.broken(name, &snapshot.of_model(name)).is_some();
            if !names.contains(&name) && !broken && !gone.contains(&name) {
                gone.push(name);
            }
        }
        let (mut removed, mut kept) = (0, 0);
        for name in &gone {
            let _operation = self.operations.begin(name).await;
            if self.is_gone(name).await {
                let is_removed = self.remove(name).await;
                removed += usize::from(is_removed);
                kept += usize::from(!is_removed);
            }
        }
        (removed, kept)
    }

    /// Returns whether the model `name` has no files now: an operator may have added it after the models were found.
    async fn is_gone(&self, name: &str) -> bool {
        let now = self.loads.find().await;
        now.is_ok_and(|now| !now.names().contains(&name))
    }

    async fn remove(self: &Arc<Self>, name: &str) -> bool {
        let entries = self.snapshot().of_model(name);
        let _room = self.room.lock().await;
        let without = |all: &[Arc<Entry>]| {
            let others = all.iter().filter(|entry| entry.name() != name);
            others.cloned().collect()
        };
        if let Err(error) = self.publish(without) {
            let labels: Vec<_> = entries.iter().map(|entry| entry.label()).collect();
            let reason = format!("its files are gone, but it goes on serving: {error}");
            self.failed(name, &labels, &entries, &reason);
            return false;
        }
        for entry in &entries {
            entry.retire();
            self.loads.metrics.unloaded(entry.label());
        }
        self.forget_later(&entries);
        self.known().remove(name);
        self.use_freed_memory();
        tracing::info!(model = name, "model removed, because its files are gone");
        true
    }
}
