//! One variant of a model in the registry: its description, and its network if that is loaded.

use std::sync::Arc;

use serde::Serialize;
use tokio::sync::watch;

use super::{LoadedModel, ModelPlan};
use crate::metrics::ModelLabel;
use crate::store::ModelSource;

/// A variant of a model that the server serves. Its description is known from the start; its network
/// is loaded at start or when it is first requested.
pub struct Entry {
    source: ModelSource,
    plan: ModelPlan,
    /// Read on the path of every request, under a lock that is held for the time of a copy.
    state: watch::Sender<State>,
}

/// Whether the network of an [`Entry`] is loaded.
#[derive(Clone)]
pub(super) enum State {
    NotLoaded,
    /// A task loads the network, or waits until another network is loaded.
    Loading,
    Loaded(Arc<LoadedModel>),
    Failed(Failure),
}

/// Why the last attempt to load a network failed, as far as requests are told. The log has the
/// reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// The memory of the process was too small to load the network.
    Memory,
    /// The memory for tensors is too small until a restart.
    TensorMemory,
    /// The model was replaced since the server started.
    Changed,
    /// Any other reason.
    Other,
}

impl Failure {
    /// Returns whether no attempt can succeed before a restart of the server.
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
    /// The last attempt to load the variant failed; a later request starts another one, unless only
    /// a restart of the server helps.
    Failed,
}

impl Entry {
    /// Creates an entry whose network is not loaded. `plan` has the settings of its queue and
    /// workers.
    pub fn new(source: ModelSource, plan: ModelPlan) -> Self {
        Self {
            source,
            plan,
            state: watch::Sender::new(State::NotLoaded),
        }
    }

    /// Creates an entry whose network is `model`, loaded from `source`.
    pub fn loaded(source: ModelSource, model: LoadedModel) -> Self {
        let entry = Self::new(source, model.plan);
        entry.set(State::Loaded(Arc::new(model)));
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
            State::NotLoaded | State::Loading | State::Failed(_) => None,
        }
    }

    /// Returns whether the network is loaded.
    pub fn state(&self) -> LoadState {
        match &*self.state.borrow() {
            State::NotLoaded => LoadState::NotLoaded,
            State::Loading => LoadState::Loading,
            State::Loaded(_) => LoadState::Loaded,
            State::Failed(_) => LoadState::Failed,
        }
    }

    /// Returns the name of the model and its variant as `name@variant`.
    pub fn id(&self) -> String {
        self.source.id()
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
            State::NotLoaded | State::Loading | State::Loaded(_) => None,
        }
    }

    /// Sets the state, and wakes the requests that wait for the end of an attempt.
    pub(super) fn set(&self, state: State) {
        self.state.send_replace(state);
    }

    /// Sets the state to [`State::Loading`] and returns `true` if the caller has to load the
    /// network. Returns `false` if it is loaded or being loaded, or if only a restart of the server
    /// helps.
    pub(super) fn begin(&self) -> bool {
        self.state.send_if_modified(|state| {
            let begins = match state {
                State::NotLoaded => true,
                State::Failed(failure) => !failure.is_final(),
                State::Loading | State::Loaded(_) => false,
            };
            if begins {
                *state = State::Loading;
            }
            begins
        })
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
