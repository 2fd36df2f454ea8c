//! Idle threads that share the work of a running job.

#[cfg(feature = "libjpeg-turbo")]
mod share;

use std::sync::Arc;

#[cfg(feature = "libjpeg-turbo")]
pub(crate) use share::share;

/// A thread pool whose idle threads can take over part of a job.
pub trait Helpers: Sync {
    /// Returns whether a thread is idle now, so that splitting a job into parts can pay off.
    fn is_idle(&self) -> bool {
        true
    }

    /// Starts `job` once on each of up to `most` threads that are idle now. Returns immediately,
    /// without waiting for a thread or for `job`.
    fn start(&self, most: usize, job: Arc<dyn Fn() + Send + Sync>);
}
