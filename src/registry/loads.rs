//! Loading of models when they are first requested.
//!
//! The first request for a variant that is not loaded starts a task that loads it; the request, and
//! others for the same variant, wait for the result within their own deadlines. The task does not
//! depend on these requests: it continues if their clients leave. One variant is loaded at a time,
//! and only a few requests wait. After a failure, no attempt starts for a while, so that clients
//! cannot make the server load in a loop.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::entry::{Entry, Failure, State};
use super::tensors::{NoRoom, make_room};
use super::{LoadedModel, ModelPlan};
use crate::error::ServeError;
use crate::store::ModelSource;

/// Maximum number of requests that wait for models.
pub const MAX_WAITING: usize = 32;
/// Shortest and longest time between the end of a failed attempt and the next attempt.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// Time between a failed attempt and the next one, as a multiple of the time that the attempt took.
const RETRY_FACTOR: u32 = 10;
/// Maximum time to wait until the images in work leave memory for the tensors of a new model.
const ROOM_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a model could not be loaded. For the log.
pub type LoadFailure = Box<dyn Error + Send + Sync>;

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
    /// Cancelled when the server stops.
    stopping: CancellationToken,
}

/// Why an attempt to load a model failed.
#[derive(Debug, Error)]
enum AttemptError {
    #[error("{0}")]
    Load(LoadFailure),
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
        if let Some(failure) = entry.failure() {
            return Err(failed(entry, failure));
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
            State::Failed(failure) => Err(failed(entry, failure)),
            State::NotLoaded | State::Loading => Err(ServeError::Draining),
        }
    }
}

impl Shared {
    /// Loads `entry` as soon as no other entry is being loaded, and sets its state to the result.
    async fn attempt(self: Arc<Self>, entry: Arc<Entry>, all: Arc<[Arc<Entry>]>) {
        let _turn = self.turn.acquire().await;
        if self.stopping.is_cancelled() {
            entry.set(State::NotLoaded);
            return;
        }
        let model = entry.id();
        tracing::info!(model, "loading model on first use");
        let started = Instant::now();
        let state = match self.load(&entry, &all).await {
            Ok(model) => State::Loaded(Arc::new(model)),
            Err(error) => {
                let pause = pause_after(started.elapsed());
                tracing::error!(
                    model,
                    error = error.to_string(),
                    retry_after_ms = pause.as_millis() as u64,
                    "cannot load model on first use"
                );
                State::Failed(Failure {
                    retry_at: Instant::now() + pause,
                    lacks_memory: matches!(error, AttemptError::NoRoom(_)),
                })
            }
        };
        entry.set(state);
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
        let model = model.map_err(AttemptError::Load)?;
        let others: Vec<Arc<LoadedModel>> = all.iter().filter_map(|entry| entry.model()).collect();
        let end = Instant::now() + ROOM_TIMEOUT;
        if let Err(error) = make_room(&others, &model, self.tensor_bytes, end).await {
            model.metrics.loaded.set(0);
            return Err(error.into());
        }
        Ok(model)
    }
}

/// Returns the error of a request for a model that could not be loaded.
fn failed(entry: &Entry, failure: Failure) -> ServeError {
    let (model, retry_after) = (entry.id(), failure.wait());
    if failure.lacks_memory {
        return ServeError::ModelMemory { model, retry_after };
    }
    ServeError::ModelLoadFailed { model, retry_after }
}

/// Returns the time until the next attempt after an attempt that failed within `taken`. It grows
/// with `taken`, so that attempts take a small part of the CPU time, and a corrected file is
/// served soon.
fn pause_after(taken: Duration) -> Duration {
    (RETRY_FACTOR * taken).clamp(RETRY.0, RETRY.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_grows_with_the_time_of_the_attempt_and_is_bounded() {
        let cases = [(0, 1000), (50, 1000), (400, 4000), (60_000, 30_000)];
        for (taken, expected) in cases {
            let pause = pause_after(Duration::from_millis(taken));
            assert_eq!(pause, Duration::from_millis(expected), "{taken}");
        }
    }
}
