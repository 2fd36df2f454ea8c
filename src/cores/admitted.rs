//! Counts the requests that need a core soon.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The number of admitted requests, of all protocols, whose results are not ready: their bodies arrive, their images
/// wait or are worked on. Requests that wait for a model to be loaded, that were rejected, or that run no model are
/// not among them.
#[derive(Debug, Clone, Default)]
pub struct AdmittedRequests(Arc<AtomicUsize>);

impl AdmittedRequests {
    /// Counts a request until the returned guard is dropped.
    pub fn add(&self) -> AdmittedRequest {
        self.0.fetch_add(1, Ordering::AcqRel);
        AdmittedRequest(Arc::clone(&self.0))
    }

    /// Returns the number of requests.
    pub fn count(&self) -> usize {
        self.0.load(Ordering::Acquire)
    }
}

/// One request that counts among the admitted ones until this guard is dropped.
#[derive(Debug)]
pub struct AdmittedRequest(Arc<AtomicUsize>);

impl Drop for AdmittedRequest {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
