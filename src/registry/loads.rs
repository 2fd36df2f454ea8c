//! Loading of models: when they are first requested, at start, and to replace others.
//!
//! Loads run in parallel as far as the cores and the memory for loading allow. After a failure, no
//! variant that has failed before is tried again during a pause, whichever failed, so that clients
//! cannot keep the server loading: each variant fails once without a pause, and all further attempts
//! take a small part of the time. Variants that have never failed are loaded during the pause.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::entry::{Entry, Failure};
use super::evict::{ModelMemory, OverModelMemory};
use super::find::{Find, Found};
use super::forget::Instances;
use super::tensors::NoRoom;
use super::threads::LoaderThreads;
use super::{LoadedModel, ModelPlan, label};
use crate::batch::MAX_STUCK;
use crate::budget::{Budget, Permit};
use crate::config::ConfigError;
use crate::error::ServeError;
use crate::memory::UNIT;
use crate::metrics::{LoadMetrics, ModelLabel};
use crate::store::ModelSource;

/// Maximum number of requests that wait for models.
pub const MAX_WAITING: usize = 32;
/// Shortest and longest time between the end of a failed attempt and the next attempt for a model
/// that has failed.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(10));
/// Time between a failed attempt and the next one, as a multiple of the time that the attempt took.
const PAUSE_FACTOR: u32 = 10;
/// Time after which a client may ask again for a model that cannot be loaded before an operator
/// changes something.
const AFTER_CHANGE: Duration = Duration::from_hours(1);
/// Expected memory that loading a model takes: a constant part, and a part per byte of its files.
const LOADING_BYTES: (u64, u64) = (64 << 20, 4);

/// Why a model could not be loaded. The texts are for the log.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LoadFailure {
    /// The model's files were replaced since the server read its manifest; no further attempt is
    /// made before the manifest is read again.
    #[error("{0}")]
    Changed(String),
    /// The process has too little memory to load the model now.
    #[error("{0}")]
    Memory(String),
    /// Any other reason.
    #[error("{0}")]
    Other(String),
}

/// A variant to load.
pub struct LoadJob {
    /// The variant.
    pub source: ModelSource,
    /// Settings of its queue and workers.
    pub plan: ModelPlan,
    /// Memory in bytes that other loads in progress are expected to take. `None` before the server
    /// is ready.
    pub beside: Option<u64>,
}

/// The function that loads a model. It is called on a thread that may block.
type Load = dyn Fn(LoadJob) -> Result<LoadedModel, LoadFailure> + Send + Sync;

/// The function that removes the metrics of a model.
type Forget = dyn Fn(ModelLabel<'_>) + Send + Sync;

/// Loads models, within limits.
pub struct Loads {
    /// `None` if nothing is loaded.
    load: Option<Arc<Load>>,
    /// Finds the models to serve. `None` if the set of models never changes.
    pub(super) find: Option<Arc<dyn Find>>,
    /// Memory in bytes for the tensors of all models.
    pub(super) tensor_bytes: u64,
    /// Places of the requests that wait.
    pub(super) places: Semaphore,
    threads: LoaderThreads,
    /// Threads that loads may use together.
    cores: Budget,
    /// Memory that loads may take together.
    memory: Budget,
    pub(super) models: ModelMemory,
    pub(super) metrics: LoadMetrics,
    pub(super) instances: Instances,
    /// Removes the metrics of a model that was removed. `None` if there are none.
    forget: Option<Arc<Forget>>,
    /// End of the pause after a failed attempt. `None` before the first one.
    pause_end: Mutex<Option<Instant>>,
    /// Cancelled when the server stops.
    pub(super) stopping: CancellationToken,
}

/// Why an attempt to load a model failed.
#[derive(Debug, Error)]
pub(super) enum AttemptError {
    #[error(transparent)]
    Load(#[from] LoadFailure),
    #[error("the thread that loaded the model panicked")]
    Panicked,
    #[error("{0} threads are stuck in runs that cannot be stopped: restart the server")]
    Stuck(usize),
    #[error(
        "requests still use {0} former instances of the model: retry when these requests have ended"
    )]
    InUse(usize),
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
    #[error(transparent)]
    OverMemory(#[from] OverModelMemory),
    #[error(transparent)]
    Default(#[from] ConfigError),
}

/// The right to load one model: a part of the cores and of the memory for loading.
pub(super) struct Turn {
    _cores: Permit,
    memory: Permit,
}

impl Loads {
    /// Creates a loader that loads one model at a time. `load` loads one model; it may block.
    /// `tensor_bytes` is the memory for the tensors of all models.
    pub fn new(
        tensor_bytes: u64,
        load: impl Fn(LoadJob) -> Result<LoadedModel, LoadFailure> + Send + Sync + 'static,
    ) -> Self {
        Self {
            load: Some(Arc::new(load)),
            tensor_bytes,
            ..Self::none()
        }
    }

    /// Creates a loader that loads nothing.
    pub(super) fn none() -> Self {
        Self {
            load: None,
            find: None,
            tensor_bytes: 0,
            places: Semaphore::new(MAX_WAITING),
            threads: LoaderThreads::default(),
            cores: Budget::new("loading_cores", 1, 1),
            memory: Budget::new("loading", UNIT, u64::MAX),
            models: ModelMemory::default(),
            metrics: LoadMetrics::default(),
            instances: Instances::default(),
            forget: None,
            pause_end: Mutex::new(None),
            stopping: CancellationToken::new(),
        }
    }

    /// Lets several models load in parallel, with `cores` threads and, if it is not `None`, with
    /// `memory` bytes altogether.
    #[must_use]
    pub fn parallel(self, cores: usize, memory: Option<u64>) -> Self {
        Self {
            cores: Budget::new("loading_cores", 1, cores.max(1) as u64),
            memory: Budget::new("loading", UNIT, memory.unwrap_or(u64::MAX)),
            ..self
        }
    }

    /// Sets what finds the models to serve, so that they can be changed, added and removed.
    #[must_use]
    pub fn finding(self, find: impl Find) -> Self {
        Self {
            find: Some(Arc::new(find)),
            ..self
        }
    }

    /// Sets the limit on the memory of the loaded models.
    #[must_use]
    pub fn within(self, models: ModelMemory) -> Self {
        Self { models, ..self }
    }

    /// Sets the metrics of the loads.
    #[must_use]
    pub fn measured(self, metrics: LoadMetrics) -> Self {
        Self { metrics, ..self }
    }

    /// Sets what removes the metrics of a model that was removed.
    #[must_use]
    pub fn forgetting(self, forget: impl Fn(ModelLabel<'_>) + Send + Sync + 'static) -> Self {
        Self {
            forget: Some(Arc::new(forget)),
            ..self
        }
    }

    /// Removes the metrics of a model that was removed.
    pub(super) fn forget(&self, label: ModelLabel<'_>) {
        if let Some(forget) = &self.forget {
            forget(label);
        }
    }

    /// Makes waiting requests fail with [`ServeError::Draining`], and starts no further attempts. An
    /// attempt in progress is abandoned when the process ends.
    pub(super) fn stop(&self) {
        self.stopping.cancel();
    }

    /// Returns the time that is left of the pause after the last failed attempt.
    pub(super) fn pause(&self) -> Duration {
        let end = *self
            .pause_end
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        end.map_or(Duration::ZERO, |end| {
            end.saturating_duration_since(Instant::now())
        })
    }

    /// Starts the pause after an attempt that failed within `taken`, and returns its length.
    pub(super) fn start_pause(&self, taken: Duration) -> Duration {
        let pause = pause_after(taken);
        let mut end = self
            .pause_end
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *end = Some(Instant::now() + pause);
        pause
    }

    /// Returns why no attempt to load `entry` may start now. `None` if one may start, or if one is
    /// in progress.
    pub(super) fn refusal(&self, entry: &Entry) -> Option<ServeError> {
        let failure = entry.failure()?;
        let refused = failure.is_final() || !self.pause().is_zero();
        refused.then(|| self.failed(entry, failure))
    }

    /// Returns the error of a request for a model that could not be loaded.
    pub(super) fn failed(&self, entry: &Entry, failure: Failure) -> ServeError {
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
                retry_after: AFTER_CHANGE,
            },
            Failure::Changed => ServeError::ModelChanged {
                model,
                retry_after: AFTER_CHANGE,
            },
        }
    }

    /// Checks that `source` may be loaded again. Otherwise clients could create any number of stuck threads with a model
    /// whose runs cannot be stopped, because each new instance would have new workers, and requests that take long could
    /// keep any number of instances in memory.
    ///
    /// # Errors
    /// [`AttemptError::Stuck`] if too many threads of the model are stuck, [`AttemptError::InUse`] if requests still use
    /// too many former instances.
    pub(super) fn check_loadable(&self, source: &ModelSource) -> Result<(), AttemptError> {
        let stuck = self.metrics.stuck(label(source));
        if stuck >= MAX_STUCK {
            return Err(AttemptError::Stuck(stuck));
        }
        let instances = self.instances.too_many(source);
        instances.map_or(Ok(()), |instances| Err(AttemptError::InUse(instances)))
    }

    /// Waits until there are cores and memory to load `source`.
    pub(super) async fn turn(&self, source: &ModelSource) -> Turn {
        // Most of a load runs on one thread.
        let cores = self.cores.acquire(1).await;
        // The built-in model is loaded alone: its memory is measured in this process.
        let bytes = source.file_bytes().map_or(u64::MAX, |bytes| {
            LOADING_BYTES.0 + bytes.saturating_mul(LOADING_BYTES.1)
        });
        let memory = self.memory.acquire(bytes).await;
        Turn {
            _cores: cores,
            memory,
        }
    }

    /// Loads one variant on a thread that may block. `serving` states whether the server is ready.
    pub(super) async fn load(
        &self,
        source: ModelSource,
        plan: ModelPlan,
        serving: bool,
    ) -> Result<LoadedModel, AttemptError> {
        let load = self.load.clone();
        let load =
            load.ok_or_else(|| LoadFailure::Other("the registry has no loader".to_owned()))?;
        let turn = self.turn(&source).await;
        let beside = self.memory.used().saturating_sub(turn.memory.amount());
        let job = LoadJob {
            source,
            plan,
            beside: serving.then_some(beside),
        };
        let loaded = self.threads.run(move || load(job)).await;
        let mut model = loaded.ok_or(AttemptError::Panicked)??;
        // The last request that uses the model may drop it on a thread that must not block.
        model.batcher.finish_in_background();
        self.instances.add(&model);
        self.metrics
            .took(model.label(), model.load_time.as_secs_f64());
        Ok(model)
    }

    /// Returns the models to serve now.
    pub(super) async fn find(&self) -> Result<Found, LoadFailure> {
        let find = self.find.clone();
        let find =
            find.ok_or_else(|| LoadFailure::Other("the set of models cannot change".to_owned()))?;
        let finding = tokio::task::spawn_blocking(move || find.find());
        let panicked = |_| LoadFailure::Other("the search for models panicked".to_owned());
        finding.await.map_err(panicked)?.map_err(LoadFailure::Other)
    }
}

impl AttemptError {
    /// Returns what requests for the model are told.
    pub(super) fn failure(&self) -> Failure {
        match self {
            Self::Load(LoadFailure::Changed(_)) => Failure::Changed,
            Self::Load(LoadFailure::Memory(_)) | Self::OverMemory(_) | Self::InUse(_) => {
                Failure::Memory
            }
            // The memory stays too small until another model is unloaded.
            Self::NoRoom(NoRoom::TooSmall(_)) => Failure::TensorMemory,
            Self::Load(LoadFailure::Other(_))
            | Self::Panicked
            | Self::Stuck(_)
            | Self::NoRoom(NoRoom::Held(_))
            | Self::Default(_) => Failure::Other,
        }
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
