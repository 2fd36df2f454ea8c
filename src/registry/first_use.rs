//! Loading of models when they are first requested.
//!
//! The first request for a variant that is not loaded starts a task that loads it; the request, and
//! others for the same variant, wait for the result within their own deadlines. The task does not
//! depend on these requests: it continues if their clients leave. Only a few requests wait.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::LoadedModel;
use super::entry::{Entry, Failure, LoadState, State};
use super::loads::{AttemptError, MAX_WAITING};
use super::models::Shared;
use crate::error::ServeError;

impl Shared {
    /// Waits until `entry` is loaded; starts to load it if that is necessary.
    pub(super) async fn wait(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
    ) -> Result<Arc<LoadedModel>, ServeError> {
        if let Some(error) = self.loads.refusal(entry) {
            return Err(error);
        }
        let place = self.loads.places.try_acquire();
        let _place = place.map_err(|_| ServeError::ModelLoading {
            model: entry.id(),
            waiting: MAX_WAITING,
        })?;
        loop {
            if self.loads.stopping.is_cancelled() {
                return Err(ServeError::Draining);
            }
            if let Some(previous) = entry.begin() {
                tokio::spawn(Arc::clone(self).attempt(Arc::clone(entry), previous));
            }
            let state = tokio::select! {
                biased;
                state = entry.settled() => state,
                () = self.loads.stopping.cancelled() => return Err(ServeError::Draining),
            };
            let model = entry.id();
            match state {
                State::Loaded(model) => return Ok(model),
                State::Failed(failure) => return Err(self.loads.failed(entry, failure)),
                State::Unloaded => return Err(ServeError::ModelUnloaded { model }),
                // The model was replaced before the attempt began: the caller finds the new one.
                State::NotLoaded | State::Loading if !self.snapshot().contains(entry) => {
                    let retry_after = Duration::ZERO;
                    return Err(ServeError::ModelChanged { model, retry_after });
                }
                // The model was loaded, and unloaded again to make room, before this task ran.
                State::NotLoaded | State::Loading => {}
            }
        }
    }

    /// Loads `entry` as soon as no other operation changes its model, and sets its state to the
    /// result. `previous` is the state before the attempt.
    async fn attempt(self: Arc<Self>, entry: Arc<Entry>, previous: State) {
        let failed_before = matches!(previous, State::Failed(_));
        let mut ending = Ending {
            shared: &self,
            entry: &entry,
            state: previous,
            started: None,
        };
        let _operation = self.operations.begin(entry.name()).await;
        let paused = failed_before && !self.loads.pause().is_zero();
        let current = self.snapshot().contains(&entry) && entry.state() == LoadState::Loading;
        if self.loads.stopping.is_cancelled() || paused || !current {
            return;
        }
        let model = entry.id();
        tracing::info!(model, "loading model on first use");
        let started = Instant::now();
        (ending.state, ending.started) = (State::Failed(Failure::Other), Some(started));
        let loaded = self.load_for(&entry).await;
        // Held until the state is set, so that memory is divided among the models that are loaded.
        let room = self.room.lock().await;
        let loaded = match loaded {
            Ok(model) => self.fit(vec![model], &[]).await,
            Err(error) => Err(error),
        };
        ending.state = match loaded {
            Ok(mut models) => match models.pop() {
                Some(model) => State::Loaded(Arc::new(model)),
                None => State::NotLoaded,
            },
            Err(error) => self.first_use_failed(&entry, &error, started.elapsed()),
        };
        // Before the next attempt begins.
        drop(ending);
        drop(room);
    }

    /// Loads the network of `entry`, which is requested for the first time.
    async fn load_for(&self, entry: &Entry) -> Result<LoadedModel, AttemptError> {
        self.loads.check_loadable(entry.source())?;
        let expected = self.loads.models.expected(entry.source());
        self.evict_for(expected, &[])?;
        let (source, plan) = (entry.source().clone(), entry.plan());
        self.loads.load(source, plan, true).await
    }

    /// Reports the failure of an attempt that a request started, and starts the pause. Returns the
    /// state of the entry.
    fn first_use_failed(&self, entry: &Entry, error: &AttemptError, taken: Duration) -> State {
        let failure = error.failure();
        // A failure that is final is not repeated, so it needs no pause.
        let pause = (!failure.is_final()).then(|| self.loads.start_pause(taken));
        tracing::error!(
            model = entry.id(),
            error = error.to_string(),
            retry_after_ms = pause.map(|pause| pause.as_millis() as u64),
            "cannot load model on first use"
        );
        entry.report(Some(entry.source().public_reason(&error.to_string())));
        State::Failed(failure)
    }
}

/// Sets the state of an entry when an attempt ends, also if the attempt panics: otherwise requests
/// would wait for it for ever.
struct Ending<'a> {
    shared: &'a Shared,
    entry: &'a Entry,
    state: State,
    /// When the attempt began. `None` while it waits for its turn.
    started: Option<Instant>,
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        if let Some(started) = self.started.filter(|_| std::thread::panicking()) {
            self.shared.loads.start_pause(started.elapsed());
        }
        let loaded = matches!(self.state, State::Loaded(_));
        if loaded {
            self.entry.report(None);
        }
        let state = std::mem::replace(&mut self.state, State::NotLoaded);
        if self.entry.finish(state) && self.started.is_some() {
            let (metrics, label) = (&self.shared.loads.metrics, self.entry.label());
            if loaded {
                metrics.loaded(label).set(1);
            } else {
                metrics.unloaded(label);
            }
        }
    }
}
