//! State that all requests share: limits, metrics, the image pool, memory budgets, loaded models.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::budget::Budget;
use crate::error::ServeError;
use crate::metrics::Metrics;
use crate::pool::{DECODE_BYTES_PER_PIXEL, ImagePool};
use crate::registry::Registry;

/// Unit of the budget for request and response bodies, in bytes.
const BODY_UNIT: u64 = 64 << 10;
/// Pixels of a large photograph. By default every thread has the memory to decode one.
const PHOTOGRAPH_PIXELS: u64 = 12_000_000;

/// Limits on a single request, and on the memory of all requests together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest request body, in bytes.
    pub max_body_bytes: usize,
    /// Largest image, in pixels.
    pub max_pixels: u64,
    /// Most pixels for each byte of an image file; images up to 1,048,576 pixels are exempt.
    pub max_pixels_per_byte: u64,
    /// Most images in one request.
    pub max_images: usize,
    /// Memory for all request and response bodies, in bytes.
    pub body_memory_bytes: usize,
    /// Memory for images of more than 4 megapixels while they are decoded or drawn into, in bytes. `None` for
    /// 17 bytes per pixel of one largest image, or of a 12-megapixel photograph per thread if that is more.
    pub decode_memory_bytes: Option<u64>,
    /// Time from the head of a request to its response, before it fails with 504.
    pub request_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_body_bytes: 32 << 20,
            max_pixels: 50_000_000,
            // Photographs have up to 200, flat colors up to 26,000 in the densest encoder (lossless WebP);
            // files made to cost much have 700,000 and more.
            max_pixels_per_byte: 50_000,
            max_images: 32,
            body_memory_bytes: 512 << 20,
            decode_memory_bytes: None,
            request_timeout: Duration::from_secs(30),
        }
    }
}

impl Limits {
    /// Returns the memory for large images on a server with `image_threads` threads for work on images, in
    /// bytes.
    fn large_image_bytes(&self, image_threads: usize) -> u64 {
        let photographs = PHOTOGRAPH_PIXELS.saturating_mul(image_threads as u64);
        let pixels = self.max_pixels.max(photographs);
        let default = pixels.saturating_mul(DECODE_BYTES_PER_PIXEL);
        self.decode_memory_bytes.unwrap_or(default)
    }
}

/// State that all requests share.
pub struct App {
    /// Limits on requests.
    pub limits: Limits,
    /// Metrics of the whole server.
    pub metrics: Metrics,
    /// Threads and memory for decoding, preprocessing and postprocessing.
    pub pool: ImagePool,
    /// Memory of request and response bodies.
    pub bodies: Budget,
    /// Set once, when every model is loaded and warm.
    registry: OnceLock<Registry>,
    draining: AtomicBool,
}

impl App {
    /// Creates the state of a server that is still loading its models, with `image_threads` threads
    /// for work on images.
    pub fn new(limits: Limits, image_threads: usize) -> Self {
        let metrics = Metrics::new();
        let bodies = Budget::new("bodies", BODY_UNIT, limits.body_memory_bytes as u64);
        let pool = ImagePool::new(image_threads, limits.large_image_bytes(image_threads));
        metrics.budgets.add(&bodies);
        for budget in pool.budgets() {
            metrics.budgets.add(budget);
        }
        Self {
            limits,
            metrics,
            pool,
            bodies,
            registry: OnceLock::new(),
            draining: AtomicBool::new(false),
        }
    }

    /// Publishes the loaded models and makes the server ready. Only the first call has an effect.
    pub fn set_ready(&self, registry: Registry) {
        let _ = self.registry.set(registry);
    }

    /// Rejects new requests from now on; those in flight continue.
    pub fn start_draining(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Returns the loaded models while the server accepts requests.
    ///
    /// # Errors
    /// [`ServeError::Starting`] before [`App::set_ready`], [`ServeError::Draining`] after
    /// [`App::start_draining`].
    pub fn registry(&self) -> Result<&Registry, ServeError> {
        if self.draining.load(Ordering::Acquire) {
            return Err(ServeError::Draining);
        }
        self.registry.get().ok_or(ServeError::Starting)
    }
}
