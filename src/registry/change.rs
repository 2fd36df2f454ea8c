//! Changes of the served models while the server runs: a model is replaced, added, unloaded or
//! removed.
//!
//! A model changes as a whole: its new variants are loaded and warm before they take the place of
//! the old ones in one step. Requests that have chosen an entry keep it, and the old networks are
//! freed when the last of these requests has ended. If anything fails, the old variants go on
//! serving.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use super::entry::{Entry, LoadState, State};
use super::find::{BrokenModel, Found, Offer};
use super::loads::{AttemptError, LoadFailure};
use super::models::{Registry, Shared};
use super::tensors::make_room;
use super::{LoadedModel, label, share_tensor_memory};
use crate::error::ServeError;
use crate::metrics::{ModelLabel, ReloadResult};
use crate::store::Fingerprint;

/// Files of each model by its name, as they were when it was loaded.
pub(super) type Known = HashMap<String, Fingerprint>;

/// Maximum time to wait until the images in work leave memory for the tensors of a new model.
const ROOM_TIMEOUT: Duration = Duration::from_secs(5);

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
    /// returns its entry when it is warm. The operation continues if the caller does not wait.
    ///
    /// # Errors
    /// [`ServeError::UnknownModel`] if there is no model or variant of this name,
    /// [`ServeError::ModelBusy`] if the model is being changed already,
    /// [`ServeError::ModelReloadFailed`] if it cannot be loaded; the old one goes on serving.
    pub async fn reload(&self, reference: &str) -> Result<Arc<Entry>, ServeError> {
        let (shared, reference) = (Arc::clone(&self.0), reference.to_owned());
        let operation = tokio::spawn(async move { shared.reload(&reference).await });
        operation.await.unwrap_or(Err(PANICKED))
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
        let found = found.map_err(|error| reload_failed(reference, &error.to_string()))?;
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
            Ok(_) => reload_failed(reference, "its files are gone; the old one goes on serving"),
        }
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
                drop(entry.set(State::Unloaded));
                entry.report(None);
                self.loads.metrics.loaded(entry.label()).set(0);
                tracing::info!(model = entry.id(), "model unloaded");
            }
        }
        self.use_freed_memory();
        Ok(first)
    }

    async fn sync(self: Arc<Self>, hashed: bool) -> Changes {
        let mut changes = Changes::default();
        if self.loads.stopping.is_cancelled() {
            return changes;
        }
        let found = self.loads.find().await;
        let found = match found {
            Ok(found) if !found.offers.is_empty() => found,
            Ok(found) => return self.nothing_found(&found),
            Err(error) => {
                let error = error.to_string();
                tracing::error!(
                    error,
                    "cannot read the models; the loaded ones go on serving"
                );
                changes.failed += 1;
                return changes;
            }
        };
        let found = if hashed {
            self.hash(found).await
        } else {
            Some(found)
        };
        let Some(found) = found else {
            return changes;
        };
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
    fn report_broken(
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
    async fn remove_missing(&self, found: &Found) -> (usize, usize) {
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
        let mut removed = 0;
        for name in &gone {
            let _operation = self.operations.begin(name).await;
            removed += usize::from(self.remove(name).await);
        }
        (removed, gone.len() - removed)
    }

    async fn remove(&self, name: &str) -> bool {
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
            self.loads.metrics.loaded(entry.label()).set(0);
        }
        self.known().remove(name);
        self.use_freed_memory();
        tracing::info!(model = name, "model removed, because its files are gone");
        true
    }

    /// Replaces the entries of the model `name` by `offers`, or adds them. Loads the variant `target`,
    /// the variants that are loaded now if their files have changed, and those of a new model that are
    /// loaded at start. `files` are the model's files when it was found. The caller holds the
    /// operation of the model.
    ///
    /// # Errors
    /// [`ServeError::ModelReloadFailed`], which is logged, counted and reported.
    async fn replace(
        &self,
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
            self.loads.metrics.loaded(label).set(1);
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
        &self,
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
    fn use_freed_memory(&self) {
        let snapshot = self.snapshot();
        // Fewer models than before always fit; their shares only grow.
        let _ = share_tensor_memory(&snapshot.models(), self.loads.tensor_bytes);
        for entry in snapshot.entries() {
            entry.retry_with_room();
        }
    }

    /// Logs, counts and reports that the model `name` cannot be replaced or added.
    fn failed(
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

/// What an operator loads.
struct Target {
    variant: String,
    /// Whether the operator has named the model without a variant: then its other variants may be
    /// loaded on first use again.
    whole: bool,
}

/// What happens to a variant when its model is replaced.
enum Step {
    /// The entry stays as it is.
    Keep(Arc<Entry>),
    /// The network is loaded.
    Load,
    /// The network is loaded when it is first requested.
    Later,
    /// The network stays unloaded, as an operator decided.
    Unloaded,
}

impl Step {
    /// Returns what to do with the variant `offer` of a model that had the entries `before`. `same`
    /// states whether the model has not changed, `target` is what an operator loads.
    fn of(offer: &Offer, before: &[Arc<Entry>], same: bool, target: Option<&Target>) -> Self {
        let variant = &offer.source.variant;
        if target.is_some_and(|target| target.variant == *variant) {
            return Self::Load;
        }
        let whole = target.is_some_and(|target| target.whole);
        let mut entries = before.iter();
        let old = entries.find(|entry| entry.source().variant == *variant);
        match old {
            Some(old) if whole && is_unloaded(old) => Self::Later,
            Some(old) if same => Self::Keep(Arc::clone(old)),
            Some(old) => match old.state() {
                LoadState::Loaded | LoadState::Loading => Self::Load,
                LoadState::Unloaded => Self::Unloaded,
                LoadState::Failed if offer.at_start => Self::Load,
                LoadState::NotLoaded | LoadState::Failed => Self::Later,
            },
            // A variant of a model that an operator has unloaded is not loaded either.
            None if !whole && !before.is_empty() && before.iter().all(is_unloaded) => {
                Self::Unloaded
            }
            None if offer.at_start => Self::Load,
            None => Self::Later,
        }
    }

    /// Returns the new entry of `offer`. Takes a network from `loaded` if it was to be loaded, and
    /// returns `None` if there is none left.
    fn entry(
        &self,
        offer: &Offer,
        loaded: &mut impl Iterator<Item = LoadedModel>,
    ) -> Option<Arc<Entry>> {
        let (source, plan) = (offer.source.clone(), offer.plan);
        Some(match self {
            Self::Keep(entry) => Arc::clone(entry),
            Self::Load => Arc::new(Entry::loaded(source, loaded.next()?)),
            Self::Later => Arc::new(Entry::new(source, plan)),
            Self::Unloaded => Arc::new(Entry::unloaded(source, plan)),
        })
    }
}

fn is_unloaded(entry: &Arc<Entry>) -> bool {
    entry.state() == LoadState::Unloaded
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
        model: model.to_owned(),
        reason: reason.to_owned(),
    }
}

/// Splits `name@variant` into its parts.
fn split(reference: &str) -> (&str, Option<&str>) {
    match reference.split_once('@') {
        Some((model, variant)) => (model, Some(variant)),
        None => (reference, None),
    }
}
