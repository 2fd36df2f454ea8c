//! What all requests share.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::ServeError;
use crate::metrics::Metrics;
use crate::pool::PicturePool;
use crate::registry::Registry;

/// The unit in which memory for bodies is counted.
const BODY_PAGE: usize = 64 << 10;

fn pages(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(BODY_PAGE)).unwrap_or(u32::MAX)
}

/// Limits on what a client may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest request body, in bytes.
    pub max_body_bytes: usize,
    /// Largest picture, in pixels.
    pub max_pixels: u64,
    /// Most pictures in one request.
    pub max_images: usize,
    /// Memory for all bodies that are being held, in bytes.
    pub body_memory_bytes: usize,
    /// Time that a request may take.
    pub request_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_body_bytes: 32 << 20,
            max_pixels: 50_000_000,
            max_images: 32,
            body_memory_bytes: 512 << 20,
            request_timeout: Duration::from_secs(30),
        }
    }
}

/// What all requests share.
pub struct App {
    /// What a client may ask for.
    pub limits: Limits,
    /// The metrics.
    pub metrics: Metrics,
    /// Threads for picture work.
    pub pool: PicturePool,
    /// Pages of [`BODY_PAGE`] bytes.
    body_pages: Arc<Semaphore>,
    /// Set once, when every model is warm.
    registry: OnceLock<Registry>,
    draining: AtomicBool,
}

impl App {
    /// A server that is still starting, with `picture_threads` threads for picture work.
    pub fn new(limits: Limits, picture_threads: usize) -> Self {
        Self {
            limits,
            metrics: Metrics::new(),
            pool: PicturePool::new(picture_threads),
            body_pages: Arc::new(Semaphore::new(limits.body_memory_bytes.div_ceil(BODY_PAGE))),
            registry: OnceLock::new(),
            draining: AtomicBool::new(false),
        }
    }

    /// Makes the server ready. Only the first call has an effect.
    pub fn set_ready(&self, registry: Registry) {
        let _ = self.registry.set(registry);
    }

    /// Turns new work away from now on.
    pub fn start_draining(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Sets aside memory for a body of `bytes` bytes until the result is dropped.
    ///
    /// # Errors
    /// [`ServeError::BodyMemory`] if other bodies hold too much of it.
    pub fn body_memory(&self, bytes: usize) -> Result<OwnedSemaphorePermit, ServeError> {
        let taken = Arc::clone(&self.body_pages).try_acquire_many_owned(pages(bytes));
        taken.map_err(|_| ServeError::BodyMemory)
    }

    /// Gives back what `memory` holds beyond `bytes` bytes.
    pub fn shrink_body_memory(
        mut memory: OwnedSemaphorePermit,
        bytes: usize,
    ) -> OwnedSemaphorePermit {
        let used = memory.split(pages(bytes) as usize);
        used.unwrap_or(memory)
    }

    /// The models, while the server takes new work.
    ///
    /// # Errors
    /// [`ServeError::Starting`] and [`ServeError::Draining`].
    pub fn registry(&self) -> Result<&Registry, ServeError> {
        if self.draining.load(Ordering::Acquire) {
            return Err(ServeError::Draining);
        }
        self.models()
    }

    /// The models, for work that was taken before the server began to shut down.
    ///
    /// # Errors
    /// [`ServeError::Starting`].
    pub fn models(&self) -> Result<&Registry, ServeError> {
        self.registry.get().ok_or(ServeError::Starting)
    }
}
