//! The order in which waiting jobs of the image pool run, as plain data: without threads and locks,
//! and with the current time as an argument.
//!
//! Jobs with a shorter predicted time overtake jobs with a longer one, for a bounded time. Long jobs can occupy
//! all threads of the pool. Short jobs then start on additional threads, half as many, so that they share the cores
//! with the long jobs and do not wait for their end. Large images have a memory budget of their own.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::budget::{Budget, Permit};

/// Number of pixels above which an image is large: its memory comes from a separate budget, and its job is long.
pub const LARGE_PIXELS: u64 = 4_000_000;
/// Predicted time in nanoseconds above which a job is long, whatever the size of its image: the time to decode
/// [`LARGE_PIXELS`] pixels in a slow format.
const LONG_NANOS: u64 = 60_000_000;
/// A waiting job is overtaken only by jobs that arrive within this many times its own predicted
/// time.
const PATIENCE: u32 = 8;

/// Returns whether a job is long. Its image has `pixels` pixels, and it is predicted to take `nanos` nanoseconds.
/// `nanos` must not be corrected by measurements of other images, so that no client can make the images of others
/// long.
pub fn is_long(pixels: u64, nanos: u64) -> bool {
    pixels > LARGE_PIXELS || nanos > LONG_NANOS
}

/// The predicted cost of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobCost {
    /// Predicted thread time of the job in nanoseconds.
    pub nanos: u64,
    /// Predicted peak memory of the job in bytes.
    pub bytes: u64,
    /// Pixels of the image that the job decodes or computes; 0 if the job has no image.
    pub pixels: u64,
    /// Whether the job is long, as [`is_long`] determines: it would keep short jobs waiting.
    pub long: bool,
}

impl JobCost {
    /// Returns the cost of a job without an image that takes `nanos` nanoseconds of a thread.
    pub fn time(nanos: u64) -> Self {
        Self {
            nanos,
            bytes: 0,
            pixels: 0,
            long: is_long(0, nanos),
        }
    }

    /// Returns by when a job that arrives at `now` should start: jobs start in the order of these times. It is
    /// overtaken only by jobs that arrive within eight times its own predicted time.
    pub fn due(self, now: Duration) -> Duration {
        let patience = Duration::from_nanos(self.nanos).saturating_mul(PATIENCE);
        now.saturating_add(patience)
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
    long: bool,
    large: bool,
}

/// A thread and memory that a running job holds.
#[derive(Debug)]
pub(super) struct Grant {
    long: bool,
    /// Whether the job was abandoned: its thread is not counted any more.
    abandoned: bool,
    memory: Permit,
}

/// A job that waits.
#[derive(Debug)]
struct Waiting<T> {
    /// Memory in bytes that the job needs.
    bytes: u64,
    job: T,
}

/// One of the two kinds of jobs: the short ones or the long ones.
#[derive(Debug)]
struct Lane<T> {
    /// The waiting jobs on small images and on large images, whose memory is separate.
    waiting: [BTreeMap<Place, Waiting<T>>; 2],
    running: usize,
}

impl<T> Lane<T> {
    fn new() -> Self {
        Self {
            waiting: [BTreeMap::new(), BTreeMap::new()],
            running: 0,
        }
    }

    fn first(&self) -> Option<Place> {
        let firsts = self.waiting.iter().filter_map(|jobs| jobs.keys().next());
        firsts.min().copied()
    }

    /// Takes the first waiting job whose memory is free. `budgets` are the memory budgets of small and of large
    /// images. `None` if no job waits, or if too little memory is free for the first job of each size.
    fn take(&mut self, budgets: &[Budget; 2]) -> Option<(Permit, T)> {
        let [small, large] = self.waiting.each_ref().map(|jobs| jobs.keys().next());
        let large_first = large.is_some_and(|large| small.is_none_or(|small| large < small));
        let order = if large_first { [1, 0] } else { [0, 1] };
        order.into_iter().find_map(|size| {
            let entry = self.waiting[size].first_entry()?;
            // A job that needs more memory than the whole budget runs when the whole budget is free. Requests
            // with such an image are rejected earlier.
            let bytes = entry.get().bytes.min(budgets[size].total());
            let memory = budgets[size].try_acquire(bytes).ok()?;
            self.running += 1;
            Some((memory, entry.remove().job))
        })
    }
}

/// Jobs that wait for a thread and memory, and the threads in use. `T` represents a waiting job.
#[derive(Debug)]
pub(super) struct Schedule<T> {
    threads: usize,
    short: Lane<T>,
    long: Lane<T>,
    /// Memory budgets of the jobs on small images and on large images.
    memory: [Budget; 2],
    /// Current number of threads that compute a part of another thread's job; see
    /// [`Schedule::try_helper`].
    helpers: usize,
    /// Number of jobs that were abandoned and have not ended.
    abandoned: usize,
    arrivals: u64,
}

impl<T> Schedule<T> {
    /// Creates a schedule for `threads` threads. `small` and `large` are the memory budgets of jobs on small and on
    /// large images.
    pub(super) fn new(threads: usize, small: Budget, large: Budget) -> Self {
        Self {
            threads,
            short: Lane::new(),
            long: Lane::new(),
            memory: [small, large],
            helpers: 0,
            abandoned: 0,
            arrivals: 0,
        }
    }

    /// Adds a job and returns its place. `now` is the time since a fixed moment.
    pub(super) fn push(&mut self, now: Duration, cost: JobCost, job: T) -> Place {
        let long = cost.long;
        let place = Place {
            due: cost.due(now),
            number: self.arrivals,
            long,
            large: cost.is_large(),
        };
        self.arrivals += 1;
        let waiting = Waiting {
            bytes: cost.bytes,
            job,
        };
        self.waiting(place).insert(place, waiting);
        place
    }

    /// Removes a job that has not started.
    pub(super) fn remove(&mut self, place: Place) {
        self.waiting(place).remove(&place);
    }

    /// Takes the job that runs next. `None` if no job may run now.
    pub(super) fn next(&mut self) -> Option<(Grant, T)> {
        if self.idle() == 0 {
            let further = self.threads.div_ceil(2);
            let beside_long = self.long.running > 0 && self.short.running < further;
            return beside_long.then(|| self.start(false)).flatten();
        }
        let (short, long) = (self.short.first(), self.long.first());
        let long_is_due = long.is_some_and(|long| short.is_none_or(|short| long < short));
        // If too little memory is free for the preferred lane, a job of the other lane runs.
        self.start(long_is_due).or_else(|| self.start(!long_is_due))
    }

    fn start(&mut self, long: bool) -> Option<(Grant, T)> {
        let lane = if long {
            &mut self.long
        } else {
            &mut self.short
        };
        let (memory, job) = lane.take(&self.memory)?;
        let grant = Grant {
            long,
            abandoned: false,
            memory,
        };
        Some((grant, job))
    }

    /// Frees the thread and the memory of a finished job.
    pub(super) fn finish(&mut self, grant: Grant) {
        if grant.abandoned {
            self.abandoned -= 1;
        } else {
            self.lane(grant.long).running -= 1;
        }
        drop(grant.memory);
    }

    /// Frees the thread of a running job whose result is not needed any more, but not its memory: the job runs on, on a
    /// thread that is not counted. There are at most half as many of these jobs as threads; others keep their thread.
    pub(super) fn abandon(&mut self, grant: &mut Grant) {
        if grant.abandoned || self.abandoned >= self.threads.div_ceil(2) {
            return;
        }
        grant.abandoned = true;
        self.abandoned += 1;
        self.lane(grant.long).running -= 1;
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

    fn waiting(&mut self, place: Place) -> &mut BTreeMap<Place, Waiting<T>> {
        &mut self.lane(place.long).waiting[usize::from(place.large)]
    }

    fn lane(&mut self, long: bool) -> &mut Lane<T> {
        if long {
            &mut self.long
        } else {
            &mut self.short
        }
    }

    /// Returns the number of free threads, not counting the additional threads for short jobs.
    pub(super) fn idle(&self) -> usize {
        self.threads.saturating_sub(self.busy())
    }

    /// Returns the number of threads in use, counting the additional threads for short jobs.
    pub(super) fn busy(&self) -> usize {
        self.short.running + self.long.running + self.helpers
    }
}

#[cfg(test)]
mod tests;
