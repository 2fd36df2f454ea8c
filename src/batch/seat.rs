//! A worker's place at the watchdog, with and without an engine.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::seats::Standing;
use super::watchdog::Watched;
use crate::engine::{Engine, EngineError, Outputs, StopRuns};
use crate::image::PreparedImage;

/// Time that a run may take although no request needs its result any more, as a multiple of the first test run.
const PATIENCE: u32 = 5;
/// Upper limit of this time.
const MAX_PATIENCE: Duration = Duration::from_secs(30);

/// The place of one worker of a model. Dropping the value makes the worker leave.
pub(super) struct Seat {
    worker: usize,
    watched: Arc<Watched>,
}

/// The engines of a worker, which runs one of them at a time. The runs are stopped at their time limits.
pub struct WatchedEngines {
    // Dropped before the seat: when a worker has left, the memory of its engines is free.
    /// By ascending thread count. At least one.
    engines: Vec<WatchedEngine>,
    seat: Seat,
}

/// An engine of a worker.
struct WatchedEngine {
    threads: usize,
    engine: Box<dyn Engine>,
    handle: Arc<dyn StopRuns>,
    /// Whether the engine has run once.
    has_run: bool,
}

impl Seat {
    /// Adds a worker to those that `watched` watches.
    pub(super) fn new(watched: &Arc<Watched>, standing: Standing) -> Self {
        let worker = watched.update(|seats| seats.add(standing, [1].into()));
        Self::taken(watched, worker)
    }

    /// Returns the place of `worker`, which was added before.
    pub(super) fn taken(watched: &Arc<Watched>, worker: usize) -> Self {
        Self {
            worker,
            watched: Arc::clone(watched),
        }
    }

    /// Returns the number of the worker.
    pub(super) fn worker(&self) -> usize {
        self.worker
    }

    /// Returns the state that all workers of the model share.
    pub(super) fn watched(&self) -> &Watched {
        &self.watched
    }

    /// Returns the thread counts of the worker's engines, in ascending order.
    pub(super) fn widths(&self) -> Arc<[usize]> {
        self.watched.widths(self.worker)
    }

    /// Gives the worker engines with these thread counts, in ascending order.
    pub(super) fn with(
        self,
        engines: impl IntoIterator<Item = (usize, Box<dyn Engine>)>,
    ) -> WatchedEngines {
        let engines = engines.into_iter();
        WatchedEngines {
            engines: engines
                .map(|(threads, engine)| WatchedEngine::new(threads, engine))
                .collect(),
            seat: self,
        }
    }

    /// Records that the worker's engine failed, or, if `rebuild` is true, that it could not be rebuilt.
    pub(super) fn fail(&self, rebuild: bool) {
        self.watched
            .update(|seats| seats.fail(self.worker, rebuild));
    }

    /// Returns whether the worker can be trusted with a batch.
    pub(super) fn standing(&self) -> Standing {
        self.watched.standing(self.worker)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.watched.leave(self.worker);
    }
}

impl WatchedEngine {
    fn new(threads: usize, engine: Box<dyn Engine>) -> Self {
        Self {
            threads,
            handle: engine.stop_handle(),
            engine,
            has_run: false,
        }
    }
}

impl WatchedEngines {
    /// Adds an engine with `threads` threads, more than those of the others.
    pub fn add(&mut self, threads: usize, engine: Box<dyn Engine>) {
        self.engines.push(WatchedEngine::new(threads, engine));
        self.report_widths();
    }

    /// Drops the engine with the most threads, unless it is the only one.
    pub fn drop_widest(&mut self) {
        if self.engines.len() > 1 {
            self.engines.pop();
            self.report_widths();
        }
    }

    fn report_widths(&self) {
        let Seat { worker, watched } = &self.seat;
        let widths = self.engines.iter().map(|engine| engine.threads).collect();
        watched.update(|seats| seats.set_widths(*worker, widths));
    }

    /// Runs the batch as [`Engine::run`] does, on the engine with the most threads up to `width`, and stops the run at
    /// `limit`. Afterwards the worker may have been replaced, see `Seat::standing`.
    ///
    /// # Errors
    /// [`EngineError::Stopped`] if the run was stopped, [`EngineError::Panicked`] if the engine panicked, or else the
    /// error of the engine.
    pub fn run(
        &mut self,
        width: usize,
        batch: Vec<PreparedImage>,
        limit: Instant,
    ) -> Result<Vec<Outputs>, EngineError> {
        let Seat { worker, watched } = &self.seat;
        let fitting = self.engines.iter().rposition(|e| e.threads <= width);
        let WatchedEngine {
            engine,
            handle,
            has_run,
            ..
        } = &mut self.engines[fitting.unwrap_or_default()];
        watched.begin(*worker, limit, Arc::clone(handle));
        let started = Instant::now();
        // Unwind safe, because an engine that panicked is not used again.
        let result = catch_unwind(AssertUnwindSafe(|| engine.run(batch)));
        let first = !std::mem::replace(has_run, true);
        let stopped = watched.end(*worker, first.then(|| started.elapsed()));
        match result {
            Ok(Err(_)) if stopped => Err(EngineError::Stopped),
            Ok(result) => result,
            Err(_) => Err(EngineError::Panicked),
        }
    }

    /// Returns the place of the worker.
    pub(super) fn seat(&self) -> &Seat {
        &self.seat
    }

    /// Records that a test run succeeded: the worker can be trusted with batches.
    pub(super) fn prove(&self) {
        let Seat { worker, watched } = &self.seat;
        watched.update(|seats| seats.prove(*worker));
    }

    /// Returns the time limit of a run that begins now and is needed until `needed`: a run may always take several
    /// times as long as the test run of a full batch, so that only runaway runs are stopped, and not runs that begin
    /// late under overload.
    pub(super) fn limit(&self, needed: Instant) -> Instant {
        let usual = self.seat.watched.first_run();
        needed.max(Instant::now() + usual.saturating_mul(PATIENCE).min(MAX_PATIENCE))
    }

    /// Drops the engines, whose state may be broken, and returns their worker's place.
    pub(super) fn dismantle(self) -> Seat {
        let Self { engines, seat } = self;
        if catch_unwind(AssertUnwindSafe(|| drop(engines))).is_err() {
            let model = &seat.watched.model;
            tracing::error!(
                model,
                worker = seat.worker,
                "panic while a failed engine was dropped"
            );
        }
        seat
    }
}
