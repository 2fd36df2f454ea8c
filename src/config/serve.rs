//! The validated settings of `serve`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::limits::{range, size};
use super::{
    AccessEvents, CacheChoice, Compat, ConfigError, CorsOrigins, DEFAULT_LISTEN, DEFAULT_LOG,
    DEFAULT_MAX_CONNECTIONS, Delay, ListenAddress, LoadLimits, MetricsCompat, OtlpEndpoint,
    Settings, Share, SocketMode, Tuning, addresses, check_filter,
};
use crate::app::Limits;
use crate::cache::Cache;
use crate::cores::Performance;
use crate::defaults::DefaultModel;
use crate::http::server::ConnectionTimeouts;
use crate::memory::PartSizes;
use crate::store::ModelRef;
use crate::threads::usable_cores;
use crate::tls::TlsFiles;

/// The validated settings of `serve`, with defaults for settings that are not set.
#[derive(Debug, Clone, PartialEq)]
pub struct ServeConfig {
    /// Addresses to listen on. At least one.
    pub listen: Vec<ListenAddress>,
    /// Address of the listener for probes and metrics; `None` if only [`ServeConfig::listen`]
    /// serves them.
    pub admin_listen: Option<ListenAddress>,
    /// Addresses that serve gRPC. Empty to serve no gRPC.
    pub grpc_listen: Vec<ListenAddress>,
    /// Files of the TLS configuration of [`ServeConfig::listen`] and [`ServeConfig::grpc_listen`]. `None` to serve without TLS.
    pub tls: Option<TlsFiles>,
    /// Permissions of the Unix sockets.
    pub unix_socket_mode: SocketMode,
    /// Time from a stop signal until new requests are rejected.
    pub drain_delay: Delay,
    /// Models to serve, as NAME, NAME@VARIANT or a path. Empty to serve every model of the models
    /// directory, or the built-in model if there is none.
    pub models: Vec<ModelRef>,
    /// Default models of tasks, not yet compared with the models that are served.
    pub default_models: Vec<DefaultModel>,
    /// CPU threads that the server may use.
    pub cores: usize,
    /// Which runs may take idle cores.
    pub performance: Performance,
    /// Settings of all models, which override their manifests.
    pub tuning: Tuning,
    /// Settings of single models by name, which override those of all models.
    pub overrides: BTreeMap<String, Tuning>,
    /// Limits on each request, and on the memory of all requests.
    pub limits: Limits,
    /// Memory for all requests together, in bytes. `None` to derive it from the memory limit of the
    /// cgroup or from the physical memory.
    pub memory_budget: Option<u64>,
    /// Sizes of the parts of the memory budget that settings fix.
    pub parts: PartSizes,
    /// Maximum number of open connections of all listeners of [`ServeConfig::listen`] together, and of those of
    /// [`ServeConfig::grpc_listen`].
    pub max_connections: usize,
    /// Time limits of each connection.
    pub timeouts: ConnectionTimeouts,
    /// Limits on loading each model.
    pub load: LoadLimits,
    /// Where optimized networks are cached.
    pub cache: Cache,
    /// When models are loaded, replaced and unloaded.
    pub life_cycle: LifeCycle,
    /// Which requests the access log has.
    pub access_log: AccessEvents,
    /// Share of the successful requests that the access log has.
    pub access_log_sample: Share,
    /// Collector to which the spans of requests are exported. `None` if they are not exported.
    pub otlp_endpoint: Option<OtlpEndpoint>,
    /// Share of the traces that are exported, of those that begin at this server.
    pub otlp_sample_ratio: Share,
    /// Another server whose metrics are exported in addition. `None` to export only the own ones.
    pub metrics_compat: Option<MetricsCompat>,
    /// Servers whose routes are served in addition.
    pub compat: Vec<Compat>,
    /// File with the API keys that requests must present. `None` if they need no key.
    pub api_keys: Option<PathBuf>,
    /// The web pages whose scripts may send requests.
    pub cors: CorsOrigins,
    /// Maximum time for requests in flight to finish after a stop signal and the drain delay.
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
        let tuning = Tuning::of_all(&self)?;
        let overrides = Tuning::by_model(self.models.as_ref())?;
        check_filter(self.log.as_deref().unwrap_or(DEFAULT_LOG))?;
        let listen = self.listen.unwrap_or_else(|| vec![DEFAULT_LISTEN.into()]);
        let grpc_listen = self.grpc_listen.unwrap_or_default();
        addresses::check(&listen, &grpc_listen, self.admin_listen.as_ref())?;
        let tls = tls(self.tls_cert, self.tls_key, self.tls_client_ca)?;
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
            grpc_listen,
            admin_listen: self.admin_listen,
            tls,
            unix_socket_mode: self.unix_socket_mode.unwrap_or_default(),
            drain_delay: self.drain_delay.unwrap_or_default(),
            models: self.model.unwrap_or_default(),
            default_models: self.default_models.unwrap_or_default(),
            cores: range("threads", self.threads, 1024)?.unwrap_or_else(usable_cores),
            performance: performance(self.performance, self.intra_op_threads),
            tuning,
            overrides,
            limits,
            max_connections: range("max_connections", self.max_connections, 1 << 20)?
                .unwrap_or(DEFAULT_MAX_CONNECTIONS),
            timeouts,
            load: LoadLimits::new(self.load_timeout_ms, self.load_memory_bytes)?,
            cache: CacheChoice::cache(self.cache),
            life_cycle: LifeCycle {
                watch: self.watch.unwrap_or_default(),
                lazy: self.lazy.unwrap_or_default(),
                memory: size("model_memory", self.model_memory)?,
                pinned: self.pin.unwrap_or_default(),
            },
            access_log: self.access_log.unwrap_or_default(),
            access_log_sample: self.access_log_sample.unwrap_or(Share::ALL),
            otlp_endpoint: self.otlp_endpoint,
            otlp_sample_ratio: self.otlp_sample_ratio.unwrap_or(Share::ALL),
            metrics_compat: self.metrics_compat,
            compat: self.compat.unwrap_or_default(),
            api_keys: self.api_keys,
            cors: CorsOrigins::new(self.cors_origin.unwrap_or_default())?,
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
            unix_socket_mode: Some(self.unix_socket_mode),
            drain_delay: Some(self.drain_delay),
            follow_symlinks: Some(settings.follow_symlinks.unwrap_or_default()),
            access_log: Some(self.access_log),
            access_log_sample: Some(self.access_log_sample),
            otlp_sample_ratio: Some(self.otlp_sample_ratio),
            decode: Some(self.tuning.decode.unwrap_or_default()),
            threads: Some(self.cores),
            performance: Some(self.performance),
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

/// Returns which runs may take idle cores. A thread count of the sessions that is set applies to all runs.
fn performance(given: Option<Performance>, threads: Option<usize>) -> Performance {
    given.unwrap_or(match threads {
        Some(_) => Performance::Throughput,
        None => Performance::default(),
    })
}

/// Returns the files of the TLS configuration. A certificate needs a key, and the other files need a certificate.
fn tls(
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    client_ca: Option<PathBuf>,
) -> Result<Option<TlsFiles>, ConfigError> {
    let missing = |setting, expected: &str| ConfigError::Value {
        setting,
        expected: expected.to_owned(),
        got: "no value".to_owned(),
    };
    match (cert, key) {
        (Some(cert), Some(key)) => Ok(Some(TlsFiles {
            cert,
            key,
            client_ca,
        })),
        (Some(_), None) => Err(missing("tls_key", "the private key of `tls_cert`")),
        (None, Some(_)) => Err(missing("tls_cert", "the certificate of `tls_key`")),
        (None, None) if client_ca.is_some() => Err(missing(
            "tls_cert",
            "a certificate, because `tls_client_ca` is set",
        )),
        (None, None) => Ok(None),
    }
}
