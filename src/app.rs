//! State that all requests share: limits, metrics, the image pool, memory budgets, loaded models.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::budget::{Budget, Permit};
use crate::error::ServeError;
use crate::metrics::Metrics;
use crate::pool::ImagePool;
use crate::registry::Registry;

/// Unit of the budget for request and response bodies, in bytes.
const BODY_UNIT: u64 = 64 << 10;
/// Bytes of one decoded pixel, 8-bit RGB.
const PIXEL_BYTES: u64 = 3;
/// Unit of the budget for decoded pixels: 1,024 pixels, in bytes.
const PIXEL_UNIT: u64 = PIXEL_BYTES << 10;

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
            request_timeout: Duration::from_secs(30),
        }
    }
}

/// State that all requests share.
pub struct App {
    /// Limits on requests.
    pub limits: Limits,
    /// Metrics of the whole server.
    pub metrics: Metrics,
    /// Threads for decoding, preprocessing and postprocessing.
    pub pool: ImagePool,
    /// Memory of request and response bodies.
    pub bodies: Budget,
    /// Memory of images while they are decoded or drawn into. See [`App::reserve_pixels`].
    pixels: Budget,
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
        let pixels = Budget::new(
            "pixels",
            PIXEL_UNIT,
            limits.max_pixels.saturating_mul(PIXEL_BYTES),
        );
        metrics.budgets.add(&bodies);
        metrics.budgets.add(&pixels);
        Self {
            limits,
            metrics,
            pool: ImagePool::new(image_threads),
            bodies,
            pixels,
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

    /// Waits until `pixels` decoded pixels fit next to those that other requests hold.
    ///
    /// All images in work together never exceed [`Limits::max_pixels`], whatever the number of threads.
    pub async fn reserve_pixels(&self, pixels: u64) -> Permit {
        self.pixels
            .acquire(pixels.max(1).saturating_mul(PIXEL_BYTES))
            .await
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
