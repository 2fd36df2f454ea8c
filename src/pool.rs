//! The image pool: a bounded number of blocking jobs, kept off the threads that serve sockets.
//!
//! A waiting job occupies no thread. It starts when a core and the memory that it needs are free. The module `schedule`
//! decides the order of the jobs, and the module [`cores`](crate::cores) when the next one gets a core, which it holds
//! until it ends.

mod backlog;
mod long;
mod schedule;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tracing::Span;

use crate::budget::Budget;
use crate::cores::{Cores, Demand, Lane, Lease, StartJob};
use crate::error::ServeError;
use crate::postprocess::segment::Helpers;
use backlog::Backlog;
pub use backlog::Late;
pub(crate) use long::LongJob;
pub use long::LongJobs;
use schedule::{Grant, Place, Schedule};
pub use schedule::{JobCost, LARGE_PIXELS, is_long};

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

/// Starts a waiting job, which holds the ticket until it ends.
struct Start(Box<dyn FnOnce(Ticket) + Send>);

impl fmt::Debug for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Start")
    }
}

#[derive(Debug)]
struct Shared {
    schedule: Mutex<Schedule<Start>>,
    /// The pool's jobs as a consumer of the cores.
    lane: Lane,
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
    fn lock(&self) -> MutexGuard<'_, Schedule<Start>> {
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the schedule, and asks for a core for the job that is next then. [`Lane::dispatch`] must follow, or the
    /// end of a lease.
    fn change<T>(&self, change: impl FnOnce(&mut Schedule<Start>) -> T) -> T {
        let mut schedule = self.lock();
        let result = change(&mut schedule);
        self.lane.demand(demand(&schedule));
        result
    }

    /// Adds a job to the schedule and returns its place. When the job may run, `start` is called.
    fn wait(&self, cost: JobCost, start: Start) -> Place {
        let now = self.started.elapsed();
        let place = self.change(|schedule| schedule.push(now, cost, start));
        self.lane.dispatch();
        place
    }
}

/// Returns the demand for a core of the job that is next. `None` if no job may start.
fn demand(schedule: &Schedule<Start>) -> Option<Demand> {
    schedule.peek().map(|work| Demand {
        jobs: schedule.waiting_jobs(),
        from: Duration::ZERO,
        work,
        images: 0,
    })
}

/// Starts the jobs of a pool, if that still exists.
struct PoolJobs(Weak<Shared>);

impl StartJob for PoolJobs {
    /// Starts the waiting job that is next.
    fn start(&self, mut lease: Lease) {
        let Some(shared) = self.0.upgrade() else {
            return;
        };
        let mut schedule = shared.lock();
        let next = schedule.next();
        // Without a job, no core is asked for until the schedule changes.
        lease.claim(next.as_ref().and_then(|_| demand(&schedule)));
        drop(schedule);
        let Some((grant, start)) = next else {
            return;
        };
        let ticket = Ticket {
            shared: Arc::clone(&shared),
            grant: Some(grant),
            lease: Some(lease),
        };
        (start.0)(ticket);
        shared.lane.dispatch();
    }
}

/// The right of a job to use a thread, a core and memory. Dropping the ticket returns them.
#[derive(Debug)]
struct Ticket {
    shared: Arc<Shared>,
    /// The thread and the memory. `None` only while the ticket is being dropped.
    grant: Option<Grant>,
    /// The core. Dropped last, because this starts the next job.
    lease: Option<Lease>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(grant) = self.grant.take() {
            self.shared.change(|schedule| schedule.finish(grant));
        }
        drop(self.lease.take());
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
            // The job may hold anything, so it is dropped without the lock.
            drop(self.shared.change(|schedule| schedule.remove(place)));
            self.shared.lane.dispatch();
        }
    }
}

/// A thread of the pool, with a core, that helps with a running job; see [`Helpers::start`]. Dropping it frees both.
struct HelperThread {
    shared: Arc<Shared>,
    lease: Option<Lease>,
}

impl HelperThread {
    /// Takes an idle thread and a free core. `None` if there is none, or if a job waits for it.
    fn take(shared: &Arc<Shared>) -> Option<Self> {
        if !shared.lock().try_helper() {
            return None;
        }
        let mut thread = Self {
            shared: Arc::clone(shared),
            lease: None,
        };
        thread.lease = shared.lane.help();
        // Without a core, the drop of the value frees the thread.
        thread.lease.is_some().then_some(thread)
    }
}

impl Drop for HelperThread {
    fn drop(&mut self) {
        self.shared.change(Schedule::finish_helper);
        drop(self.lease.take());
        self.shared.lane.dispatch();
    }
}

impl ImagePool {
    /// Creates a pool that runs up to one job for each of `cores` at a time, and more only if long jobs would keep short
    /// ones waiting; see the module `schedule`. Jobs on images of more than [`LARGE_PIXELS`] pixels share `large_bytes`
    /// bytes of memory, and jobs on smaller images share `small_bytes` bytes.
    pub fn new(cores: &Cores, small_bytes: u64, large_bytes: u64) -> Self {
        let threads = cores.total();
        let small = Budget::new("pixels", MEMORY_UNIT, small_bytes);
        let large = Budget::new("pixels", MEMORY_UNIT, large_bytes);
        let schedule = Schedule::new(threads, small.clone(), large.clone());
        let shared = Arc::new_cyclic(|shared| {
            let starter: Arc<dyn StartJob> = Arc::new(PoolJobs(Weak::clone(shared)));
            Shared {
                schedule: Mutex::new(schedule),
                lane: cores.jobs(starter),
                threads,
                started: Instant::now(),
                budgets: [small, large],
                backlog: Backlog::new(threads),
            }
        });
        Self { shared }
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
    /// even if its handle is dropped. The job runs in the caller's tracing span, so that its log
    /// lines carry the request id.
    ///
    /// # Errors
    /// [`ServeError::Internal`] if the schedule loses the job, which no code path does.
    pub async fn start<T: Send + 'static>(
        &self,
        cost: JobCost,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<JoinHandle<T>, ServeError> {
        let (span, runtime) = (Span::current(), Handle::current());
        let (sender, started) = oneshot::channel();
        // Called by the thread that frees a core, so that the job starts without waking another thread before.
        let start = move |ticket: Ticket| {
            let running = runtime.spawn_blocking(move || {
                let result = span.in_scope(job);
                drop(ticket);
                result
            });
            // Sending fails if the job was given up at this moment. It runs to its end then.
            let _ = sender.send(running);
        };
        let mut leave = Leave {
            shared: &self.shared,
            place: Some(self.shared.wait(cost, Start(Box::new(start)))),
        };
        let running = started.await;
        leave.place = None;
        running.map_err(|_| ServeError::Internal("the image pool dropped a job before it started"))
    }

    /// Runs `job` on the pool and waits for its result.
    ///
    /// # Errors
    /// [`ServeError::Internal`] if the job panics.
    pub async fn run<T: Send + 'static>(
        &self,
        cost: JobCost,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ServeError> {
        joined(self.start(cost, job).await?).await
    }
}

impl Helpers for ImagePool {
    /// Calls `job` on Tokio's blocking threads, within the pool's limit of threads. Must be called
    /// within a Tokio runtime, where the jobs of the pool run.
    fn start(&self, most: usize, job: Arc<dyn Fn() + Send + Sync>) {
        for _ in 0..most {
            let Some(thread) = HelperThread::take(&self.shared) else {
                return;
            };
            let (job, span) = (Arc::clone(&job), Span::current());
            tokio::task::spawn_blocking(move || {
                span.in_scope(|| job());
                drop(thread);
            });
        }
    }
}

/// Waits for the result of a started job.
///
/// # Errors
/// [`ServeError::Internal`] if the job panicked.
pub async fn joined<T>(job: JoinHandle<T>) -> Result<T, ServeError> {
    job.await
        .map_err(|_| ServeError::Internal("a job on the image pool panicked"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cores::Performance;

    fn cores(total: usize) -> Cores {
        Cores::new(total, Performance::Auto)
    }

    #[tokio::test]
    async fn helpers_reuse_threads() {
        let pool = ImagePool::new(&cores(2), 1 << 20, 1 << 20);
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
        let pool = ImagePool::new(&cores(1), 1 << 20, 1 << 20);
        let second = JobCost::time(1_000_000_000);
        let reserve = || {
            let jobs = pool.admit([second].into_iter(), Duration::from_mins(1));
            jobs.unwrap().take(second)
        };
        let (running, waiting) = (reserve(), reserve());
        assert!(running.is_some() && waiting.is_some());
        let (release, held) = std::sync::mpsc::channel::<()>();
        let job = move || {
            let _ = held.recv();
            drop(running);
        };
        let started = pool.start(second, job).await.unwrap();
        let queued = pool.start(second, move || drop(waiting));
        let given_up = tokio::time::timeout(Duration::from_millis(5), queued).await;
        assert!(given_up.is_err(), "the only thread is in use");
        assert_eq!(pool.long_wait(), Duration::from_secs(1));
        drop(started);
        assert_eq!(pool.long_wait(), Duration::from_secs(1));
        drop(release);
        pool.run(second, || ()).await.unwrap();
        assert_eq!(pool.long_wait(), Duration::ZERO);
    }

    #[tokio::test]
    async fn jobs_that_are_given_up_leave_the_pool() {
        let pool = ImagePool::new(&cores(1), 1 << 20, 1 << 20);
        let (release, held) = std::sync::mpsc::channel::<()>();
        let running = pool.start(JobCost::time(1), move || held.recv()).await;
        let wait = pool.run(JobCost::time(1), || ());
        let given_up = tokio::time::timeout(Duration::from_millis(5), wait).await;
        assert!(given_up.is_err(), "the only thread is in use");
        drop(release);
        let _ = joined(running.unwrap()).await;
        assert!(pool.run(JobCost::time(1), || 7).await.is_ok_and(|n| n == 7));
        let panics = pool.run(JobCost::time(1), || panic!("a job panics")).await;
        assert!(matches!(panics, Err(ServeError::Internal(_))));
        assert!(
            pool.run(JobCost::time(1), || 8).await.is_ok(),
            "a job that panics returns its thread"
        );
    }
}
