//! One variant of a model in the registry: its description, and its network if that is loaded.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Instant;

use serde::Serialize;
use tokio::sync::watch;

use super::{LoadedModel, ModelPlan};
use crate::metrics::ModelLabel;
use crate::store::ModelSource;

/// Start of the clock of [`Entry::touch`].
static CLOCK: LazyLock<Instant> = LazyLock::new(Instant::now);

/// A variant of a model that the server serves. Its description never changes: a model that is
/// replaced gets new entries, so that a request keeps the labels and the preprocessing that belong
/// to its network. The network is loaded at start or when it is first requested.
pub struct Entry {
    source: ModelSource,
    plan: ModelPlan,
    /// Read on the path of every request, under a lock that is held for the time of a copy.
    state: watch::Sender<State>,
    /// Why the last attempt to load or to replace the variant failed. `None` after a success.
    error: Mutex<Option<Arc<str>>>,
    /// Time of the last request, in milliseconds of [`CLOCK`].
    used: AtomicU64,
}

/// Whether the network of an [`Entry`] is loaded.
#[derive(Clone)]
pub(super) enum State {
    NotLoaded,
    /// A task loads the network, or waits until other networks are loaded.
    Loading,
    Loaded(Arc<LoadedModel>),
    Failed(Failure),
    /// An operator unloaded the network; requests do not load it again.
    Unloaded,
}

impl State {
    /// Ends the export of the readiness of a loaded model.
    pub(super) fn retire(&self) {
        if let Self::Loaded(model) = self {
            model.batcher.retire();
        }
    }
}

/// Why the last attempt to load a network failed, as far as requests are told. The log has the
/// reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// The memory of the process, or the memory for models, was too small to load the network.
    Memory,
    /// The memory for tensors is too small while the other models are loaded.
    TensorMemory,
    /// The model's files were replaced since the server read the manifest.
    Changed,
    /// Any other reason.
    Other,
}

impl Failure {
    /// Returns whether no attempt can succeed before the model is reloaded or another model is
    /// unloaded.
    pub(super) fn is_final(self) -> bool {
        matches!(self, Self::TensorMemory | Self::Changed)
    }
}

/// The state of an [`Entry`], as `GET /v1/models` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LoadState {
    /// The variant is loaded when it is first requested.
    NotLoaded,
    /// The variant is being loaded.
    Loading,
    /// The variant is loaded.
    Loaded,
    /// The last attempt to load the variant failed; a later request starts another one, unless
    /// that cannot succeed.
    Failed,
    /// An operator unloaded the variant; only an operator loads it again.
    Unloaded,
}

impl Entry {
    /// Creates an entry whose network is not loaded. `plan` has the settings of its queue and
    /// workers.
    pub fn new(source: ModelSource, plan: ModelPlan) -> Self {
        Self::with_state(source, plan, State::NotLoaded)
    }

    /// Creates an entry whose network is `model`, loaded from `source`.
    pub fn loaded(source: ModelSource, model: LoadedModel) -> Self {
        let (plan, model) = (model.plan, Arc::new(model));
        Self::with_state(source, plan, State::Loaded(model))
    }

    /// Creates an entry that an operator has unloaded before its files changed.
    pub(super) fn unloaded(source: ModelSource, plan: ModelPlan) -> Self {
        Self::with_state(source, plan, State::Unloaded)
    }

    fn with_state(source: ModelSource, plan: ModelPlan, state: State) -> Self {
        let entry = Self {
            source,
            plan,
            state: watch::Sender::new(state),
            error: Mutex::new(None),
            used: AtomicU64::new(0),
        };
        entry.touch();
        entry
    }

    /// Returns the variant's manifest, labels and files.
    pub fn source(&self) -> &ModelSource {
        &self.source
    }

    /// Returns the settings of the variant's queue and workers: those in use if it is loaded, else
    /// those that are planned.
    pub fn plan(&self) -> ModelPlan {
        self.model().map_or(self.plan, |model| model.plan)
    }

    /// Returns the loaded model. `None` if it is not loaded.
    pub fn model(&self) -> Option<Arc<LoadedModel>> {
        match &*self.state.borrow() {
            State::Loaded(model) => Some(Arc::clone(model)),
            State::NotLoaded | State::Loading | State::Failed(_) | State::Unloaded => None,
        }
    }

    /// Returns whether the network is loaded.
    pub fn state(&self) -> LoadState {
        match &*self.state.borrow() {
            State::NotLoaded => LoadState::NotLoaded,
            State::Loading => LoadState::Loading,
            State::Loaded(_) => LoadState::Loaded,
            State::Failed(_) => LoadState::Failed,
            State::Unloaded => LoadState::Unloaded,
        }
    }

    /// Returns why the last attempt to load or to replace the variant failed, in a form that
    /// clients may see. `None` if it succeeded or if there was none.
    pub fn error(&self) -> Option<Arc<str>> {
        self.error_lock().clone()
    }

    /// Sets the result of [`Entry::error`].
    pub(super) fn report(&self, error: Option<Arc<str>>) {
        *self.error_lock() = error;
    }

    /// No code panics while it holds this lock.
    fn error_lock(&self) -> std::sync::MutexGuard<'_, Option<Arc<str>>> {
        self.error.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that a request uses the variant now.
    pub fn touch(&self) {
        let now = CLOCK.elapsed().as_millis() as u64;
        self.used.store(now, Ordering::Relaxed);
    }

    /// Returns the time of the last request, for comparison with that of other entries.
    pub(super) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Returns the name of the model and its variant as `name@variant`.
    pub fn id(&self) -> String {
        self.source.id()
    }

    /// Returns the name of the model.
    pub fn name(&self) -> &str {
        &self.source.manifest.name
    }

    /// Returns the label values (model and variant) of the Prometheus metrics.
    pub fn label(&self) -> ModelLabel<'_> {
        ModelLabel {
            model: &self.source.manifest.name,
            variant: &self.source.variant,
        }
    }

    /// Returns whether `reference` names this variant as `name@variant`, or its model as `name`.
    pub(super) fn matches(&self, reference: &str) -> bool {
        let rest = reference.strip_prefix(self.source.manifest.name.as_str());
        rest.is_some_and(|rest| {
            rest.is_empty() || rest.strip_prefix('@') == Some(self.source.variant.as_str())
        })
    }

    /// Returns why the last attempt failed. `None` if the network is loaded, being loaded, or was
    /// not requested yet.
    pub(super) fn failure(&self) -> Option<Failure> {
        match &*self.state.borrow() {
            State::Failed(failure) => Some(*failure),
            State::NotLoaded | State::Loading | State::Loaded(_) | State::Unloaded => None,
        }
    }

    /// Sets the state, and wakes the requests that wait for the end of an attempt. Returns the
    /// previous state.
    pub(super) fn set(&self, state: State) -> State {
        self.state.send_replace(state)
    }

    /// Sets the state to [`State::Loading`] if the caller has to load the network, and returns the
    /// previous state. Returns `None` if it is loaded, being loaded or unloaded, or if an attempt
    /// cannot succeed.
    pub(super) fn begin(&self) -> Option<State> {
        let mut previous = None;
        self.state.send_if_modified(|state| {
            let begins = match state {
                State::NotLoaded => true,
                State::Failed(failure) => !failure.is_final(),
                State::Loading | State::Loaded(_) | State::Unloaded => false,
            };
            if begins {
                previous = Some(std::mem::replace(state, State::Loading));
            }
            begins
        });
        previous
    }

    /// Ends an attempt that [`Entry::begin`] allowed, with the state `state`. Returns `false`, and
    /// changes nothing, if the state was set meanwhile.
    pub(super) fn finish(&self, state: State) -> bool {
        self.state.send_if_modified(|current| {
            let loading = matches!(current, State::Loading);
            if loading {
                *current = state;
            }
            loading
        })
    }

    /// Ends the export of the readiness of the loaded model, which is about to serve no new requests.
    pub(super) fn retire(&self) {
        self.state.borrow().retire();
    }

    /// Drops the loaded model, so that a later request loads it again. Returns whether it was
    /// loaded.
    pub(super) fn evict(&self) -> bool {
        let mut evicted = None;
        self.state.send_if_modified(|state| {
            let loaded = matches!(state, State::Loaded(_));
            if loaded {
                evicted = Some(std::mem::replace(state, State::NotLoaded));
            }
            loaded
        });
        let evicted = evicted.inspect(State::retire);
        evicted.is_some()
    }

    /// Allows another attempt after one that failed for want of memory for tensors.
    pub(super) fn retry_with_room(&self) {
        self.state.send_if_modified(|state| {
            let retry = matches!(state, State::Failed(Failure::TensorMemory));
            if retry {
                *state = State::NotLoaded;
            }
            retry
        });
    }

    /// Waits until no attempt to load the network is in progress, and returns the state then.
    pub(super) async fn settled(&self) -> State {
        let mut changes = self.state.subscribe();
        let settled = changes.wait_for(|state| !matches!(state, State::Loading));
        // The sender is part of this entry, so the channel cannot close while this future runs.
        settled
            .await
            .map_or(State::NotLoaded, |state| state.clone())
    }
}
