//! The validated settings of `serve`.

use std::time::Duration;

use super::limits::{range, size};
use super::{
    AccessEvents, ConfigError, DEFAULT_LISTEN, DEFAULT_LOG, ListenAddress, LoadLimits,
    PrecisionChoice, Settings,
};
use crate::app::Limits;
use crate::defaults::DefaultModel;
use crate::http::server::ConnectionTimeouts;
use crate::manifest::Batching;
use crate::memory::PartSizes;
use crate::store::ModelRef;
use crate::threads::usable_cores;

/// The validated settings of `serve`, with defaults for settings that are not set.
#[derive(Debug, Clone, PartialEq)]
pub struct ServeConfig {
    /// Address to listen on.
    pub listen: ListenAddress,
    /// Address of the listener for probes and metrics; `None` if only [`ServeConfig::listen`]
    /// serves them.
    pub admin_listen: Option<ListenAddress>,
    /// Models to serve, as NAME, NAME@VARIANT or a path. Empty to serve every model of the models
    /// directory, or the built-in model if there is none.
    pub models: Vec<ModelRef>,
    /// Default models of tasks, not yet compared with the models that are served.
    pub default_models: Vec<DefaultModel>,
    /// Precision of a model that is named without a variant. `None` to let the manifest's `default`
    /// decide.
    pub precision: Option<PrecisionChoice>,
    /// CPU threads that the server may use.
    pub cores: usize,
    /// Threads of each ONNX Runtime session. `None` to divide the CPU threads among the workers of
    /// a model.
    pub intra_op_threads: Option<usize>,
    /// Batching settings that override the settings in the manifest of every model.
    pub batching: Batching,
    /// Limits on each request, and on the memory of all requests.
    pub limits: Limits,
    /// Memory for all requests together, in bytes. `None` to derive it from the memory limit of the
    /// cgroup or from the physical memory.
    pub memory_budget: Option<u64>,
    /// Sizes of the parts of the memory budget that settings fix.
    pub parts: PartSizes,
    /// Maximum number of open connections of the listener [`ServeConfig::listen`].
    pub max_connections: usize,
    /// Time limits of each connection.
    pub timeouts: ConnectionTimeouts,
    /// Limits on loading each model.
    pub load: LoadLimits,
    /// When models are loaded, replaced and unloaded.
    pub life_cycle: LifeCycle,
    /// Which requests the access log has.
    pub access_log: AccessEvents,
    /// Maximum time for requests in flight to finish after a stop signal.
    pub shutdown_grace: Duration,
}

/// The settings that decide when models are loaded, replaced and unloaded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LifeCycle {
    /// Whether changes of the models' files are noticed without a signal.
    pub watch: bool,
    /// Whether only pinned models are loaded at start.
    pub lazy: bool,
    /// Memory for all loaded models together, in bytes. `None` if it is not limited.
    pub memory: Option<u64>,
    /// Models that are loaded at start and stay loaded.
    pub pinned: Vec<ModelRef>,
}

impl Settings {
    /// Validates the settings and completes them with defaults.
    ///
    /// # Errors
    /// [`ConfigError::Value`] for the first setting that is out of range.
    pub fn resolve(self) -> Result<ServeConfig, ConfigError> {
        let listen = self.listen.unwrap_or_else(|| DEFAULT_LISTEN.into());
        if let Some(admin) = &self.admin_listen {
            distinct(&listen, admin)?;
        }
        let default = Limits::default();
        let body = range("max_body_bytes", self.max_body_bytes, 1 << 30)?;
        let pixels = range("max_pixels", self.max_pixels, 1 << 30)?;
        let density = range("max_pixels_per_byte", self.max_pixels_per_byte, 1 << 30)?;
        let images = range("max_images", self.max_images, 1024)?;
        let timeout = range("request_timeout_ms", self.request_timeout_ms, 86_400_000)?;
        let limits = Limits {
            max_body_bytes: body.unwrap_or(default.max_body_bytes),
            max_pixels: pixels.unwrap_or(default.max_pixels),
            max_pixels_per_byte: density.unwrap_or(default.max_pixels_per_byte),
            max_images: images.unwrap_or(default.max_images),
            request_timeout: timeout.map_or(default.request_timeout, Duration::from_millis),
        };
        let delay = match self.max_queue_delay_us {
            Some(0) | None => self.max_queue_delay_us,
            delay => range("max_queue_delay_us", delay, 1_000_000)?,
        };
        let batching = Batching {
            max_batch_size: range("max_batch_size", self.max_batch_size, 256)?,
            max_queue_delay_us: delay,
            max_queue_size: range("max_queue_size", self.max_queue_size, 65_536)?,
            instances: range("instances", self.instances, 256)?,
        };
        let keep_alive = range("keep_alive_ms", self.keep_alive_ms, 86_400_000)?;
        let mut timeouts = ConnectionTimeouts::default();
        if let Some(milliseconds) = keep_alive {
            timeouts.keep_alive = Duration::from_millis(milliseconds);
        }
        let grace = range("shutdown_grace_ms", self.shutdown_grace_ms, 86_400_000)?;
        Ok(ServeConfig {
            memory_budget: size("memory_budget", self.memory_budget)?,
            parts: PartSizes {
                bodies: size("body_memory_bytes", self.body_memory_bytes)?,
                pixels: size("decode_memory_bytes", self.decode_memory_bytes)?,
                tensors: size("tensor_memory_bytes", self.tensor_memory_bytes)?,
                responses: size("response_memory_bytes", self.response_memory_bytes)?,
            },
            listen,
            admin_listen: self.admin_listen,
            models: self.model.unwrap_or_default(),
            default_models: self.default_models.unwrap_or_default(),
            precision: self.precision,
            cores: range("threads", self.threads, 1024)?.unwrap_or_else(usable_cores),
            intra_op_threads: range("intra_op_threads", self.intra_op_threads, 1024)?,
            batching,
            limits,
            max_connections: range("max_connections", self.max_connections, 1 << 20)?
                .unwrap_or(1024),
            timeouts,
            load: LoadLimits::new(self.load_timeout_ms, self.load_memory_bytes)?,
            life_cycle: LifeCycle {
                watch: self.watch.unwrap_or_default(),
                lazy: self.lazy.unwrap_or_default(),
                memory: size("model_memory", self.model_memory)?,
                pinned: self.pin.unwrap_or_default(),
            },
            access_log: self.access_log.unwrap_or_default(),
            shutdown_grace: Duration::from_millis(grace.unwrap_or(30_000)),
        })
    }
}

impl ServeConfig {
    /// Returns `settings`, from which these settings were resolved, with the values that apply for
    /// settings that are `None`. A setting stays `None` if its value depends on the models or on
    /// the memory of the machine, or if it turns something on.
    #[must_use]
    pub fn effective(&self, settings: Settings) -> Settings {
        let milliseconds = |time: Duration| u64::try_from(time.as_millis()).ok();
        Settings {
            listen: Some(self.listen.clone()),
            follow_symlinks: Some(settings.follow_symlinks.unwrap_or_default()),
            access_log: Some(self.access_log),
            threads: Some(self.cores),
            max_body_bytes: Some(self.limits.max_body_bytes),
            max_pixels: Some(self.limits.max_pixels),
            max_pixels_per_byte: Some(self.limits.max_pixels_per_byte),
            max_images: Some(self.limits.max_images),
            max_connections: Some(self.max_connections),
            keep_alive_ms: milliseconds(self.timeouts.keep_alive),
            request_timeout_ms: milliseconds(self.limits.request_timeout),
            watch: Some(self.life_cycle.watch),
            lazy: Some(self.life_cycle.lazy),
            load_timeout_ms: milliseconds(self.load.timeout),
            shutdown_grace_ms: milliseconds(self.shutdown_grace),
            log: settings.log.or_else(|| Some(DEFAULT_LOG.to_owned())),
            log_format: Some(settings.log_format.unwrap_or_default()),
            ..settings
        }
    }
}

/// Returns an error if both listeners have the same address. Port 0 stands for any free port.
fn distinct(listen: &ListenAddress, admin: &ListenAddress) -> Result<(), ConfigError> {
    if listen != admin || admin.port() == 0 {
        return Ok(());
    }
    Err(ConfigError::Value {
        setting: "admin_listen",
        expected: "another address than `listen`".to_owned(),
        got: admin.to_string(),
    })
}
