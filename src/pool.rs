//! The image pool: a bounded number of blocking jobs, kept off the threads that serve sockets.
//!
//! A waiting job occupies no thread. It starts when a thread and the memory that it needs are free;
//! the module `schedule` decides the order of the jobs.

mod backlog;
mod job;
mod long;
mod schedule;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tracing::Span;

use crate::budget::Budget;
use crate::error::ServeError;
use crate::helpers::Helpers;
use backlog::Backlog;
pub use backlog::Late;
pub use job::Started;
use job::Ticket;
pub(crate) use long::LongJob;
pub use long::LongJobs;
pub use schedule::{JobCost, LARGE_PIXELS, is_long};
use schedule::{Place, Schedule};

/// Unit in bytes to which reservations in the memory budgets are rounded up.
const MEMORY_UNIT: u64 = 4 << 10;
/// Maximum memory that decoding takes in any format, in bytes per pixel.
pub const DECODE_BYTES_PER_PIXEL: u64 = 17;
/// Memory in bytes that decoding takes at most in addition to `DECODE_BYTES_PER_PIXEL` for each
/// pixel, except for the code tables of lossless WebP.
pub const FIXED_DECODE_BYTES: u64 = 1 << 20;

/// Runs a bounded number of blocking jobs at a time, within memory budgets.
#[derive(Debug, Clone)]
pub struct ImagePool {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    schedule: Mutex<Schedule<oneshot::Sender<Ticket>>>,
    threads: usize,
    /// Moment from which the times that are passed to the schedule and to the backlog count.
    started: Instant,
    /// Memory budgets: first of jobs on small images, then of jobs on large images.
    budgets: [Budget; 2],
    backlog: Backlog,
}

impl Shared {
    /// Locks the schedule, even if the lock is poisoned: no code panics in the middle of a change
    /// to the schedule.
    fn lock(&self) -> MutexGuard<'_, Schedule<oneshot::Sender<Ticket>>> {
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a job to the schedule and returns its place. When the job may start, its ticket is sent
    /// to `waiter`.
    fn wait(self: &Arc<Self>, cost: JobCost, waiter: oneshot::Sender<Ticket>) -> Place {
        let mut schedule = self.lock();
        let place = schedule.push(self.started.elapsed(), cost, waiter);
        self.dispatch(schedule);
        place
    }

    /// Sends a ticket to every waiting job that may run now.
    fn dispatch(self: &Arc<Self>, mut schedule: MutexGuard<'_, Schedule<oneshot::Sender<Ticket>>>) {
        let mut started = Vec::new();
        while let Some((grant, waiter)) = schedule.next() {
            let ticket = Ticket::new(self, grant);
            started.push((ticket, waiter));
        }
        // The schedule is unlocked first, because a ticket locks it when it is dropped.
        drop(schedule);
        for (ticket, waiter) in started {
            // If the waiting job was given up, its ticket is dropped here, which starts the next
            // job.
            let _ = waiter.send(ticket);
        }
    }
}

/// Removes a waiting job from the schedule when its future is dropped.
struct Leave<'a> {
    shared: &'a Shared,
    /// Place of the waiting job. `None` once the job has its ticket.
    place: Option<Place>,
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            self.shared.lock().remove(place);
        }
    }
}

/// A thread of the pool that helps with a running job; see [`Helpers::start`]. Dropping it frees
/// the thread.
struct HelperThread(Arc<Shared>);

impl Drop for HelperThread {
    fn drop(&mut self) {
        let mut schedule = self.0.lock();
        schedule.finish_helper();
        self.0.dispatch(schedule);
    }
}

impl ImagePool {
    /// Creates a pool that runs up to `threads` jobs at a time, and more only if long jobs would keep short ones
    /// waiting, see the module `schedule`, or were given up, see the module `job`. Jobs on images of more than
    /// [`LARGE_PIXELS`] pixels share `large_bytes` bytes of memory, and jobs on smaller images share `small_bytes` bytes.
    pub fn new(threads: usize, small_bytes: u64, large_bytes: u64) -> Self {
        let small = Budget::new("pixels", MEMORY_UNIT, small_bytes);
        let large = Budget::new("pixels", MEMORY_UNIT, large_bytes);
        let schedule = Schedule::new(threads, small.clone(), large.clone());
        Self {
            shared: Arc::new(Shared {
                schedule: Mutex::new(schedule),
                threads,
                started: Instant::now(),
                budgets: [small, large],
                backlog: Backlog::new(threads),
            }),
        }
    }

    /// The memory budgets of the pool's jobs, for metrics.
    pub fn budgets(&self) -> &[Budget] {
        &self.shared.budgets
    }

    /// Returns the total memory in bytes from which jobs on images of `pixels` pixels reserve,
    /// which is the most that one of these jobs can have.
    pub fn most_bytes(&self, pixels: u64) -> u64 {
        let [small, large] = &self.shared.budgets;
        let lane = if pixels > LARGE_PIXELS { large } else { small };
        lane.total()
    }

    /// Returns the number of threads of the pool. While long jobs use all of them, short jobs run on additional
    /// threads, half as many.
    pub fn threads(&self) -> usize {
        self.shared.threads
    }

    /// Returns the number of threads that run jobs now.
    pub fn busy_threads(&self) -> usize {
        self.shared.lock().busy()
    }

    /// Reserves thread time for the long jobs of a request. `costs` are the costs of all jobs of the request, and
    /// `left` is the time until its deadline. Jobs that are not long need no reservation.
    ///
    /// # Errors
    /// [`Late`] if the long jobs are predicted to finish too late for the deadline.
    pub fn admit(
        &self,
        costs: impl Iterator<Item = JobCost>,
        left: Duration,
    ) -> Result<LongJobs, Late> {
        let long = costs.filter(|cost| cost.long);
        let now = self.shared.started.elapsed();
        Ok(LongJobs {
            reserved: self.shared.backlog.admit(long, left, now)?,
            shared: Arc::clone(&self.shared),
        })
    }

    /// Returns the predicted time until the long jobs that were admitted have finished.
    pub fn long_wait(&self) -> Duration {
        self.shared.backlog.wait(self.shared.started.elapsed())
    }

    /// Starts `job` once a thread and the memory of `cost` are free. A started job runs to its end
    /// even if its handle is dropped; a long one then does so beside the threads of the pool, see the module `job`. The job
    /// runs in the caller's tracing span, so that its log lines carry the request id.
    ///
    /// # Errors
    /// [`ServeError::Internal`] if the schedule loses the job, which no code path does.
    pub async fn start<T: Send + 'static>(
        &self,
        cost: JobCost,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<Started<T>, ServeError> {
        let ticket = self.ticket(cost).await?;
        let span = Span::current();
        Ok(Started::new(ticket, cost.long, move || span.in_scope(job)))
    }

    /// Runs `job` on the pool and waits for its result.
    ///
    /// # Errors
    /// [`ServeError::Internal`] if the job panics, and the errors of [`ImagePool::start`].
    pub async fn run<T: Send + 'static>(
        &self,
        cost: JobCost,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ServeError> {
        self.start(cost, job).await?.await
    }

    async fn ticket(&self, cost: JobCost) -> Result<Ticket, ServeError> {
        let (sender, receiver) = oneshot::channel();
        let mut leave = Leave {
            shared: &self.shared,
            place: Some(self.shared.wait(cost, sender)),
        };
        let ticket = receiver.await;
        leave.place = None;
        ticket.map_err(|_| ServeError::Internal("the image pool dropped a job before it started"))
    }
}

impl Helpers for ImagePool {
    fn is_idle(&self) -> bool {
        self.shared.lock().idle() > 0
    }

    /// Calls `job` on Tokio's blocking threads, within the pool's limit of threads. Must be called
    /// within a Tokio runtime, where the jobs of the pool run.
    fn start(&self, most: usize, job: Arc<dyn Fn() + Send + Sync>) {
        for _ in 0..most {
            if !self.shared.lock().try_helper() {
                return;
            }
            let thread = HelperThread(Arc::clone(&self.shared));
            let (job, span) = (Arc::clone(&job), Span::current());
            tokio::task::spawn_blocking(move || {
                span.in_scope(|| job());
                drop(thread);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn helpers_reuse_threads() {
        let pool = ImagePool::new(2, 1 << 20, 1 << 20);
        let seen = Arc::new(Mutex::new(std::collections::HashSet::new()));
        for _ in 0..100 {
            let (helpers, seen) = (pool.clone(), Arc::clone(&seen));
            let job = move || {
                let (done, finished) = std::sync::mpsc::channel();
                let helper = Arc::clone(&seen);
                let help = move || {
                    helper.lock().unwrap().insert(std::thread::current().id());
                    let _ = done.send(());
                };
                Helpers::start(&helpers, 1, Arc::new(help));
                seen.lock().unwrap().insert(std::thread::current().id());
                let _ = finished.recv();
            };
            pool.run(JobCost::time(1), job).await.unwrap();
        }
        // More than two threads can appear, because a thread that is still finishing a job cannot
        // start the next job. Without reuse there would be 200.
        let threads = seen.lock().unwrap().len();
        assert!(
            threads < 100,
            "100 jobs with helpers used {threads} threads"
        );
    }

    #[tokio::test]
    async fn a_long_job_that_is_given_up_releases_its_time_unless_it_runs() {
        let pool = ImagePool::new(1, 1 << 20, 1 << 20);
        let second = JobCost::time(1_000_000_000);
        let reserve = || {
            let jobs = pool.admit([second].into_iter(), Duration::from_mins(1));
            jobs.unwrap().take(second)
        };
        let (running, waiting) = (reserve(), reserve());
        assert!(running.is_some() && waiting.is_some());
        let (release, held) = std::sync::mpsc::channel::<()>();
        let (begin, begun) = tokio::sync::oneshot::channel();
        let (end, ended) = tokio::sync::oneshot::channel();
        let job = move || {
            let _ = begin.send(());
            let _ = held.recv();
            drop(running);
            let _ = end.send(());
        };
        let started = pool.start(second, job).await.unwrap();
        begun.await.unwrap();
        let queued = pool.start(second, move || drop(waiting));
        let given_up = tokio::time::timeout(Duration::from_millis(5), queued).await;
        assert!(given_up.is_err(), "the only thread is in use");
        assert_eq!(pool.long_wait(), Duration::from_secs(1));
        drop(started);
        assert_eq!(pool.long_wait(), Duration::from_secs(1));
        drop(release);
        // The job that was given up does not have the pool's thread any more.
        ended.await.unwrap();
        pool.run(second, || ()).await.unwrap();
        assert_eq!(pool.long_wait(), Duration::ZERO);
    }

    #[tokio::test]
    async fn jobs_that_are_given_up_leave_the_pool() {
        let pool = ImagePool::new(1, 1 << 20, 1 << 20);
        let (release, held) = std::sync::mpsc::channel::<()>();
        let running = pool.start(JobCost::time(1), move || held.recv()).await;
        let wait = pool.run(JobCost::time(1), || ());
        let given_up = tokio::time::timeout(Duration::from_millis(5), wait).await;
        assert!(given_up.is_err(), "the only thread is in use");
        drop(release);
        let _ = running.unwrap().await;
        assert!(pool.run(JobCost::time(1), || 7).await.is_ok_and(|n| n == 7));
        let panics = pool.run(JobCost::time(1), || panic!("a job panics")).await;
        assert!(matches!(panics, Err(ServeError::Internal(_))));
        assert!(
            pool.run(JobCost::time(1), || 8).await.is_ok(),
            "a job that panics returns its thread"
        );
    }
}
