//! The workers of one model and how they are, as plain data: the clock is passed in.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use thiserror::Error;
use tracing::Span;

use crate::engine::StopRuns;

/// Time after a run was stopped until its worker counts as stuck, if the run has not returned.
pub(super) const STUCK_AFTER: Duration = Duration::from_secs(2);
/// Maximum number of stuck workers of a model that are replaced. Each of them keeps its engine and uses its CPU threads
/// until it returns, so the number of images that can cost a thread is limited.
/// Stuck workers of instances of the model that were replaced or unloaded count too.
pub(super) const MAX_ABANDONED: usize = 3;
/// Number of stuck threads from which on a model is not loaded again.
pub(crate) const MAX_STUCK: usize = MAX_ABANDONED + 1;
/// Time until the number of stuck workers of other instances is looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Shortest time between the starts of two replacements.
const HIRE_INTERVAL: Duration = Duration::from_millis(250);

/// Why a loaded model is not ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Unready {
    /// A run was stopped at its time limit, and the test run that has to follow has not succeeded yet.
    #[error("a run was stopped at its time limit, and no test run has succeeded since")]
    Stopped,
    /// Workers are stuck and are not replaced.
    #[error(
        "{threads} threads are stuck in runs that cannot be stopped, and no further worker is replaced: restart the \
         server unless they return"
    )]
    Stuck {
        /// Number of threads whose runs were stopped, but have not returned.
        threads: usize,
    },
    /// No worker has a working engine at the moment; engines are being rebuilt.
    #[error("its workers are being rebuilt")]
    Rebuilding,
    /// No worker has a working engine, and the last attempt to rebuild each of them failed.
    #[error("its workers failed and cannot be rebuilt, see the server's log: attempts continue")]
    Failed,
}

/// Whether a worker can be trusted with a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// No run of its engine was stopped or failed since it last succeeded in a test run.
    Sound,
    /// Its engine failed, or is being rebuilt.
    Broken,
    /// A run of its engine, or of the worker that it replaces, was stopped. The model is not ready until a test run
    /// succeeds.
    Withdrawn,
    /// Another worker has taken its place, because its run did not return: its thread ends.
    Abandoned,
}

/// What the engine of a worker does.
enum Phase {
    Idle,
    /// The engine runs, and the run is stopped at this time.
    Running(Instant, Arc<dyn StopRuns>),
    /// The run was stopped but has not returned. The worker counts as stuck from this time on.
    Stopped(Instant, Arc<dyn StopRuns>),
    /// The run does not return.
    Stuck(Arc<dyn StopRuns>),
}

struct Seat {
    phase: Phase,
    standing: Standing,
    /// Whether the last attempt to rebuild the engine failed.
    failed: bool,
    /// Tracing span of the oldest request in the batch, to which the log lines about the run belong.
    span: Span,
    /// Thread counts of the worker's sessions, in ascending order.
    widths: Arc<[usize]>,
}

/// What happened to a worker, for the log and the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// The run was stopped at its time limit.
    Stopped,
    /// The stopped run does not return.
    Stuck,
    /// The worker's place is given to another worker.
    Abandoned,
}

/// The workers of one model. A worker has a number.
pub(super) struct Seats {
    workers: BTreeMap<usize, Seat>,
    next: usize,
    /// Whether stuck workers are replaced.
    pub(super) replaces: bool,
    /// Thread counts of the sessions of each worker that has left and whose place is to be taken by a new one.
    vacant: Vec<Arc<[usize]>>,
    /// Earliest time at which the next replacement is started.
    hire_from: Instant,
    /// Whether the last replacement could not be started.
    refused: bool,
    /// Time at which stuck workers may be replaced because those of other instances have returned. `None` if no worker
    /// waits for this.
    look_again: Option<Instant>,
}

impl Seats {
    /// Creates an empty list of workers at the time `now`. Stuck workers are not replaced.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            workers: BTreeMap::new(),
            next: 0,
            replaces: false,
            vacant: Vec::new(),
            hire_from: now,
            refused: false,
            look_again: None,
        }
    }

    /// Adds a worker with sessions of the thread counts `widths`, and returns its number.
    pub(super) fn add(&mut self, standing: Standing, widths: Arc<[usize]>) -> usize {
        let worker = self.next;
        self.next += 1;
        let seat = Seat {
            phase: Phase::Idle,
            standing,
            failed: false,
            span: Span::none(),
            widths,
        };
        self.workers.insert(worker, seat);
        worker
    }

    /// Removes a worker. If it is `lost` because its thread panicked, its place becomes vacant.
    pub(super) fn remove(&mut self, worker: usize, lost: bool) {
        let removed = self.workers.remove(&worker);
        let kept = removed.filter(|seat| seat.standing != Standing::Abandoned);
        if lost && self.replaces {
            self.vacant.extend(kept.map(|seat| seat.widths));
        }
    }

    /// Returns the thread counts of the sessions of a worker, in ascending order.
    pub(super) fn widths(&self, worker: usize) -> Arc<[usize]> {
        let seat = self.workers.get(&worker);
        seat.map_or_else(|| [1].into(), |seat| Arc::clone(&seat.widths))
    }

    /// Sets the thread counts of the sessions of a worker, in ascending order.
    pub(super) fn set_widths(&mut self, worker: usize, widths: Arc<[usize]>) {
        if let Some(seat) = self.workers.get_mut(&worker) {
            seat.widths = widths;
        }
    }

    /// Records that a run begins, which is stopped at `limit` with `handle`.
    pub(super) fn begin(&mut self, worker: usize, limit: Instant, handle: Arc<dyn StopRuns>) {
        if let Some(seat) = self.workers.get_mut(&worker) {
            seat.phase = Phase::Running(limit, handle);
            seat.span = Span::current();
        }
    }

    /// Records that the run of a worker has returned. Returns whether it was stopped, and whether the worker was stuck.
    /// Its engine can run again, unless it is abandoned.
    pub(super) fn end(&mut self, worker: usize) -> (bool, bool) {
        let Some(seat) = self.workers.get_mut(&worker) else {
            return (false, false);
        };
        seat.span = Span::none();
        match std::mem::replace(&mut seat.phase, Phase::Idle) {
            Phase::Idle | Phase::Running(..) => (false, false),
            Phase::Stopped(_, handle) => {
                handle.allow();
                (true, false)
            }
            Phase::Stuck(handle) => {
                handle.allow();
                (true, true)
            }
        }
    }

    /// Returns the tracing span of the run of a worker.
    pub(super) fn span(&self, worker: usize) -> Span {
        let seat = self.workers.get(&worker);
        seat.map_or_else(Span::none, |seat| seat.span.clone())
    }

    pub(super) fn standing(&self, worker: usize) -> Standing {
        let seat = self.workers.get(&worker);
        seat.map_or(Standing::Abandoned, |seat| seat.standing)
    }

    /// Records that a test run of the worker succeeded.
    pub(super) fn prove(&mut self, worker: usize) {
        if let Some(seat) = self.workers.get_mut(&worker) {
            (seat.standing, seat.failed) = (Standing::Sound, false);
        }
    }

    /// Records that the engine of the worker failed. `failed` states whether an attempt to rebuild it failed.
    pub(super) fn fail(&mut self, worker: usize, failed: bool) {
        if let Some(seat) = self.workers.get_mut(&worker) {
            seat.failed = failed;
            if seat.standing == Standing::Sound {
                seat.standing = Standing::Broken;
            }
        }
    }

    /// Stops the runs whose limit has passed at `now`, and gives up workers whose stopped runs do not return. Returns
    /// what happened to which worker. `elsewhere` is the number of stuck workers of other instances of the model.
    pub(super) fn act(&mut self, now: Instant, elsewhere: usize) -> Vec<(usize, Event)> {
        let mut events = Vec::new();
        for (worker, seat) in &mut self.workers {
            match &seat.phase {
                Phase::Running(due, handle) if *due <= now => {
                    handle.stop();
                    seat.phase = Phase::Stopped(now + STUCK_AFTER, Arc::clone(handle));
                    seat.standing = Standing::Withdrawn;
                    events.push((*worker, Event::Stopped));
                }
                Phase::Stopped(due, handle) if *due <= now => {
                    seat.phase = Phase::Stuck(Arc::clone(handle));
                    events.push((*worker, Event::Stuck));
                }
                _ => {}
            }
        }
        self.abandon(elsewhere, &mut events);
        let waits = self.replaces && elsewhere > 0 && self.count(Seat::is_blocked) > 0;
        self.look_again = waits.then_some(now + LOOK_AGAIN);
        events
    }

    /// Makes the places of stuck workers vacant, as long as not too many workers were abandoned.
    fn abandon(&mut self, elsewhere: usize, events: &mut Vec<(usize, Event)>) {
        if !self.replaces {
            return;
        }
        let mut free = MAX_ABANDONED.saturating_sub(self.count(Seat::is_abandoned) + elsewhere);
        for (worker, seat) in &mut self.workers {
            if free > 0 && seat.is_blocked() {
                seat.standing = Standing::Abandoned;
                self.vacant.push(Arc::clone(&seat.widths));
                free -= 1;
                events.push((*worker, Event::Abandoned));
            }
        }
    }

    /// Adds a worker for a vacant place, and returns its number. Returns `None` if no place is vacant, or if the last
    /// replacement was started too shortly before `now`.
    pub(super) fn hire(&mut self, now: Instant) -> Option<usize> {
        if self.hire_due()? > now {
            return None;
        }
        let widths = self.vacant.pop()?;
        self.hire_from = now + HIRE_INTERVAL;
        Some(self.add(Standing::Withdrawn, widths))
    }

    /// Records whether the thread of a worker that [`Seats::hire`] returned could be started. If it could not, its
    /// place, with sessions of the thread counts `widths`, is vacant again.
    pub(super) fn hired(&mut self, started: bool, widths: Arc<[usize]>) {
        self.refused = !started;
        if !started {
            self.vacant.push(widths);
        }
    }

    fn hire_due(&self) -> Option<Instant> {
        (!self.vacant.is_empty()).then_some(self.hire_from)
    }

    /// Returns when [`Seats::act`] or [`Seats::hire`] has something to do next.
    pub(super) fn due(&self) -> Option<Instant> {
        let runs = self.workers.values().filter_map(|seat| match seat.phase {
            Phase::Running(due, _) | Phase::Stopped(due, _) => Some(due),
            Phase::Idle | Phase::Stuck(_) => None,
        });
        runs.chain(self.hire_due()).chain(self.look_again).min()
    }

    /// Returns whether a worker may still take batches, now or when its run has returned. A worker that is stuck is not
    /// waited for.
    pub(super) fn at_work(&self) -> bool {
        let place = !self.vacant.is_empty() && !self.refused;
        place || self.count(|seat| !seat.is_stuck()) > 0
    }

    /// Returns the number of threads whose runs were stopped but do not return.
    pub(super) fn stuck(&self) -> usize {
        self.count(Seat::is_stuck)
    }

    /// Returns why the model is not ready; `None` if it is.
    pub(super) fn unready(&self) -> Option<Unready> {
        let threads = self.stuck();
        let places = || self.workers.values().filter(|seat| !seat.is_abandoned());
        let hopeful = |seat: &Seat| !seat.is_stuck() && !seat.failed;
        if places().any(Seat::is_stuck) {
            return Some(Unready::Stuck { threads });
        }
        if self.is_down() {
            return Some(Unready::Failed);
        }
        let withdrawn = places().any(|seat| seat.standing == Standing::Withdrawn);
        if withdrawn || !self.vacant.is_empty() {
            return Some(Unready::Stopped);
        }
        let sound = places().any(|seat| seat.standing == Standing::Sound && hopeful(seat));
        (!sound && !self.workers.is_empty()).then_some(Unready::Rebuilding)
    }

    /// Returns whether no worker is left, and none is about to be there: all are stuck or could not be rebuilt.
    pub(super) fn is_down(&self) -> bool {
        let exists = !self.workers.is_empty() || !self.vacant.is_empty();
        let hope = self.count(|seat| !seat.is_stuck() && !seat.failed) > 0;
        exists && !hope && (self.vacant.is_empty() || self.refused)
    }

    fn count(&self, condition: impl Fn(&Seat) -> bool) -> usize {
        self.workers.values().filter(|seat| condition(seat)).count()
    }

    /// Makes all workers appear to be stuck, or idle. Workers that appear to be stuck are not replaced.
    #[cfg(test)]
    pub(super) fn pretend_stuck(&mut self, stuck: bool) {
        self.replaces = !stuck;
        for seat in self.workers.values_mut() {
            seat.phase = if stuck {
                Phase::Stuck(Arc::new(crate::engine::Unstoppable))
            } else {
                Phase::Idle
            };
        }
    }
}

impl Seat {
    fn is_stuck(&self) -> bool {
        matches!(self.phase, Phase::Stuck(_))
    }

    fn is_abandoned(&self) -> bool {
        self.standing == Standing::Abandoned
    }

    /// Returns whether the worker is stuck and keeps its place.
    fn is_blocked(&self) -> bool {
        self.is_stuck() && !self.is_abandoned()
    }
}

#[cfg(test)]
mod tests;
