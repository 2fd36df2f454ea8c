//! State that all requests share: limits, metrics, the image pool, memory budgets, served models.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::admission::Pacer;
use crate::budget::Budget;
use crate::config::{AccessEvents, CorsOrigins, Share};
use crate::cores::AdmittedRequests;
use crate::error::ServeError;
use crate::http::access::AccessLog;
use crate::http::metrics::Pages;
use crate::identity::Identity;
use crate::image::DecodeTimes;
use crate::keys::KeyFile;
use crate::memory::{self, Demand, Demands, MemoryPlan};
use crate::metrics::Metrics;
use crate::pool::ImagePool;
use crate::registry::Registry;
use crate::telemetry::Traces;

/// Limits on a single request.
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
            request_timeout: Duration::from_secs(30),
        }
    }
}

/// State that all requests share.
pub struct App {
    /// Version, instance id and address of this process.
    pub identity: Identity,
    /// Limits on each request.
    pub limits: Limits,
    /// Metrics of the whole server.
    pub metrics: Metrics,
    /// Threads and memory for decoding, preprocessing and postprocessing.
    pub pool: ImagePool,
    /// Measured decode times, which correct the predicted ones.
    pub decode_times: Arc<DecodeTimes>,
    /// Memory budget for request bodies.
    pub bodies: Budget,
    /// Memory budget for response bodies, which keep their memory reserved until the clients have
    /// read them.
    pub responses: Budget,
    /// Logs the requests.
    pub access_log: AccessLog,
    /// Records and exports the spans of requests. `None` if they are not exported.
    pub traces: Option<Traces>,
    /// Rendered pages of metrics, which scrapes at the same time share.
    pub(crate) pages: Pages,
    /// Counts the admitted requests, which need a core soon.
    pub admitted: AdmittedRequests,
    /// Delays rejections for lack of capacity when there are many.
    pub rejections: Pacer,
    /// Delays answers to requests with errors when there are many.
    pub faults: Pacer,
    /// The API keys that requests must present. `None` if requests need no key.
    pub keys: Option<Arc<KeyFile>>,
    /// The web pages whose scripts may send requests.
    pub cors: CorsOrigins,
    /// The served models, which can change. Set once, when every model of the start is loaded and warm; empty before.
    registry: OnceLock<Registry>,
    /// How far a graceful stop has come.
    stage: AtomicU8,
}

/// The stages of a graceful stop, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Serving,
    /// Requests are served, but the server is not ready, and every response closes its connection.
    Leaving,
    /// New requests are rejected.
    Draining,
}

impl App {
    /// Creates the state of a server that is still loading its models, with `image_threads` threads
    /// for work on images. Memory is not limited: each memory budget is as large as `limits` and
    /// `image_threads` can make use of.
    pub fn new(limits: Limits, image_threads: usize) -> Self {
        let demands = Demands::new(&limits, image_threads, Demand::fixed(0));
        Self::planned(limits, image_threads, &MemoryPlan::unlimited(&demands))
    }

    /// Creates the state of a server that is still loading its models, with `image_threads` threads
    /// for work on images. The sizes of the memory budgets are those in `plan`. Requests are not logged and need no API key; set
    /// [`App::access_log`] and [`App::keys`] for that.
    pub fn planned(limits: Limits, image_threads: usize, plan: &MemoryPlan) -> Self {
        let metrics = Metrics::new();
        let bodies = Budget::new("bodies", memory::UNIT, plan.bodies);
        let responses = Budget::new("responses", memory::UNIT, plan.responses);
        let pool = ImagePool::new(image_threads, plan.small_pixels, plan.large_pixels);
        for budget in [&bodies, &responses].into_iter().chain(pool.budgets()) {
            metrics.budgets.add(budget.name(), budget);
        }
        Self {
            identity: Identity::new(),
            limits,
            metrics,
            pool,
            decode_times: Arc::default(),
            bodies,
            responses,
            access_log: AccessLog::new(AccessEvents::Off, Share::ALL),
            traces: None,
            pages: Pages::default(),
            admitted: AdmittedRequests::default(),
            rejections: Pacer::of_rejections(image_threads),
            faults: Pacer::of_faults(),
            keys: None,
            cors: CorsOrigins::default(),
            registry: OnceLock::new(),
            stage: AtomicU8::new(Stage::Serving as u8),
        }
    }

    /// Returns the memory in bytes that requests may still reserve for bodies, images and responses.
    pub fn unreserved_bytes(&self) -> u64 {
        let budgets = [&self.bodies, &self.responses].into_iter();
        let budgets = budgets.chain(self.pool.budgets());
        let free = |budget: &Budget| budget.total().saturating_sub(budget.used());
        budgets.map(free).sum()
    }

    /// Publishes the served models and makes the server ready. Only the first call has an effect.
    pub fn set_ready(&self, registry: Registry) {
        let _ = self.registry.set(registry);
    }

    /// Makes the server not ready from now on, so that load balancers take it out of rotation. Requests are still
    /// served, but their responses close the connections, so that clients connect to other servers, and no variant
    /// is loaded on first use any more.
    pub fn start_leaving(&self) {
        self.enter(Stage::Leaving);
    }

    /// Rejects new requests from now on, and requests that wait for a model to be loaded. Other
    /// requests in flight continue.
    pub fn start_draining(&self) {
        self.enter(Stage::Draining);
        if let Some(registry) = self.registry.get() {
            registry.stop_loading();
        }
    }

    /// Returns whether the server leaves the rotation or rejects requests.
    pub fn is_leaving(&self) -> bool {
        self.has_reached(Stage::Leaving)
    }

    /// Returns whether the server rejects requests.
    pub fn is_draining(&self) -> bool {
        self.has_reached(Stage::Draining)
    }

    /// Returns whether the models of the start are loaded.
    pub fn has_started(&self) -> bool {
        self.registry.get().is_some()
    }

    /// Returns the served models, if the server is ready for clients that can choose another server.
    ///
    /// # Errors
    /// As [`App::registry`], and [`ServeError::Draining`] after [`App::start_leaving`].
    pub fn ready(&self) -> Result<&Registry, ServeError> {
        if self.is_leaving() {
            return Err(ServeError::Draining);
        }
        self.registry()
    }

    fn enter(&self, stage: Stage) {
        self.stage.fetch_max(stage as u8, Ordering::AcqRel);
    }

    fn has_reached(&self, stage: Stage) -> bool {
        self.stage.load(Ordering::Acquire) >= stage as u8
    }

    /// Returns the served models, if the server accepts requests.
    ///
    /// # Errors
    /// [`ServeError::Starting`] before [`App::set_ready`], [`ServeError::Draining`] after
    /// [`App::start_draining`].
    pub fn registry(&self) -> Result<&Registry, ServeError> {
        if self.has_reached(Stage::Draining) {
            return Err(ServeError::Draining);
        }
        self.registry.get().ok_or(ServeError::Starting)
    }
}
