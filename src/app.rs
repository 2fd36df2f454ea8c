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

/// The unit in which pixels being decoded are counted.
const PIXEL_BLOCK: u64 = 1 << 10;

fn pixel_blocks(pixels: u64) -> u32 {
    u32::try_from(pixels.div_ceil(PIXEL_BLOCK).max(1)).unwrap_or(u32::MAX)
}

/// The memory of one body, given back when it is dropped.
#[derive(Debug)]
pub struct BodyMemory {
    pages: Arc<Semaphore>,
    held: Option<OwnedSemaphorePermit>,
}

impl BodyMemory {
    /// Takes `bytes` more.
    ///
    /// # Errors
    /// As [`BodyMemory::grow_to`].
    pub fn grow_by(&mut self, bytes: usize) -> Result<(), ServeError> {
        let held = self
            .held
            .as_ref()
            .map_or(0, OwnedSemaphorePermit::num_permits);
        self.grow_to((held * BODY_PAGE).saturating_add(bytes))
    }

    /// Takes what is missing to `bytes` bytes: a slow body holds only what has come of it.
    ///
    /// # Errors
    /// [`ServeError::BodyMemory`] if other bodies hold too much.
    pub fn grow_to(&mut self, bytes: usize) -> Result<(), ServeError> {
        let held = self
            .held
            .as_ref()
            .map_or(0, OwnedSemaphorePermit::num_permits);
        let missing = pages(bytes).saturating_sub(held as u32);
        if missing == 0 {
            return Ok(());
        }
        let taken = Arc::clone(&self.pages).try_acquire_many_owned(missing);
        let taken = taken.map_err(|_| ServeError::BodyMemory)?;
        match &mut self.held {
            Some(held) => held.merge(taken),
            none => *none = Some(taken),
        }
        Ok(())
    }
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
    /// Blocks of [`PIXEL_BLOCK`] pixels that may be decoded at once.
    pixel_blocks: Arc<Semaphore>,
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
            pixel_blocks: Arc::new(Semaphore::new(pixel_blocks(limits.max_pixels) as usize)),
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

    /// Memory for one body, none of it taken yet.
    pub fn body_memory(&self) -> BodyMemory {
        BodyMemory {
            pages: Arc::clone(&self.body_pages),
            held: None,
        }
    }

    /// Waits until `pixels` more may be decoded; all pictures in the works together never exceed
    /// [`Limits::max_pixels`], so their memory is bounded whatever the number of threads.
    ///
    /// # Errors
    /// [`ServeError::Internal`] if the server is gone.
    pub async fn pixel_room(&self, pixels: u64) -> Result<OwnedSemaphorePermit, ServeError> {
        let most = pixel_blocks(self.limits.max_pixels);
        let room =
            Arc::clone(&self.pixel_blocks).acquire_many_owned(pixel_blocks(pixels).min(most));
        room.await
            .map_err(|_| ServeError::Internal("the pixel budget is closed"))
    }

    /// The models, while the server takes new work.
    ///
    /// # Errors
    /// [`ServeError::Starting`] and [`ServeError::Draining`].
    pub fn registry(&self) -> Result<&Registry, ServeError> {
        if self.draining.load(Ordering::Acquire) {
            return Err(ServeError::Draining);
        }
        self.registry.get().ok_or(ServeError::Starting)
    }
}
