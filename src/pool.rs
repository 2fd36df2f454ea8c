//! A bounded pool for work on pixels, which must never run on the threads that serve sockets.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::error::ServeError;

/// At most a fixed number of blocking jobs at once; others wait in line without a thread.
#[derive(Debug, Clone)]
pub struct PicturePool {
    permits: Arc<Semaphore>,
}

impl PicturePool {
    /// A pool for `threads` jobs at once.
    pub fn new(threads: usize) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(threads)),
        }
    }

    /// Starts `job` as soon as a thread is free; it then runs to its end even if nobody waits.
    ///
    /// # Errors
    /// [`ServeError::Internal`] if the pool is gone.
    pub async fn start<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<JoinHandle<T>, ServeError> {
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        let permit = permit.map_err(|_| ServeError::Internal("the picture pool is closed"))?;
        Ok(tokio::task::spawn_blocking(move || {
            let result = job();
            drop(permit);
            result
        }))
    }

    /// Runs `job` on the pool and waits for it.
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

/// The result of a job that was started.
///
/// # Errors
/// [`ServeError::Internal`] if the job panicked.
pub async fn joined<T>(job: JoinHandle<T>) -> Result<T, ServeError> {
    job.await
        .map_err(|_| ServeError::Internal("picture work panicked"))
}
