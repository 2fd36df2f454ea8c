//! The replacement of a model by a new version, or the addition of a new model.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use onnx_export::text::cut;

use super::entry::Entry;
use super::find::Offer;
use super::loads::{AttemptError, LoadFailure};
use super::models::Shared;
use super::step::{Step, Target};
use super::tensors::make_room;
use super::{LoadedModel, label, share_tensor_memory};
use crate::error::ServeError;
use crate::metrics::{ModelLabel, ReloadResult};
use crate::store::Fingerprint;

/// Maximum time to wait until the images in work leave memory for the tensors of a new model.
const ROOM_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum number of characters of a model's name, which a client may have sent, that an error repeats.
const MAX_SHOWN: usize = 64;

impl Shared {
    /// Replaces the entries of the model `name` by `offers`, or adds them. Loads the variant `target`,
    /// the variants that are loaded now if their files have changed, and those of a new model that are
    /// loaded at start. `files` are the model's files when it was found. The caller holds the
    /// operation of the model.
    ///
    /// # Errors
    /// [`ServeError::ModelReloadFailed`], which is logged, counted and reported.
    pub(super) async fn replace(
        self: &Arc<Self>,
        name: &str,
        offers: Vec<Offer>,
        files: Fingerprint,
        target: Option<&Target>,
    ) -> Result<(), ServeError> {
        let started = Instant::now();
        let before = self.snapshot().of_model(name);
        let same = !before.is_empty() && self.is_same(name, &before, &offers, &files);
        let plan: Vec<Step> = offers
            .iter()
            .map(|offer| Step::of(offer, &before, same, target))
            .collect();
        let result = self.carry_out(name, &offers, &plan, &before, files).await;
        let loads = offers.iter().zip(&plan);
        let loads = loads.filter(|(_, step)| matches!(step, Step::Load));
        let labels: Vec<ModelLabel<'_>> = loads.map(|(offer, _)| label(&offer.source)).collect();
        if let Err(error) = result {
            return Err(self.failed(name, &labels, &before, &error.to_string()));
        }
        for label in labels {
            self.loads.metrics.reload(label, ReloadResult::success);
        }
        let milliseconds = started.elapsed().as_millis() as u64;
        let event = if before.is_empty() {
            "model added"
        } else {
            "model replaced"
        };
        tracing::info!(model = name, milliseconds, "{event}");
        self.warn_about_task(name, &before);
        Ok(())
    }

    /// Records in the metrics that the variants of `before` that are not in `offers` are not loaded any more.
    fn report_dropped(self: &Arc<Self>, before: &[Arc<Entry>], offers: &[Offer]) {
        let offered = |entry: &&Arc<Entry>| {
            let mut variants = offers.iter().map(|offer| &offer.source.variant);
            variants.any(|variant| *variant == entry.source().variant)
        };
        let dropped = before.iter().filter(|entry| !offered(entry));
        let dropped: Vec<Arc<Entry>> = dropped.cloned().collect();
        for entry in &dropped {
            self.loads.metrics.unloaded(entry.label());
        }
        self.forget_later(&dropped);
    }

    /// Makes the metrics show `new` in the place of `leaving`, which serves only the requests that it has.
    fn report_replaced(&self, leaving: &[Arc<Entry>], new: &[Arc<Entry>]) {
        for entry in leaving {
            entry.retire();
        }
        for entry in new {
            if let Some(model) = entry.model() {
                self.loads.metrics.loaded(entry.label()).set(1);
                model.batcher.report_ready();
            }
        }
    }

    /// Returns whether `offers` and `files` are those from which `before` was made.
    fn is_same(
        &self,
        name: &str,
        before: &[Arc<Entry>],
        offers: &[Offer],
        files: &Fingerprint,
    ) -> bool {
        let mut pairs = before.iter().zip(offers);
        before.len() == offers.len()
            && pairs.all(|(entry, offer)| *entry.source() == offer.source)
            && self
                .known()
                .get(name)
                .is_some_and(|known| known.has_same_content(files))
    }

    /// Loads the networks that `plan` states, and publishes the new entries.
    async fn carry_out(
        self: &Arc<Self>,
        name: &str,
        offers: &[Offer],
        plan: &[Step],
        before: &[Arc<Entry>],
        files: Fingerprint,
    ) -> Result<(), AttemptError> {
        let kept = |entry: &Arc<Entry>| {
            let keeps = |step: &Step| matches!(step, Step::Keep(kept) if Arc::ptr_eq(kept, entry));
            plan.iter().any(keeps)
        };
        let leaving: Vec<_> = before
            .iter()
            .filter(|entry| !kept(entry))
            .cloned()
            .collect();
        let loads = offers.iter().zip(plan);
        let loads = loads.filter(|(_, step)| matches!(step, Step::Load));
        let loads: Vec<&Offer> = loads.map(|(offer, _)| offer).collect();
        let loaded = self.load_all(&loads, &leaving).await?;
        self.check_unchanged(name, offers, &files).await?;
        let _room = self.room.lock().await;
        let mut loaded = self.fit(loaded, &leaving).await?.into_iter();
        let entries: Vec<Arc<Entry>> = offers
            .iter()
            .zip(plan)
            .filter_map(|(offer, step)| step.entry(offer, &mut loaded))
            .collect();
        self.publish(|all| replaced(all, name, &entries))?;
        // With the lock: the next change of a model may unload it.
        self.report_replaced(&leaving, &entries);
        self.report_dropped(before, offers);
        self.known().insert(name.to_owned(), files);
        self.use_freed_memory();
        Ok(())
    }

    /// Checks that the files of the model `name` are still those that were found, so that no network
    /// of one version serves with the labels of another.
    async fn check_unchanged(
        &self,
        name: &str,
        offers: &[Offer],
        files: &Fingerprint,
    ) -> Result<(), AttemptError> {
        let now = self.loads.find().await?;
        let same_files = now
            .files
            .get(name)
            .is_some_and(|now| now.has_same_files(files));
        let now = now.of_model(name);
        let mut pairs = now.iter().zip(offers);
        if same_files
            && now.len() == offers.len()
            && pairs.all(|(now, offer)| now.source == offer.source)
        {
            return Ok(());
        }
        let reason =
            "its files changed while they were being loaded: try again when they are complete";
        Err(LoadFailure::Changed(reason.to_owned()).into())
    }

    /// Loads the networks of `offers` in parallel. Returns all of them, or the first error.
    async fn load_all(
        &self,
        offers: &[&Offer],
        leaving: &[Arc<Entry>],
    ) -> Result<Vec<LoadedModel>, AttemptError> {
        for offer in offers {
            self.loads.check_loadable(&offer.source)?;
        }
        let expected = offers.iter().map(|offer| &offer.source);
        let expected = expected.map(|source| self.loads.models.expected(source));
        self.evict_for(expected.sum(), leaving)?;
        let load = |offer: &&Offer| self.loads.load(offer.source.clone(), offer.plan, true);
        let loaded = join_all(offers.iter().map(load)).await;
        loaded.into_iter().collect()
    }

    /// Makes room for the networks `new`, whose actual size is known now. The entries `leaving` are
    /// about to be replaced: their memory does not count, although requests may use it for a while.
    /// The caller holds the lock [`Shared::room`].
    pub(super) async fn fit(
        &self,
        new: Vec<LoadedModel>,
        leaving: &[Arc<Entry>],
    ) -> Result<Vec<LoadedModel>, AttemptError> {
        for model in &new {
            self.loads.models.measure(model);
        }
        let needed = new.iter().map(|model| model.memory_bytes.unwrap_or(0));
        self.evict_for(needed.sum(), leaving)?;
        let snapshot = self.snapshot();
        let staying = |entry: &&Arc<Entry>| !leaving.iter().any(|other| Arc::ptr_eq(other, entry));
        let others = snapshot.entries().iter().filter(staying);
        let others: Vec<Arc<LoadedModel>> = others.filter_map(|entry| entry.model()).collect();
        let end = Instant::now() + ROOM_TIMEOUT;
        make_room(&others, &new, self.loads.tensor_bytes, end).await?;
        Ok(new)
    }

    /// Divides the memory for tensors among the models that are loaded now, and allows attempts that
    /// failed for want of it. The caller holds the lock [`Shared::room`].
    pub(super) fn use_freed_memory(&self) {
        let snapshot = self.snapshot();
        // Fewer models than before always fit; their shares only grow.
        let _ = share_tensor_memory(&snapshot.models(), self.loads.tensor_bytes);
        for entry in snapshot.entries() {
            entry.retry_with_room();
        }
    }

    /// Logs, counts and reports that the model `name` cannot be replaced or added.
    pub(super) fn failed(
        &self,
        name: &str,
        labels: &[ModelLabel<'_>],
        before: &[Arc<Entry>],
        reason: &str,
    ) -> ServeError {
        let event = if before.is_empty() {
            "cannot add model"
        } else {
            "cannot replace model; the old one goes on serving"
        };
        tracing::error!(model = name, error = reason, "{event}");
        for label in labels {
            self.loads.metrics.reload(*label, ReloadResult::failure);
        }
        for entry in before {
            entry.report(Some(entry.source().public_reason(reason)));
        }
        reload_failed(name, reason)
    }

    /// Logs a warning if the task of the model `name` is another one than that of `before`.
    fn warn_about_task(&self, name: &str, before: &[Arc<Entry>]) {
        let task = |entries: &[Arc<Entry>]| {
            let entry = entries.first();
            entry.map(|entry| entry.source().manifest.task)
        };
        let (old, new) = (task(before), task(&self.snapshot().of_model(name)));
        if let (Some(old), Some(new)) = (old, new)
            && old != new
        {
            tracing::warn!(
                model = name,
                old = old.as_str(),
                new = new.as_str(),
                "model has another task than before"
            );
        }
    }
}

/// Returns `all` with `entries` in the place of the entries of the model `name`. A new model takes
/// its place by name if all models are in this order, else the last one.
fn replaced(all: &[Arc<Entry>], name: &str, entries: &[Arc<Entry>]) -> Vec<Arc<Entry>> {
    let sorted = all.is_sorted_by_key(|entry| entry.name().to_owned());
    let own = all.iter().position(|entry| entry.name() == name);
    let by_name = || all.iter().position(|entry| sorted && entry.name() > name);
    let place = own.or_else(by_name).unwrap_or(all.len());
    let others = |part: &[Arc<Entry>]| {
        let others = part.iter().filter(|entry| entry.name() != name);
        others.cloned().collect::<Vec<_>>()
    };
    [
        others(&all[..place]),
        entries.to_vec(),
        others(&all[place..]),
    ]
    .concat()
}

fn reload_failed(model: &str, reason: &str) -> ServeError {
    ServeError::ModelReloadFailed {
        model: cut(model, MAX_SHOWN).to_owned(),
        reason: reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::ModelPlan;
    use crate::store::ModelSource;

    fn entry(id: &str) -> Arc<Entry> {
        let mut source = ModelSource::embedded().unwrap();
        let (name, variant) = id.split_once('@').unwrap_or((id, "fp32"));
        name.clone_into(&mut source.manifest.name);
        variant.clone_into(&mut source.variant);
        let plan = ModelPlan::new(&source.manifest, 1, None);
        Arc::new(Entry::new(source, plan))
    }

    #[test]
    fn a_model_keeps_its_place_and_a_new_one_is_sorted_in() {
        let cases = [
            // Sorted by name.
            ("a b c", "b", "b b@int8", "a@fp32 b@fp32 b@int8 c@fp32"),
            ("a b b@int8 c", "b", "b", "a@fp32 b@fp32 c@fp32"),
            ("a c", "b", "b", "a@fp32 b@fp32 c@fp32"),
            ("a b", "c", "c", "a@fp32 b@fp32 c@fp32"),
            ("b", "a", "a", "a@fp32 b@fp32"),
            ("", "a", "a", "a@fp32"),
            // In the order of `--model`.
            ("c a", "b", "b", "c@fp32 a@fp32 b@fp32"),
            ("c b a", "b", "b@int8", "c@fp32 b@int8 a@fp32"),
        ];
        let entries = |ids: &str| ids.split_whitespace().map(entry).collect::<Vec<_>>();
        for (before, name, new, expected) in cases {
            let after = replaced(&entries(before), name, &entries(new));
            let ids: Vec<String> = after.iter().map(|entry| entry.id()).collect();
            assert_eq!(ids.join(" "), expected, "{before} + {new}");
        }
    }

    #[test]
    fn only_what_is_used_or_named_is_loaded_again() {
        let offer = |id: &str, at_start| {
            let entry = entry(id);
            Offer {
                source: entry.source().clone(),
                plan: entry.plan(),
                at_start,
            }
        };
        let unloaded = || {
            let entry = entry("a");
            Arc::new(Entry::unloaded(entry.source().clone(), entry.plan()))
        };
        let target = |variant: &str, whole| Target {
            variant: variant.to_owned(),
            whole,
        };
        let (fp32, int8) = (target("fp32", true), target("int8", false));
        let step = |at_start, before: &[Arc<Entry>], same, target| match Step::of(
            &offer("a", at_start),
            before,
            same,
            target,
        ) {
            Step::Keep(_) => "keep",
            Step::Load => "load",
            Step::Later => "later",
            Step::Unloaded => "unloaded",
        };
        let not_loaded = [entry("a")];
        assert_eq!(step(true, &[], false, None), "load", "a new model");
        assert_eq!(step(false, &[], false, None), "later");
        assert_eq!(step(true, &not_loaded, false, None), "later");
        assert_eq!(step(true, &not_loaded, true, None), "keep");
        assert_eq!(step(false, &not_loaded, true, Some(&fp32)), "load");
        assert_eq!(step(false, &not_loaded, true, Some(&int8)), "keep");
        assert_eq!(step(true, &[unloaded()], false, None), "unloaded");
        assert_eq!(step(true, &[unloaded()], true, Some(&int8)), "keep");
        let whole = target("int8", true);
        assert_eq!(step(true, &[unloaded()], true, Some(&whole)), "later");
    }
}
