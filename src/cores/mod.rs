//! The CPU cores of the process, which decoding, inference and postprocessing share.
//!
//! A job runs while it holds a [`Lease`] on its cores. The module [`machine`] decides which job is next and how many
//! cores it gets; it has no threads and no clock, so that a simulation (`simulation`) can run it for machines of any
//! size. This module gives it a lock and a clock, and passes the leases on: to the worker of a model that waits for its
//! turn, or to the image pool.
//!
//! Everything that can start a job ends with [`Lane::dispatch`]: a change of a demand, an idle worker, the end of a
//! lease, and, for jobs that may only start later, a thread that sleeps until then.

mod machine;
mod scaling;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak, mpsc};
use std::time::{Duration, Instant};

use crate::budget::Budget;
pub(crate) use machine::Demand;
use machine::{Grant, LaneId, Machine};
pub use scaling::{Performance, Scaling, Step};

/// The cores of the process. Clones share the same cores.
#[derive(Clone)]
pub struct Cores {
    shared: Arc<Shared>,
    /// Ends the thread of the clock when the last clone is dropped.
    owner: Arc<Owner>,
}

struct Shared {
    state: Mutex<State>,
    /// Signalled when the thread of the clock must wake earlier, or end.
    changed: Condvar,
    /// Moment from which the times of the machine count.
    started: Instant,
    /// Held while the scaling of a network is measured, so that measurements do not disturb each other.
    measuring: Mutex<()>,
}

struct State {
    machine: Machine<mpsc::Sender<Lease>>,
    links: BTreeMap<LaneId, Link>,
    clock: Clock,
}

/// What the thread of the clock does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Clock {
    /// The thread was not needed yet.
    NotStarted,
    /// The thread sleeps until this time, or until it is woken.
    Sleeps(Option<Duration>),
    /// The last handle was dropped.
    Ended,
}

/// What the cores know about the owner of a lane.
struct Link {
    /// Places of the images that were admitted and that no batch has taken.
    coming: Option<Budget>,
    /// Starts the jobs of a lane without workers.
    starter: Option<Arc<dyn StartJob>>,
}

/// Starts the next job of a lane that has no workers.
pub(crate) trait StartJob: Send + Sync {
    /// Starts a job, which holds `lease` until it ends. Called without locks of this module.
    fn start(&self, lease: Lease);
}

struct Owner(Arc<Shared>);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.lock().clock = Clock::Ended;
        self.0.changed.notify_all();
    }
}

impl fmt::Debug for Cores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cores").finish_non_exhaustive()
    }
}

impl Cores {
    /// Returns `total` cores, at least one, whose use `performance` bounds.
    pub fn new(total: usize, performance: Performance) -> Self {
        let state = State {
            machine: Machine::new(total, performance),
            links: BTreeMap::new(),
            clock: Clock::NotStarted,
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            changed: Condvar::new(),
            started: Instant::now(),
            measuring: Mutex::new(()),
        });
        Self {
            owner: Arc::new(Owner(Arc::clone(&shared))),
            shared,
        }
    }

    /// Returns the number of cores.
    pub fn total(&self) -> usize {
        self.shared.lock().machine.total()
    }

    /// Returns the number of cores in use. Above the total if short jobs share cores with long ones.
    pub fn used(&self) -> usize {
        let now = self.shared.now();
        self.shared.lock().machine.used(now)
    }

    /// Adds the lane of a model whose network has `scaling`. `coming` are the places of its queue.
    pub(crate) fn model(&self, scaling: Scaling, coming: Budget) -> Lane {
        let link = Link {
            coming: Some(coming),
            starter: None,
        };
        self.lane(scaling, true, link)
    }

    /// Adds a lane whose jobs run on one core each, and are started by `starter`.
    pub(crate) fn jobs(&self, starter: Arc<dyn StartJob>) -> Lane {
        let link = Link {
            coming: None,
            starter: Some(starter),
        };
        self.lane(Scaling::single(Duration::ZERO), false, link)
    }

    fn lane(&self, scaling: Scaling, workers: bool, link: Link) -> Lane {
        let mut state = self.shared.lock();
        let id = state.machine.add_lane(scaling, workers);
        state.links.insert(id, link);
        drop(state);
        Lane {
            cores: self.clone(),
            id,
        }
    }

    /// Waits until no other network is being measured, and runs `measure`.
    pub(crate) fn measuring<T>(&self, measure: impl FnOnce() -> T) -> T {
        let turn = self.shared.measuring.lock();
        let _turn = turn.unwrap_or_else(PoisonError::into_inner);
        measure()
    }

    /// Starts every job that may run now.
    fn dispatch(&self) {
        let mut started = Vec::new();
        let mut state = self.shared.lock();
        let now = self.shared.now();
        loop {
            let coming = state.links.values().filter_map(|link| link.coming.as_ref());
            let coming = coming.map(|places| places.used() as usize).sum();
            let Some(grant) = state.machine.next(now, coming) else {
                break;
            };
            let link = state.links.get(&grant.lane);
            let starter = link.and_then(|link| link.starter.clone());
            started.push((grant, starter));
        }
        let starts_clock = self.set_clock(&mut state, now);
        // Leases lock the state when they are dropped, which happens below if nobody takes them.
        drop(state);
        if starts_clock {
            self.start_clock();
        }
        for (grant, starter) in started {
            let Grant {
                lane,
                run,
                width,
                worker,
            } = grant;
            let lease = Lease {
                cores: self.clone(),
                lane,
                run,
                width,
                claimed: false,
            };
            match (worker, starter) {
                // Without a receiver, the lease is dropped with the error.
                (Some(worker), _) => drop(worker.send(lease)),
                (None, Some(starter)) => starter.start(lease),
                (None, None) => {}
            }
        }
    }

    /// Makes the thread of the clock wake when a waiting job may start. Returns whether the thread must be started.
    fn set_clock(&self, state: &mut State, now: Duration) -> bool {
        let Some(due) = state.machine.due(now) else {
            return false;
        };
        match state.clock {
            Clock::NotStarted => {
                state.clock = Clock::Sleeps(None);
                true
            }
            Clock::Sleeps(wakes) => {
                if wakes.is_none_or(|wakes| due < wakes) {
                    state.clock = Clock::Sleeps(Some(due));
                    self.shared.changed.notify_all();
                }
                false
            }
            Clock::Ended => false,
        }
    }

    fn start_clock(&self) {
        // The thread holds no owner, so that it ends with the last one.
        let shared = Arc::downgrade(&self.shared);
        let owner = Arc::downgrade(&self.owner);
        let thread = std::thread::Builder::new().name("cores-clock".to_owned());
        if let Err(error) = thread.spawn(move || keep_time(&shared, &owner)) {
            tracing::error!(%error, "cannot start the thread that starts delayed batches: the next attempt follows");
            self.shared.lock().clock = Clock::NotStarted;
        }
    }
}

/// Starts the jobs that become due, until the owner of the cores is dropped.
fn keep_time(shared: &Weak<Shared>, owner: &Weak<Owner>) {
    let Some(shared) = shared.upgrade() else {
        return;
    };
    loop {
        let mut state = shared.lock();
        let now = shared.now();
        let due = state.machine.due(now);
        if state.clock == Clock::Ended {
            return;
        }
        state.clock = Clock::Sleeps(due);
        let waited = match due {
            None => shared.changed.wait(state).ok(),
            Some(due) => {
                let left = due.saturating_sub(now);
                let waited = shared.changed.wait_timeout(state, left);
                waited.ok().map(|(state, _)| state)
            }
        };
        drop(waited);
        let Some(owner) = owner.upgrade() else {
            return;
        };
        let cores = Cores {
            shared: Arc::clone(&shared),
            owner,
        };
        cores.dispatch();
    }
}

impl Shared {
    /// Locks the state, even if a thread panicked while it held the lock: no code panics in the middle of a change.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }
}

/// A source of jobs. Dropping it removes its demand; jobs that run keep their leases.
pub(crate) struct Lane {
    cores: Cores,
    id: LaneId,
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane").field("id", &self.id).finish()
    }
}

impl Lane {
    /// Returns `at` on the clock of the demands.
    pub(crate) fn time(&self, at: Instant) -> Duration {
        at.saturating_duration_since(self.cores.shared.started)
    }

    /// Replaces the demand. [`Lane::dispatch`] must follow when the caller has released its locks.
    pub(crate) fn demand(&self, demand: Option<Demand>) {
        self.cores.shared.lock().machine.demand(self.id, demand);
    }

    /// Offers a worker with sessions of `widths`, in ascending order, and returns the receiver of its next lease. The
    /// channel closes without one when the idle workers are recalled. [`Lane::dispatch`] must follow when the caller
    /// has released its locks.
    pub(crate) fn offer(&self, widths: &[usize]) -> mpsc::Receiver<Lease> {
        let (worker, lease) = mpsc::channel();
        let mut state = self.cores.shared.lock();
        state.machine.offer(self.id, widths, worker);
        lease
    }

    /// Wakes the idle workers without a job.
    pub(crate) fn recall(&self) {
        let recalled = self.cores.shared.lock().machine.recall(self.id);
        drop(recalled);
    }

    /// Starts every job of the process that may run now.
    pub(crate) fn dispatch(&self) {
        self.cores.dispatch();
    }

    /// Returns the lease of a free core for a part of a running job. `None` if no core is free, or if a job waits.
    pub(crate) fn help(&self) -> Option<Lease> {
        let now = self.cores.shared.now();
        let run = self.cores.shared.lock().machine.help(self.id, now)?;
        Some(Lease {
            cores: self.cores.clone(),
            lane: self.id,
            run,
            width: 1,
            claimed: true,
        })
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        let mut state = self.cores.shared.lock();
        let recalled = state.machine.recall(self.id);
        state.machine.remove_lane(self.id);
        state.links.remove(&self.id);
        drop(state);
        drop(recalled);
    }
}

/// The right to run a job on a number of cores. Dropping it frees the cores and starts the jobs that they allow.
pub(crate) struct Lease {
    cores: Cores,
    lane: LaneId,
    run: u64,
    width: usize,
    /// Whether the job was taken out of the demand of its lane.
    claimed: bool,
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("width", &self.width)
            .finish_non_exhaustive()
    }
}

impl Lease {
    /// Returns the number of cores.
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// Records that the job of this lease was taken out of the demand of its lane, which is `demand` now.
    pub(crate) fn claim(&mut self, demand: Option<Demand>) {
        let mut state = self.cores.shared.lock();
        if !std::mem::replace(&mut self.claimed, true) {
            state.machine.claim(self.lane);
        }
        state.machine.demand(self.lane, demand);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let now = self.cores.shared.now();
        let mut state = self.cores.shared.lock();
        if !self.claimed {
            state.machine.claim(self.lane);
        }
        state.machine.finish(self.run, now);
        drop(state);
        self.cores.dispatch();
    }
}
