//! The image pool: a bounded number of blocking jobs, kept off the threads that serve sockets.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tracing::Span;

use crate::error::ServeError;
use crate::postprocess::segment::Helpers;

/// Runs at most a fixed number of blocking jobs at a time; further jobs wait without a thread.
#[derive(Debug, Clone)]
pub struct ImagePool {
    permits: Arc<Semaphore>,
}

impl ImagePool {
    /// Creates a pool that runs up to `threads` jobs at a time.
    pub fn new(threads: usize) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(threads)),
        }
    }

    /// Starts `job` as soon as a thread is free. A started job runs to its end even if its handle is
    /// dropped. The job runs in the caller's tracing span, so that its log lines carry the request id.
    ///
    /// # Errors
    /// [`ServeError::Internal`] if the pool is closed.
    pub async fn start<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<JoinHandle<T>, ServeError> {
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        let permit = permit.map_err(|_| ServeError::Internal("the image pool is closed"))?;
        let span = Span::current();
        Ok(tokio::task::spawn_blocking(move || {
            let result = span.in_scope(job);
            drop(permit);
            result
        }))
    }

    /// Runs `job` on the pool and waits for its result.
    ///
    /// # Errors
    /// [`ServeError::Internal`] if the job panics.
    pub async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ServeError> {
        joined(self.start(job).await?).await
    }
}

impl Helpers for ImagePool {
    /// Uses blocking threads within the pool's limit. Must be called within the Tokio runtime, as jobs of
    /// the pool are.
    fn start(&self, most: usize, job: Arc<dyn Fn() + Send + Sync>) {
        for _ in 0..most {
            let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
                return;
            };
            let job = Arc::clone(&job);
            tokio::task::spawn_blocking(move || {
                job();
                drop(permit);
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
