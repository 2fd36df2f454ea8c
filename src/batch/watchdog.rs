//! The watchdog of one model: a thread that stops the runs of the model's workers at their time limits, and replaces
//! workers whose runs do not return.
//!
//! A run can be endless: a network may contain a loop whose number of iterations depends on the image. The watchdog
//! sleeps until the earliest time limit. A worker that does not return although its run was stopped, because a single
//! operator takes very long, is *stuck* until it returns. A new worker takes the place of a stuck one, whose thread is
//! abandoned: it ends when the run returns. [`seats`](super::seats) has the rules.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tracing::Span;

use super::seat::{Seat, WatchedEngines};
use super::seats::{Event, Seats, Standing, Unready};
use super::spare::Spare;
use crate::engine::{Engine, EngineError, StopRuns};
use crate::image::{ImageError, PreparedImage};
use crate::metrics::{BatchMetrics, WorkerFailure};

/// Stops the runs of one model's engines at their time limits.
pub struct Watchdog {
    shared: Arc<Watched>,
    thread: Option<JoinHandle<()>>,
}

/// Starts the thread of a worker that replaces another one.
type Hire = dyn Fn(Seat) -> io::Result<()> + Send + Sync;

/// The state that a watchdog shares with the workers.
pub(super) struct Watched {
    state: Mutex<State>,
    /// Signalled when a run begins whose limit is before the time at which the thread wakes, when a worker leaves, and
    /// when the watchdog is dropped.
    changed: Condvar,
    /// Signalled when a worker leaves or is stuck.
    left: Condvar,
    /// Starts replacements. Not set while the model is loaded.
    hire: OnceLock<Box<Hire>>,
    /// Creates and tests the engines of replacements.
    spare: Box<dyn Spare>,
    /// Held while an engine is created, which needs memory for a copy of the model's weights.
    creating: Mutex<()>,
    /// The model, as `name@variant`, for the log.
    pub(super) model: String,
    pub(super) metrics: BatchMetrics,
}

struct State {
    seats: Seats,
    /// Time at which the thread wakes without a signal. `None` if only a signal wakes it.
    wakes: Option<Instant>,
    /// Longest first run of an engine, which is its test run.
    first_run: Duration,
    /// Values of the gauges that were reported last: whether the model is ready, and the number of stuck workers.
    reported: (bool, usize),
    /// Whether this instance is replaced or unloaded. Another instance of the model may serve then.
    retired: bool,
    closed: bool,
}

impl Watchdog {
    /// Starts the watchdog of `model`, which is its name and variant as `name@variant`. `spare` creates the engines of
    /// workers that replace others.
    ///
    /// # Errors
    /// The operating system's error if the thread cannot be started.
    pub fn start(model: String, spare: Box<dyn Spare>, metrics: BatchMetrics) -> io::Result<Self> {
        let state = State {
            seats: Seats::new(Instant::now()),
            wakes: None,
            first_run: Duration::ZERO,
            reported: (false, 0),
            retired: false,
            closed: false,
        };
        let shared = Arc::new(Watched {
            state: Mutex::new(state),
            changed: Condvar::new(),
            left: Condvar::new(),
            hire: OnceLock::new(),
            spare,
            creating: Mutex::new(()),
            model,
            metrics,
        });
        let watching = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("watchdog".to_owned());
        Ok(Self {
            thread: Some(thread.spawn(move || watching.watch())?),
            shared,
        })
    }

    /// Returns `engine`, which has one thread, as the first engine of a new worker, whose runs this watchdog stops. The
    /// worker counts as ready when [`Batcher::start`](super::Batcher::start) starts it.
    pub fn watch(&self, engine: Box<dyn Engine>) -> WatchedEngines {
        Seat::new(&self.shared, Standing::Broken).with([(1, engine)])
    }

    /// From now on, replaces workers that are stuck or whose thread panicked: `hire` starts the thread of a new worker.
    pub(super) fn replace_workers(
        &self,
        hire: impl Fn(Seat) -> io::Result<()> + Send + Sync + 'static,
    ) {
        if self.shared.hire.set(Box::new(hire)).is_ok() {
            self.shared.update(|seats| seats.replaces = true);
        }
    }

    /// Records that this instance of the model is replaced or unloaded: from now on, the workers do not change the
    /// readiness of the model, which another instance may serve.
    pub(super) fn retire(&self) {
        self.shared.lock().retired = true;
    }

    /// Writes the readiness of the model, which another instance may have written meanwhile.
    pub(super) fn report_ready(&self) {
        let state = self.shared.lock();
        self.shared.metrics.ready.set(state.reported.0);
    }

    /// Returns why the model is not ready; `None` if it is.
    pub(super) fn unready(&self) -> Option<Unready> {
        self.shared.lock().seats.unready()
    }

    /// Returns why no worker is left; `None` if there is one, or if one is about to be there.
    pub(super) fn down(&self) -> Option<Unready> {
        let state = self.shared.lock();
        state.seats.unready().filter(|_| state.seats.is_down())
    }

    /// Waits until no worker may take a batch any more: all have left or are stuck.
    pub(super) fn wait_for_workers(&self) {
        let mut state = self.shared.lock();
        while state.seats.at_work() {
            state = self
                .shared
                .left
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Makes all workers appear to be stuck, or idle.
    #[cfg(test)]
    pub(super) fn pretend_stuck(&self, stuck: bool) {
        self.shared.update(|seats| seats.pretend_stuck(stuck));
    }
}

impl Watchdog {
    /// Returns this watchdog, and leaves a value behind whose drop does not end it.
    pub(super) fn hand_over(&mut self) -> Self {
        Self {
            thread: self.thread.take(),
            shared: Arc::clone(&self.shared),
        }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.shared.lock().closed = true;
            self.shared.changed.notify_all();
            // The thread does not panic, and a panic would have been reported already.
            let _ = thread.join();
        }
    }
}

impl Watched {
    /// No code panics while it holds this lock.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the workers, updates the gauges, and returns the result of `change`.
    pub(super) fn update<T>(&self, change: impl FnOnce(&mut Seats) -> T) -> T {
        let mut state = self.lock();
        let result = change(&mut state.seats);
        self.report(&mut state);
        result
    }

    /// Updates the gauges if their values have changed. Another instance of the model may use the same gauges, so
    /// values that have not changed are not written. A model that is still being loaded is not ready.
    fn report(&self, state: &mut State) {
        let ready = state.seats.replaces && state.seats.unready().is_none();
        let now = (ready, state.seats.stuck());
        let before = std::mem::replace(&mut state.reported, now);
        if now.0 != before.0 && !state.retired {
            self.metrics.ready.set(now.0);
        }
        if now.1 != before.1 {
            let change = now.1.cast_signed() - before.1.cast_signed();
            self.metrics.stuck_workers.inc_by(change as i64);
        }
    }

    /// Returns the number of stuck workers of other instances of the model: they were replaced or unloaded, but their
    /// runs have not returned. All instances count in the same gauge.
    fn stuck_elsewhere(&self, state: &State) -> usize {
        let all = usize::try_from(self.metrics.stuck_workers.get()).unwrap_or(0);
        all.saturating_sub(state.reported.1)
    }

    /// Creates an engine with `threads` threads that replaces another one. Creates one at a time, so that workers which fail together do not
    /// need memory for several copies of the weights.
    pub(super) fn create_engine(&self, threads: usize) -> Result<Box<dyn Engine>, EngineError> {
        let _turn = self.creating.lock().unwrap_or_else(PoisonError::into_inner);
        self.spare.engine(threads)
    }

    /// Returns the image of test runs.
    pub(super) fn test_image(&self) -> Result<PreparedImage, ImageError> {
        self.spare.image()
    }

    /// Returns the thread counts of the engines of a worker, in ascending order.
    pub(super) fn widths(&self, worker: usize) -> Arc<[usize]> {
        self.lock().seats.widths(worker)
    }

    /// Returns the standing of a worker.
    pub(super) fn standing(&self, worker: usize) -> Standing {
        self.lock().seats.standing(worker)
    }

    /// Records that a run of `worker` begins, which `handle` stops at `limit`.
    pub(super) fn begin(&self, worker: usize, limit: Instant, handle: Arc<dyn StopRuns>) {
        let mut state = self.lock();
        state.seats.begin(worker, limit, handle);
        if state.wakes.is_none_or(|wakes| limit < wakes) {
            // Runs with later limits that begin before the thread has woken need no further signal.
            state.wakes = Some(limit);
            drop(state);
            self.changed.notify_all();
        }
    }

    /// Records that the run of `worker` has returned, and returns whether it was stopped. `first_run` is the time that
    /// it took if it was the first run of its engine.
    ///
    /// The flag that stops runs is set and reset under the same lock, so that it never stops the next run.
    pub(super) fn end(&self, worker: usize, first_run: Option<Duration>) -> bool {
        let mut state = self.lock();
        let (was_stopped, was_stuck) = state.seats.end(worker);
        if let Some(time) = first_run.filter(|_| !was_stopped) {
            state.first_run = state.first_run.max(time);
        }
        self.report(&mut state);
        drop(state);
        if was_stuck {
            let model = &self.model;
            tracing::warn!(model, worker, "stuck worker returned");
        }
        was_stopped
    }

    /// Removes a worker that leaves.
    pub(super) fn leave(&self, worker: usize) {
        let lost = std::thread::panicking();
        if lost {
            self.metrics.failed(WorkerFailure::panic);
        }
        self.update(|seats| seats.remove(worker, lost));
        // The watchdog may have places to fill.
        self.changed.notify_all();
        self.left.notify_all();
    }

    /// Returns the longest time of an engine's first run, which is a full batch of test images.
    pub(super) fn first_run(&self) -> Duration {
        self.lock().first_run
    }

    /// Stops runs at their limits and replaces workers until the watchdog is dropped. This is the body of the
    /// watchdog's thread.
    fn watch(self: &Arc<Self>) {
        let mut state = self.lock();
        while !state.closed {
            let now = Instant::now();
            let elsewhere = self.stuck_elsewhere(&state);
            let events = state.seats.act(now, elsewhere);
            let hired = state.seats.hire(now);
            if events.is_empty() && hired.is_none() {
                state = self.sleep(state, now);
                continue;
            }
            self.report(&mut state);
            self.count(&events);
            let spans: Vec<Span> = events
                .iter()
                .map(|(worker, _)| state.seats.span(*worker))
                .collect();
            drop(state);
            // Without the lock, because writing the log and starting a thread can take long.
            self.log(&events, &spans);
            if let Some(worker) = hired {
                self.hire(worker);
            }
            state = self.lock();
        }
    }

    /// Waits until something is due, or until a signal.
    fn sleep<'a>(&self, mut state: MutexGuard<'a, State>, now: Instant) -> MutexGuard<'a, State> {
        let due = state.seats.due();
        state.wakes = due;
        let Some(due) = due else {
            let waited = self.changed.wait(state);
            return waited.unwrap_or_else(PoisonError::into_inner);
        };
        let left = due.saturating_duration_since(now);
        let waited = self.changed.wait_timeout(state, left);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Starts the thread of the worker with the number `worker`, which [`Seats::hire`] has added.
    fn hire(self: &Arc<Self>, worker: usize) {
        let seat = Seat::taken(self, worker);
        let widths = seat.widths();
        let started = match self.hire.get() {
            Some(hire) => hire(seat),
            None => Ok(()),
        };
        let model = &self.model;
        match &started {
            Ok(()) => tracing::info!(model, worker, "worker takes the place of another one"),
            Err(error) => tracing::error!(
                model,
                %error,
                "cannot start the thread of a worker, the next attempt follows"
            ),
        }
        self.update(|seats| seats.hired(started.is_ok(), widths));
        self.left.notify_all();
    }

    /// Counts what happened to workers.
    fn count(&self, events: &[(usize, Event)]) {
        for (_, event) in events {
            match event {
                Event::Stopped => {
                    self.metrics.stopped_runs.inc();
                }
                Event::Stuck => self.metrics.failed(WorkerFailure::stuck),
                Event::Abandoned => {}
            }
        }
    }

    /// Logs what happened to workers, each in the span of the worker's run.
    fn log(&self, events: &[(usize, Event)], spans: &[Span]) {
        let model = &self.model;
        for (&(worker, event), span) in events.iter().zip(spans) {
            let _entered = span.enter();
            match event {
                Event::Stopped => {
                    tracing::warn!(
                        model,
                        worker,
                        "run stopped at its time limit, the model is not ready until a test run succeeds"
                    );
                }
                Event::Stuck => {
                    tracing::error!(
                        model,
                        worker,
                        "worker is stuck: its run was stopped but does not return"
                    );
                    self.left.notify_all();
                }
                Event::Abandoned => {
                    tracing::error!(
                        model,
                        worker,
                        "worker is abandoned: its thread ends when its run returns"
                    );
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
