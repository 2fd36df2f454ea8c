//! A running job of the pool: its ticket and its result.
//!
//! Some decoders cannot be stopped before an image is complete. A long job therefore runs on a thread of its own, and if
//! nobody waits for its result any more, it is abandoned: the pool's thread is free at once, and the job runs to its end
//! with a lower priority, so that other jobs get most of the core. Its memory stays reserved until then.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use rustix::process::{Pid, getpriority_process, setpriority_process};
use rustix::thread::gettid;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::Shared;
use super::schedule::Grant;
use crate::error::ServeError;

/// Priority (`nice`) of an abandoned job: beside another job on the same core, it gets about a quarter of the time. With less,
/// it would keep its memory for too long.
const ABANDONED: i32 = 5;

/// The right of a job to use a thread and memory. Dropping the ticket returns them to the schedule.
#[derive(Debug)]
pub(super) struct Ticket {
    shared: Arc<Shared>,
    held: Mutex<Held>,
}

#[derive(Debug)]
struct Held {
    /// The thread and the memory. `None` once they are returned.
    grant: Option<Grant>,
    /// The thread on which the job runs, if it is its own.
    thread: Option<Pid>,
}

impl Ticket {
    pub(super) fn new(shared: &Arc<Shared>, grant: Grant) -> Self {
        Self {
            shared: Arc::clone(shared),
            held: Mutex::new(Held {
                grant: Some(grant),
                thread: None,
            }),
        }
    }

    /// No code panics while it holds this lock.
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Frees the thread of the job if it runs on its own thread and has not ended.
    fn abandon(&self) {
        let mut held = self.held();
        let Held { grant, thread } = &mut *held;
        let (Some(grant), Some(thread)) = (grant, *thread) else {
            return;
        };
        let mut schedule = self.shared.lock();
        if schedule.abandon(grant) {
            // The thread exists, because the job returns the grant before it ends.
            lower_priority(thread);
            drop(held);
            self.shared.dispatch(schedule);
        }
    }

    /// Returns the thread and the memory to the schedule.
    fn finish(&self) {
        let grant = self.held().grant.take();
        if let Some(grant) = grant {
            let mut schedule = self.shared.lock();
            schedule.finish(grant);
            self.shared.dispatch(schedule);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.finish();
    }
}

/// Lowers the priority of a thread of this process to [`ABANDONED`]. If the system refuses, the thread runs on as before.
fn lower_priority(thread: Pid) {
    if getpriority_process(Some(thread)).is_ok_and(|priority| priority < ABANDONED) {
        let _ = setpriority_process(Some(thread), ABANDONED);
    }
}

/// Returns the ticket of a job to the schedule when the job ends, also if it panics.
struct Finish(Arc<Ticket>);

impl Drop for Finish {
    fn drop(&mut self) {
        self.0.finish();
    }
}

/// A started job, a future of its result. Dropping it abandons a long job.
///
/// The error of the future is [`ServeError::Internal`] if the job panicked.
#[derive(Debug)]
pub struct Started<T> {
    result: oneshot::Receiver<T>,
    /// The ticket of a long job.
    ticket: Option<Arc<Ticket>>,
}

impl<T: Send + 'static> Started<T> {
    /// Runs `job` on one of Tokio's blocking threads.
    pub(super) fn on_pool(ticket: Ticket, job: impl FnOnce() -> T + Send + 'static) -> Self {
        let (sender, result) = oneshot::channel();
        tokio::task::spawn_blocking(move || {
            // If the job panics, the ticket is returned before the caller knows.
            let (sender, ticket) = (sender, ticket);
            let value = job();
            drop(ticket);
            let _ = sender.send(value);
        });
        let ticket = None;
        Self { result, ticket }
    }

    /// Runs `job` on a thread of its own.
    ///
    /// # Errors
    /// [`ServeError::Internal`] if the system cannot start a thread.
    pub(super) fn on_own_thread(
        ticket: Ticket,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<Self, ServeError> {
        let (sender, result) = oneshot::channel();
        let ticket = Arc::new(ticket);
        let (finish, runtime) = (Finish(Arc::clone(&ticket)), Handle::current());
        let work = move || {
            // Helpers of the job are started from this thread.
            let _entered = runtime.enter();
            // If the job panics, the ticket is returned before the caller knows.
            let (sender, finish) = (sender, finish);
            finish.0.held().thread = Some(gettid());
            let value = job();
            drop(finish);
            let _ = sender.send(value);
        };
        let thread = std::thread::Builder::new().name("long-job".to_owned());
        let started = thread.spawn(work);
        started
            .map_err(|_| ServeError::Internal("the system cannot start a thread for an image"))?;
        let ticket = Some(ticket);
        Ok(Self { result, ticket })
    }
}

impl<T> Future for Started<T> {
    type Output = Result<T, ServeError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let result = Pin::new(&mut self.result).poll(context);
        result.map_err(|_| ServeError::Internal("a job on the image pool panicked"))
    }
}

impl<T> Drop for Started<T> {
    fn drop(&mut self) {
        if let Some(ticket) = &self.ticket {
            ticket.abandon();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::super::{ImagePool, JobCost, LARGE_PIXELS};
    use super::getpriority_process;

    const LARGE: JobCost = JobCost {
        nanos: 1_000_000_000,
        bytes: 1 << 20,
        pixels: LARGE_PIXELS + 1,
        long: true,
    };

    /// Starts a long job that ends when the returned sender is dropped.
    async fn hold(pool: &ImagePool) -> (super::Started<()>, mpsc::Sender<()>) {
        let (release, held) = mpsc::channel::<()>();
        let (begun, begins) = tokio::sync::oneshot::channel();
        let job = move || {
            let _ = begun.send(());
            let _ = held.recv();
        };
        let started = pool.start(LARGE, job).await.unwrap();
        begins.await.unwrap();
        (started, release)
    }

    async fn eventually(condition: impl Fn() -> bool) {
        for _ in 0..1000 {
            if condition() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("the condition does not hold after five seconds");
    }

    #[tokio::test]
    async fn an_abandoned_job_frees_its_thread_at_once_and_its_memory_at_its_end() {
        let pool = ImagePool::new(1, 1 << 20, 2 << 20);
        let used = || pool.budgets()[1].used();
        let (job, release) = hold(&pool).await;
        assert_eq!((pool.busy_threads(), used()), (1, 1 << 20));
        drop(job);
        assert_eq!((pool.busy_threads(), used()), (0, 1 << 20));
        // The thread is free for the next long job. When it is abandoned as well, it keeps its thread.
        let (second, hold_second) = hold(&pool).await;
        drop(second);
        assert_eq!((pool.busy_threads(), used()), (1, 2 << 20));
        drop(release);
        eventually(|| used() == 1 << 20).await;
        assert_eq!(pool.busy_threads(), 1);
        drop(hold_second);
        eventually(|| used() == 0 && pool.busy_threads() == 0).await;
    }

    #[tokio::test]
    async fn an_abandoned_job_has_a_lower_priority() {
        let pool = ImagePool::new(1, 1 << 20, 1 << 20);
        let (release, held) = mpsc::channel::<()>();
        let (begun, begins) = tokio::sync::oneshot::channel();
        let (tell, told) = mpsc::channel();
        let priority = || getpriority_process(None).unwrap();
        let job = move || {
            let _ = begun.send(());
            let before = priority();
            let _ = held.recv();
            let _ = tell.send((before, priority()));
        };
        let started = pool.start(LARGE, job).await.unwrap();
        begins.await.unwrap();
        drop(started);
        drop(release);
        let (before, after) = told.recv_timeout(Duration::from_secs(5)).unwrap();
        assert_eq!(after, before.max(super::ABANDONED));
    }

    #[tokio::test]
    async fn a_long_job_that_panics_returns_its_thread_and_memory() {
        let pool = ImagePool::new(1, 1 << 20, 1 << 20);
        let result = pool.run(LARGE, || panic!("a job panics")).await;
        assert!(result.is_err());
        assert_eq!((pool.busy_threads(), pool.budgets()[1].used()), (0, 0));
        assert_eq!(pool.run(LARGE, || 7).await.unwrap(), 7);
    }
}
