//! The order in which waiting jobs of the image pool run, as plain data: without threads and locks,
//! and with the current time as an argument.
//!
//! Jobs with a short predicted time overtake jobs with a long one, for a bounded time. Jobs on large images
//! have memory of their own and, while small images arrive, at most half of the threads, so that a small
//! image never waits for a series of large ones.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::budget::{Budget, Permit};

/// Number of pixels above which an image is large.
pub const LARGE_PIXELS: u64 = 4_000_000;
/// A waiting job is overtaken only by jobs that arrive within this many times its own predicted
/// time.
const PATIENCE: u32 = 8;
/// Time after the arrival of a small image during which jobs on large images use at most half of
/// the threads.
const SMALL_WINDOW: Duration = Duration::from_secs(1);

/// The predicted cost of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobCost {
    /// Predicted thread time of the job in nanoseconds.
    pub nanos: u64,
    /// Predicted peak memory of the job in bytes.
    pub bytes: u64,
    /// Pixels of the image that the job decodes or computes; 0 if the job has no image.
    pub pixels: u64,
}

impl JobCost {
    /// Returns the cost of a job without an image that takes `nanos` nanoseconds of a thread.
    pub fn time(nanos: u64) -> Self {
        Self {
            nanos,
            bytes: 0,
            pixels: 0,
        }
    }

    fn is_large(self) -> bool {
        self.pixels > LARGE_PIXELS
    }
}

/// Place of a waiting job in the order of its lane. The job with the smallest place runs first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// Arrival of the job plus [`PATIENCE`] times its predicted time.
    due: Duration,
    /// Order of arrival, which makes places unique.
    number: u64,
    large: bool,
}

/// A thread and memory that a running job holds.
#[derive(Debug)]
pub(super) struct Grant {
    large: bool,
    memory: Permit,
}

/// Jobs on images of one size class, small or large, and the memory for them.
#[derive(Debug)]
struct Lane<T> {
    waiting: BTreeMap<Place, (u64, T)>,
    memory: Budget,
    running: usize,
}

impl<T> Lane<T> {
    fn new(memory: Budget) -> Self {
        Self {
            waiting: BTreeMap::new(),
            memory,
            running: 0,
        }
    }

    fn first(&self) -> Option<Place> {
        self.waiting.keys().next().copied()
    }

    /// Takes the first waiting job and reserves its memory. `None` if no job waits, or if the
    /// memory that the first job needs is not free.
    fn take(&mut self) -> Option<(Permit, T)> {
        let entry = self.waiting.first_entry()?;
        // A job that needs more memory than the whole budget, which requests are rejected for before,
        // runs when the whole budget is free.
        let bytes = entry.get().0.min(self.memory.total());
        let memory = self.memory.try_acquire(bytes).ok()?;
        let (_, job) = entry.remove();
        self.running += 1;
        Some((memory, job))
    }
}

/// Jobs that wait for a thread and memory, and the threads in use. `T` represents a waiting job.
#[derive(Debug)]
pub(super) struct Schedule<T> {
    threads: usize,
    small: Lane<T>,
    large: Lane<T>,
    /// Current number of threads that compute a part of another thread's job; see
    /// [`Schedule::try_helper`].
    helpers: usize,
    /// Arrival of the newest small image. `None` before the first small image.
    last_small: Option<Duration>,
    arrivals: u64,
}

impl<T> Schedule<T> {
    /// Creates a schedule for `threads` threads. `small` and `large` are the memory budgets of jobs on small and on
    /// large images.
    pub(super) fn new(threads: usize, small: Budget, large: Budget) -> Self {
        Self {
            threads,
            small: Lane::new(small),
            large: Lane::new(large),
            helpers: 0,
            last_small: None,
            arrivals: 0,
        }
    }

    /// Adds a job and returns its place. `now` is the time since a fixed moment.
    pub(super) fn push(&mut self, now: Duration, cost: JobCost, job: T) -> Place {
        let large = cost.is_large();
        if !large && cost.pixels > 0 {
            self.last_small = Some(now);
        }
        let patience = Duration::from_nanos(cost.nanos).saturating_mul(PATIENCE);
        let place = Place {
            due: now.saturating_add(patience),
            number: self.arrivals,
            large,
        };
        self.arrivals += 1;
        self.lane(large).waiting.insert(place, (cost.bytes, job));
        place
    }

    /// Removes a job that has not started.
    pub(super) fn remove(&mut self, place: Place) {
        self.lane(place.large).waiting.remove(&place);
    }

    /// Takes the job that runs next. `None` if no job may run now.
    pub(super) fn next(&mut self, now: Duration) -> Option<(Grant, T)> {
        if self.idle() == 0 {
            return None;
        }
        let small = self.small.first();
        let large = self.large.first().filter(|_| self.admits_large(now));
        let large_is_due = large.is_some_and(|large| small.is_none_or(|small| large < small));
        let order = [large_is_due, !large_is_due];
        order.into_iter().find_map(|wants_large| {
            if wants_large && large.is_none() {
                return None;
            }
            let (memory, job) = self.lane(wants_large).take()?;
            let large = wants_large;
            Some((Grant { large, memory }, job))
        })
    }

    /// Frees the thread and the memory of a finished job.
    pub(super) fn finish(&mut self, grant: Grant) {
        self.lane(grant.large).running -= 1;
        drop(grant.memory);
    }

    /// Takes an idle thread for a part of a running job. Returns whether a thread was idle.
    pub(super) fn try_helper(&mut self) -> bool {
        let idle = self.idle() > 0;
        self.helpers += usize::from(idle);
        idle
    }

    /// Frees a thread that [`Schedule::try_helper`] has taken.
    pub(super) fn finish_helper(&mut self) {
        self.helpers -= 1;
    }

    fn lane(&mut self, large: bool) -> &mut Lane<T> {
        if large {
            &mut self.large
        } else {
            &mut self.small
        }
    }

    fn idle(&self) -> usize {
        let used = self.small.running + self.large.running + self.helpers;
        self.threads.saturating_sub(used)
    }

    /// Returns whether another job on a large image may take a thread. One job on a large image may
    /// always run, so that a job that is denied a thread is tried again when the running job
    /// finishes.
    fn admits_large(&self, now: Duration) -> bool {
        let recent = self
            .last_small
            .is_some_and(|arrival| now.saturating_sub(arrival) < SMALL_WINDOW);
        let most = if recent {
            (self.threads / 2).max(1)
        } else {
            self.threads
        };
        self.large.running < most
    }
}

#[cfg(test)]
mod tests;
