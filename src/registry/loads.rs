//! Loading of models when they are first requested.
//!
//! The first request for a variant that is not loaded starts a task that loads it; the request, and
//! others for the same variant, wait for the result within their own deadlines. The task does not
//! depend on these requests: it continues if their clients leave. One variant is loaded at a time,
//! and only a few requests wait. After a failure no attempt starts for a while, whichever variant it is
//! for, so that clients cannot keep the server loading. An attempt that cannot succeed before a
//! restart is not repeated.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::entry::{Entry, Failure, LoadState, State};
use super::tensors::{NoRoom, make_room};
use super::{LoadedModel, ModelPlan};
use crate::error::ServeError;
use crate::store::ModelSource;

/// Maximum number of requests that wait for models.
pub const MAX_WAITING: usize = 32;
/// Shortest and longest time between the end of a failed attempt and the next attempt, for any
/// model.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(10));
/// Time between a failed attempt and the next one, as a multiple of the time that the attempt took.
const PAUSE_FACTOR: u32 = 10;
/// Time after which a client may ask again for a model that cannot be loaded before a restart.
const AFTER_RESTART: Duration = Duration::from_hours(1);
/// Maximum time to wait until the images in work leave memory for the tensors of a new model.
const ROOM_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a model could not be loaded. The texts are for the log.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LoadFailure {
    /// The model was replaced since the server started; no further attempt is made.
    #[error("{0}")]
    Changed(String),
    /// The process has too little memory to load the model now.
    #[error("{0}")]
    Memory(String),
    /// Any other reason.
    #[error("{0}")]
    Other(String),
}

/// The function that loads a model. It is called on a thread that may block.
type Load = dyn Fn(ModelSource, ModelPlan) -> Result<LoadedModel, LoadFailure> + Send + Sync;

/// Loads models when they are first requested.
pub struct Loads {
    shared: Arc<Shared>,
    /// Places of the requests that wait.
    places: Semaphore,
}

struct Shared {
    load: Box<Load>,
    /// Memory in bytes for the tensors of all models.
    tensor_bytes: u64,
    /// Held by the task that loads a model.
    turn: Semaphore,
    /// End of the pause after a failed attempt. `None` before the first one.
    pause_end: Mutex<Option<Instant>>,
    /// Cancelled when the server stops.
    stopping: CancellationToken,
}

/// Why an attempt to load a model failed.
#[derive(Debug, Error)]
enum AttemptError {
    #[error(transparent)]
    Load(#[from] LoadFailure),
    #[error("the thread that loaded the model panicked")]
    Panicked,
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
}

impl Loads {
    /// Creates the loader of a server. `load` loads one model; it may block, and its error is
    /// logged. `tensor_bytes` is the memory for the tensors of all models.
    pub fn new(
        tensor_bytes: u64,
        load: impl Fn(ModelSource, ModelPlan) -> Result<LoadedModel, LoadFailure>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                load: Box::new(load),
                tensor_bytes,
                turn: Semaphore::new(1),
                pause_end: Mutex::new(None),
                stopping: CancellationToken::new(),
            }),
            places: Semaphore::new(MAX_WAITING),
        }
    }

    /// Makes waiting requests fail with [`ServeError::Draining`], and starts no further attempts. An
    /// attempt in progress is abandoned when the process ends.
    pub(super) fn stop(&self) {
        self.shared.stopping.cancel();
    }

    /// Waits until `entry` is loaded; starts to load it if that is necessary. `all` are the entries
    /// that share the memory for tensors, `entry` among them.
    pub(super) async fn wait(
        &self,
        entry: &Arc<Entry>,
        all: &Arc<[Arc<Entry>]>,
    ) -> Result<Arc<LoadedModel>, ServeError> {
        if let Some(error) = self.shared.refusal(entry) {
            return Err(error);
        }
        let place = self.places.try_acquire();
        let _place = place.map_err(|_| ServeError::ModelLoading {
            model: entry.id(),
            waiting: MAX_WAITING,
        })?;
        if self.shared.stopping.is_cancelled() {
            return Err(ServeError::Draining);
        }
        if entry.begin() {
            let shared = Arc::clone(&self.shared);
            tokio::spawn(shared.attempt(Arc::clone(entry), Arc::clone(all)));
        }
        let state = tokio::select! {
            biased;
            state = entry.settled() => state,
            () = self.shared.stopping.cancelled() => State::NotLoaded,
        };
        match state {
            State::Loaded(model) => Ok(model),
            State::Failed(failure) => Err(self.shared.failed(entry, failure)),
            State::NotLoaded | State::Loading if self.shared.stopping.is_cancelled() => {
                Err(ServeError::Draining)
            }
            // The attempt for another model failed before it was this model's turn.
            State::NotLoaded | State::Loading => Err(self.shared.paused(entry)),
        }
    }
}

impl Shared {
    /// Returns why no attempt to load `entry` may start now. `None` if one may start, or if one is
    /// in progress.
    fn refusal(&self, entry: &Entry) -> Option<ServeError> {
        let paused = !self.pause().is_zero();
        match entry.failure() {
            Some(failure) if paused || failure.is_final() => Some(self.failed(entry, failure)),
            None if paused && entry.state() == LoadState::NotLoaded => Some(self.paused(entry)),
            _ => None,
        }
    }

    /// Returns the time that is left of the pause after the last failed attempt.
    fn pause(&self) -> Duration {
        let end = *self
            .pause_end
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        end.map_or(Duration::ZERO, |end| {
            end.saturating_duration_since(Instant::now())
        })
    }

    /// Starts the pause after an attempt that failed within `taken`, and returns its length.
    fn start_pause(&self, taken: Duration) -> Duration {
        let pause = pause_after(taken);
        let mut end = self
            .pause_end
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *end = Some(Instant::now() + pause);
        pause
    }

    /// Returns the error of a request for a model that could not be loaded.
    fn failed(&self, entry: &Entry, failure: Failure) -> ServeError {
        let (model, pause) = (entry.id(), self.pause());
        match failure {
            Failure::Other => ServeError::ModelLoadFailed {
                model,
                retry_after: pause,
            },
            Failure::Memory => ServeError::ModelMemory {
                model,
                retry_after: pause,
            },
            Failure::TensorMemory => ServeError::ModelTensorMemory {
                model,
                retry_after: AFTER_RESTART,
            },
            Failure::Changed => ServeError::ModelChanged {
                model,
                retry_after: AFTER_RESTART,
            },
        }
    }

    /// Returns the error of a request for a model that is not loaded because the attempt to load
    /// another one has failed.
    fn paused(&self, entry: &Entry) -> ServeError {
        ServeError::ModelLoadsPaused {
            model: entry.id(),
            retry_after: self.pause(),
        }
    }

    /// Loads `entry` as soon as no other entry is being loaded, and sets its state to the result.
    async fn attempt(self: Arc<Self>, entry: Arc<Entry>, all: Arc<[Arc<Entry>]>) {
        let mut ending = Ending {
            shared: &self,
            entry: &entry,
            state: State::NotLoaded,
            started: None,
        };
        let _turn = self.turn.acquire().await;
        if self.stopping.is_cancelled() || !self.pause().is_zero() {
            return;
        }
        let model = entry.id();
        tracing::info!(model, "loading model on first use");
        let started = Instant::now();
        (ending.state, ending.started) = (State::Failed(Failure::Other), Some(started));
        let loaded = self.load(&entry, &all).await;
        ending.state = match loaded {
            Ok(model) => State::Loaded(Arc::new(model)),
            Err(error) => {
                let failure = error.failure();
                // A failure that is final is not repeated, so other models need not wait.
                let pause = (!failure.is_final()).then(|| self.start_pause(started.elapsed()));
                tracing::error!(
                    model,
                    error = error.to_string(),
                    retry_after_ms = pause.map(|pause| pause.as_millis() as u64),
                    "cannot load model on first use"
                );
                State::Failed(failure)
            }
        };
        // Before the next attempt begins.
        drop(ending);
    }

    /// Loads the network of `entry`, and makes room for its tensors.
    async fn load(
        self: &Arc<Self>,
        entry: &Entry,
        all: &[Arc<Entry>],
    ) -> Result<LoadedModel, AttemptError> {
        let (shared, source, plan) = (Arc::clone(self), entry.source().clone(), entry.plan());
        let loading = tokio::task::spawn_blocking(move || (shared.load)(source, plan));
        let model = loading.await.map_err(|_| AttemptError::Panicked)?;
        let model = model?;
        let others: Vec<Arc<LoadedModel>> = all.iter().filter_map(|entry| entry.model()).collect();
        let end = Instant::now() + ROOM_TIMEOUT;
        if let Err(error) = make_room(&others, &model, self.tensor_bytes, end).await {
            model.metrics.loaded.set(0);
            // Dropping a model joins its threads, which blocks.
            tokio::task::spawn_blocking(move || drop(model));
            return Err(error.into());
        }
        Ok(model)
    }
}

impl AttemptError {
    /// Returns what requests for the model are told.
    fn failure(&self) -> Failure {
        match self {
            Self::Load(LoadFailure::Changed(_)) => Failure::Changed,
            Self::Load(LoadFailure::Memory(_)) => Failure::Memory,
            // Loaded models stay loaded, so the memory stays too small.
            Self::NoRoom(NoRoom::TooSmall(_)) => Failure::TensorMemory,
            Self::Load(LoadFailure::Other(_)) | Self::Panicked | Self::NoRoom(NoRoom::Held(_)) => {
                Failure::Other
            }
        }
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
            self.shared.start_pause(started.elapsed());
        }
        let state = std::mem::replace(&mut self.state, State::NotLoaded);
        self.entry.set(state);
    }
}

/// Returns the time until the next attempt after an attempt that failed within `taken`. It grows
/// with `taken`, so that attempts take a small part of the CPU time, whatever clients ask for, and a corrected file is
/// served soon.
fn pause_after(taken: Duration) -> Duration {
    taken.saturating_mul(PAUSE_FACTOR).clamp(PAUSE.0, PAUSE.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_grows_with_the_time_of_the_attempt_and_is_bounded() {
        let cases = [
            (0, 1000),
            (50, 1000),
            (400, 4000),
            (20_000, 200_000),
            (90_000, 600_000),
        ];
        for (taken, expected) in cases {
            let pause = pause_after(Duration::from_millis(taken));
            assert_eq!(pause, Duration::from_millis(expected), "{taken}");
        }
    }
}
