//! The watchdog of one model: a thread that stops the runs of the model's workers at their time limits.
//!
//! A run can be endless: a network may contain a loop whose number of iterations depends on the image. The watchdog
//! sleeps until the earliest time limit. A worker that does not return although its run was stopped, because a single
//! operator takes very long, is *stuck* until it returns.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::engine::{Engine, EngineError, Outputs, StopRuns};
use crate::image::PreparedImage;
use crate::metrics::BatchMetrics;

/// Time after a run was stopped until its worker counts as stuck, if the run has not returned.
const STUCK_AFTER: Duration = Duration::from_secs(5);

/// Stops the runs of one model's engines at their time limits.
pub struct Watchdog {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// An engine whose runs are stopped at their time limits.
pub struct WatchedEngine {
    engine: Box<dyn Engine>,
    /// Index of the engine in [`Watched::runs`].
    index: usize,
    shared: Arc<Shared>,
}

struct Shared {
    watched: Mutex<Watched>,
    /// Signalled when a run begins whose limit is before the time at which the thread wakes, and when the watchdog is
    /// dropped.
    changed: Condvar,
    /// Number of workers that are stuck.
    stuck: AtomicUsize,
    /// The model, as `name@variant`, for the log.
    model: String,
    metrics: BatchMetrics,
}

#[derive(Default)]
struct Watched {
    runs: Vec<Run>,
    /// Time at which the thread wakes without a signal. `None` if only a signal wakes it.
    wakes: Option<Instant>,
    closed: bool,
}

/// The state of one engine.
struct Run {
    handle: Arc<dyn StopRuns>,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The engine does not run.
    Idle,
    /// The engine runs, and the watchdog stops the run at this time.
    Running(Instant),
    /// The run was stopped but has not returned. The worker counts as stuck from this time on.
    Stopped(Instant),
    /// The worker is stuck.
    Stuck,
}

impl Phase {
    /// Returns when the watchdog has to act on this engine next. `None` if there is nothing to do.
    fn due(self) -> Option<Instant> {
        match self {
            Self::Running(due) | Self::Stopped(due) => Some(due),
            Self::Idle | Self::Stuck => None,
        }
    }
}

impl Watchdog {
    /// Starts the watchdog of `model`, which is its name and variant as `name@variant`.
    ///
    /// # Errors
    /// The operating system's error if the thread cannot be started.
    pub fn start(model: String, metrics: BatchMetrics) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            watched: Mutex::default(),
            changed: Condvar::new(),
            stuck: AtomicUsize::new(0),
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

    /// Returns `engine` as an engine whose runs this watchdog stops.
    pub fn watch(&self, engine: Box<dyn Engine>) -> WatchedEngine {
        let run = Run {
            handle: engine.stop_handle(),
            phase: Phase::Idle,
        };
        let mut watched = self.shared.lock();
        watched.runs.push(run);
        WatchedEngine {
            engine,
            index: watched.runs.len() - 1,
            shared: Arc::clone(&self.shared),
        }
    }

    /// Makes [`Watchdog::stuck`] return `workers`.
    #[cfg(test)]
    pub(super) fn pretend_stuck(&self, workers: usize) {
        self.shared.stuck.store(workers, Ordering::Relaxed);
    }

    /// Returns the number of workers that have not returned although their runs were stopped.
    pub fn stuck(&self) -> usize {
        self.shared.stuck.load(Ordering::Relaxed)
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
            self.shared.changed.notify_one();
            // The thread does not panic, and a panic would have been reported already.
            let _ = thread.join();
        }
    }
}

impl WatchedEngine {
    /// Runs a batch as [`Engine::run`] does, and stops the run at `limit`.
    ///
    /// # Errors
    /// [`EngineError::Stopped`] if the run was stopped, or else the error of the engine.
    pub fn run(
        &mut self,
        batch: Vec<PreparedImage>,
        limit: Instant,
    ) -> Result<Vec<Outputs>, EngineError> {
        self.shared.begin(self.index, limit);
        // Catching the panic is unwind safe, because it continues below.
        let result = catch_unwind(AssertUnwindSafe(|| self.engine.run(batch)));
        let stopped = self.shared.end(self.index);
        match result {
            Ok(Err(_)) if stopped => Err(EngineError::Stopped),
            Ok(result) => result,
            Err(panic) => resume_unwind(panic),
        }
    }
}

impl Shared {
    /// No code panics while it holds this lock.
    fn lock(&self) -> MutexGuard<'_, Watched> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that engine `index` begins a run, which is stopped at `limit`.
    fn begin(&self, index: usize, limit: Instant) {
        let mut watched = self.lock();
        watched.runs[index].phase = Phase::Running(limit);
        if watched.wakes.is_none_or(|wakes| limit < wakes) {
            // Runs with later limits that begin before the thread has woken need no further signal.
            watched.wakes = Some(limit);
            drop(watched);
            self.changed.notify_one();
        }
    }

    /// Records that the run of engine `index` has returned, and returns whether it was stopped.
    ///
    /// The flag that stops runs is set and reset under the same lock, so that it never stops the next run.
    fn end(&self, index: usize) -> bool {
        let mut watched = self.lock();
        let run = &mut watched.runs[index];
        let phase = std::mem::replace(&mut run.phase, Phase::Idle);
        if phase == Phase::Stuck {
            self.stuck.fetch_sub(1, Ordering::Relaxed);
            self.metrics.stuck_workers.dec();
            tracing::warn!(
                model = self.model,
                worker = index,
                "stuck worker returned and continues"
            );
        }
        let stopped = matches!(phase, Phase::Stopped(_) | Phase::Stuck);
        if stopped {
            run.handle.allow();
        }
        stopped
    }

    /// Stops runs at their limits until the watchdog is dropped. This is the body of the watchdog's thread.
    fn watch(&self) {
        let mut watched = self.lock();
        while !watched.closed {
            let now = Instant::now();
            let due = self.act(&mut watched, now);
            watched.wakes = due;
            watched = match due {
                None => self
                    .changed
                    .wait(watched)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(due) => {
                    let left = due.saturating_duration_since(now);
                    let waited = self.changed.wait_timeout(watched, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Stops the runs whose limit has passed at `now`, and records the workers that are stuck. Returns when the next
    /// action is due.
    fn act(&self, watched: &mut Watched, now: Instant) -> Option<Instant> {
        for (worker, run) in watched.runs.iter_mut().enumerate() {
            if run.phase.due().is_none_or(|due| due > now) {
                continue;
            }
            let model = &self.model;
            if matches!(run.phase, Phase::Running(_)) {
                run.handle.stop();
                run.phase = Phase::Stopped(now + STUCK_AFTER);
                self.metrics.stopped_runs.inc();
                tracing::warn!(model, worker, "run stopped at its time limit");
            } else {
                run.phase = Phase::Stuck;
                self.stuck.fetch_add(1, Ordering::Relaxed);
                self.metrics.stuck_workers.inc();
                tracing::error!(
                    model,
                    worker,
                    "worker is stuck: its run was stopped but does not return, the model is not ready"
                );
            }
        }
        watched.runs.iter().filter_map(|run| run.phase.due()).min()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::sync::mpsc;

    use super::*;
    use crate::metrics::Metrics;

    /// An engine that runs until it is stopped if the batch is empty, and fails if a run begins while the flag is set.
    struct Endless {
        stopped: Arc<Flag>,
        left: mpsc::Receiver<()>,
    }

    #[derive(Default)]
    struct Flag {
        set: AtomicBool,
        signal: Mutex<Option<mpsc::Sender<()>>>,
    }

    impl StopRuns for Flag {
        fn stop(&self) {
            self.set.store(true, Ordering::SeqCst);
            if let Some(signal) = &*self.signal.lock().unwrap() {
                let _ = signal.send(());
            }
        }

        fn allow(&self) {
            self.set.store(false, Ordering::SeqCst);
        }
    }

    impl Engine for Endless {
        fn run(&mut self, batch: Vec<PreparedImage>) -> Result<Vec<Outputs>, EngineError> {
            assert!(
                !self.stopped.set.load(Ordering::SeqCst),
                "a run was stopped before it began"
            );
            if batch.is_empty() {
                self.left.recv().unwrap();
                return Err(EngineError::Missing {
                    name: "stopped".to_owned(),
                });
            }
            Ok(Vec::new())
        }

        fn stop_handle(&self) -> Arc<dyn StopRuns> {
            Arc::clone(&self.stopped) as Arc<dyn StopRuns>
        }
    }

    fn endless() -> (Watchdog, WatchedEngine, Arc<Flag>) {
        let (sender, left) = mpsc::channel();
        let flag = Arc::new(Flag::default());
        *flag.signal.lock().unwrap() = Some(sender);
        let metrics = Metrics::new().batch("m", "fp32");
        let watchdog = Watchdog::start("m@fp32".to_owned(), metrics).unwrap();
        let engine = watchdog.watch(Box::new(Endless {
            stopped: Arc::clone(&flag),
            left,
        }));
        (watchdog, engine, flag)
    }

    fn image() -> PreparedImage {
        let size = crate::image::ImageSize {
            width: 1,
            height: 1,
        };
        PreparedImage::whole(size, vec![0.0; 3])
    }

    #[test]
    fn a_run_is_stopped_at_its_limit_and_the_next_one_runs() {
        let (watchdog, mut engine, _) = endless();
        for _ in 0..3 {
            // The thread sleeps until the limit of the first run when the second begins.
            let later = Instant::now() + Duration::from_mins(1);
            assert!(engine.run(vec![image()], later).is_ok());
            let limit = Instant::now() + Duration::from_millis(5);
            let result = engine.run(Vec::new(), limit);
            assert!(matches!(result, Err(EngineError::Stopped)), "{result:?}");
            assert!(Instant::now() >= limit);
        }
        assert_eq!(watchdog.shared.metrics.stopped_runs.get(), 3);
        assert_eq!(watchdog.stuck(), 0);
    }

    #[test]
    fn a_run_that_ends_as_it_is_stopped_does_not_stop_the_next() {
        let (watchdog, mut engine, _) = endless();
        for round in 0..2000 {
            // The limit passes before, during or after the run.
            let limit = Instant::now() + Duration::from_micros(round % 20);
            assert!(engine.run(vec![image()], limit).is_ok());
        }
        drop(watchdog);
    }

    #[test]
    fn a_worker_that_does_not_return_is_stuck_until_it_does() {
        let (watchdog, engine, flag) = endless();
        let shared = &engine.shared;
        let start = Instant::now() + Duration::from_mins(10);
        let second = Duration::from_secs(1);
        let act = |seconds: u32| shared.act(&mut shared.lock(), start + second * seconds);
        shared.begin(0, start + second);
        assert_eq!(act(0), Some(start + second));
        assert!(!flag.set.load(Ordering::SeqCst));
        assert_eq!(act(1), Some(start + second * 6));
        assert!(flag.set.load(Ordering::SeqCst));
        assert_eq!(act(5), Some(start + second * 6));
        assert_eq!(watchdog.stuck(), 0);
        assert_eq!(act(6), None);
        assert_eq!((act(7), watchdog.stuck()), (None, 1));
        assert_eq!(shared.metrics.stuck_workers.get(), 1);
        assert!(shared.end(0));
        assert!(!flag.set.load(Ordering::SeqCst));
        assert_eq!(
            (watchdog.stuck(), shared.metrics.stuck_workers.get()),
            (0, 0)
        );
    }
}
