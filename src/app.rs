//! State that all requests share: limits, metrics, the image pool, memory budgets, loaded models.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::admission::Pacer;
use crate::budget::Budget;
use crate::error::ServeError;
use crate::metrics::Metrics;
use crate::pool::{DECODE_BYTES_PER_PIXEL, ImagePool};
use crate::registry::Registry;

/// Unit of the memory budget for request and response bodies, in bytes: reservations are rounded up
/// to a multiple of it.
const BODY_UNIT: u64 = 64 << 10;
/// Number of pixels of a large photograph. The default decoding memory suffices for one such
/// photograph per image thread.
const PHOTOGRAPH_PIXELS: u64 = 12_000_000;

/// Limits on a single request, and on the memory of all requests together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Maximum size of a request body, in bytes.
    pub max_body_bytes: usize,
    /// Maximum number of pixels of an image.
    pub max_pixels: u64,
    /// Maximum number of pixels of an image per byte of its file. Images of up to 1,048,576 pixels
    /// are exempt.
    pub max_pixels_per_byte: u64,
    /// Maximum number of images in one request.
    pub max_images: usize,
    /// Memory for the bodies of all requests and responses together, in bytes.
    pub body_memory_bytes: usize,
    /// Memory for all images of more than 4 megapixels while they are decoded or drawn into, in
    /// bytes.
    ///
    /// `None` for the default: 17 bytes per pixel, for one image of `max_pixels` or for one
    /// 12-megapixel photograph per image thread, whichever is more.
    pub decode_memory_bytes: Option<u64>,
    /// Maximum time from the arrival of a request's head to its response. A slower request fails
    /// with status 504.
    pub request_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_body_bytes: 32 << 20,
            max_pixels: 50_000_000,
            // Photographs have up to 200 pixels per byte. Images of one color have up to 26,000, in
            // the densest format (lossless WebP). Decompression bombs have 700,000 and more.
            max_pixels_per_byte: 50_000,
            max_images: 32,
            body_memory_bytes: 512 << 20,
            decode_memory_bytes: None,
            request_timeout: Duration::from_secs(30),
        }
    }
}

impl Limits {
    /// Returns the memory, in bytes, for decoding and drawing large images on a server with
    /// `image_threads` image threads.
    fn large_image_bytes(&self, image_threads: usize) -> u64 {
        let photographs = PHOTOGRAPH_PIXELS.saturating_mul(image_threads as u64);
        let pixels = self.max_pixels.max(photographs);
        let default = pixels.saturating_mul(DECODE_BYTES_PER_PIXEL);
        self.decode_memory_bytes.unwrap_or(default)
    }
}

/// State that all requests share.
pub struct App {
    /// Limits on each request, and on the memory of all requests.
    pub limits: Limits,
    /// Metrics of the whole server.
    pub metrics: Metrics,
    /// Threads and memory for decoding, preprocessing and postprocessing.
    pub pool: ImagePool,
    /// Memory budget for request and response bodies.
    pub bodies: Budget,
    /// Delays rejections for lack of capacity when there are many.
    pub rejections: Pacer,
    /// The loaded models. Set once, when every model is loaded and warm; empty before.
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
            rejections: Pacer::of_rejections(),
            registry: OnceLock::new(),
            draining: AtomicBool::new(false),
        }
    }

    /// Publishes the loaded models and makes the server ready. Only the first call has an effect.
    pub fn set_ready(&self, registry: Registry) {
        let _ = self.registry.set(registry);
    }

    /// Rejects new requests from now on. Requests in flight continue.
    pub fn start_draining(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Returns the loaded models, if the server accepts requests.
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
