//! A running job of the pool: its ticket and its result.
//!
//! Some decoders cannot be stopped before an image is complete. If nobody waits for the result of a long job any more, the
//! job is abandoned: its thread counts as free at once, so that other jobs start, and it runs to its end beside them. Its
//! memory stays reserved until then.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};

use tokio::sync::oneshot;

use super::Shared;
use super::schedule::Grant;
use crate::error::ServeError;

/// The right of a job to use a thread and memory. Dropping the ticket returns them to the schedule.
#[derive(Debug)]
pub(super) struct Ticket {
    shared: Arc<Shared>,
    /// The thread and the memory. `None` only while the ticket is being dropped.
    grant: Mutex<Option<Grant>>,
}

impl Ticket {
    pub(super) fn new(shared: &Arc<Shared>, grant: Grant) -> Self {
        Self {
            shared: Arc::clone(shared),
            grant: Mutex::new(Some(grant)),
        }
    }

    /// Frees the thread of the job.
    fn abandon(&self) {
        // No code panics while it holds this lock.
        let mut held = self.grant.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(grant) = &mut *held {
            let mut schedule = self.shared.lock();
            schedule.abandon(grant);
            drop(held);
            self.shared.dispatch(schedule);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let grant = self.grant.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(grant) = grant.take() {
            let mut schedule = self.shared.lock();
            schedule.finish(grant);
            self.shared.dispatch(schedule);
        }
    }
}

/// A started job, a future of its result. Dropping it abandons a long job.
///
/// The error of the future is [`ServeError::Internal`] if the job panicked.
#[derive(Debug)]
pub struct Started<T> {
    result: oneshot::Receiver<T>,
    /// The ticket of a long job, which the job drops when it ends. Of other jobs, none.
    ticket: Weak<Ticket>,
}

impl<T: Send + 'static> Started<T> {
    /// Runs `job` on one of Tokio's blocking threads.
    pub(super) fn new(
        ticket: Ticket,
        long: bool,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Self {
        let (sender, result) = oneshot::channel();
        let held = Arc::new(ticket);
        let ticket = if long {
            Arc::downgrade(&held)
        } else {
            Weak::new()
        };
        tokio::task::spawn_blocking(move || {
            // If the job panics, the ticket is dropped before the caller knows.
            let (sender, held) = (sender, held);
            let value = job();
            drop(held);
            let _ = sender.send(value);
        });
        Self { result, ticket }
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
        if let Some(ticket) = self.ticket.upgrade() {
            ticket.abandon();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::super::{ImagePool, JobCost, LARGE_PIXELS};

    const LARGE: JobCost = JobCost {
        nanos: 1_000_000_000,
        bytes: 1 << 20,
        pixels: LARGE_PIXELS + 1,
        long: true,
    };

    /// Starts a job that ends when the returned sender is dropped.
    async fn hold(pool: &ImagePool, cost: JobCost) -> (super::Started<()>, mpsc::Sender<()>) {
        let (release, held) = mpsc::channel::<()>();
        let job = move || {
            let _ = held.recv();
        };
        (pool.start(cost, job).await.unwrap(), release)
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
        let pool = ImagePool::new(2, 1 << 20, 3 << 20);
        let now = || (pool.busy_threads(), pool.budgets()[1].used() >> 20);
        let (first, release_first) = hold(&pool, LARGE).await;
        let (second, release_second) = hold(&pool, LARGE).await;
        assert_eq!(now(), (2, 2));
        drop(first);
        assert_eq!(now(), (1, 2));
        let (third, release_third) = hold(&pool, LARGE).await;
        assert_eq!(now(), (2, 3));
        // As many jobs as half of the threads are abandoned at a time: this one keeps its thread.
        drop(second);
        assert_eq!(now(), (2, 3));
        drop(release_first);
        eventually(|| now() == (2, 2)).await;
        drop(third);
        assert_eq!(now(), (1, 2));
        drop((release_second, release_third));
        eventually(|| now() == (0, 0)).await;
    }

    #[tokio::test]
    async fn a_short_job_keeps_its_thread_until_its_end() {
        let pool = ImagePool::new(1, 1 << 20, 1 << 20);
        let (job, release) = hold(&pool, JobCost::time(1)).await;
        drop(job);
        assert_eq!(pool.busy_threads(), 1);
        drop(release);
        eventually(|| pool.busy_threads() == 0).await;
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
