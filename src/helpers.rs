//! Idle threads that share the work of a running job.

use std::sync::Arc;

/// A thread pool whose idle threads can take over part of a job.
pub trait Helpers: Sync {
    /// Starts `job` once on each of up to `most` threads that are idle now. Returns immediately,
    /// without waiting for a thread or for `job`.
    fn start(&self, most: usize, job: Arc<dyn Fn() + Send + Sync>);
}
