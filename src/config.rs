//! The settings of `serve`, from flags, environment variables and a TOML file.
//!
//! A flag wins over its environment variable, which wins over the file, which wins over the
//! default.

#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::app::Limits;
use crate::cpu::has_int8_dot;
use crate::http::server::ConnectionTimeouts;
use crate::manifest::{Batching, Precision};
use crate::memory::{ByteSize, MemoryPlanError, PartSizes};
use crate::registry::LOAD_TIMEOUT;
use crate::store::{ModelRef, StoreError, read_text};
use crate::threads::usable_cores;

/// Address that the server listens on if no other is set.
pub const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);

/// The error of invalid settings of `serve`, or of a configuration file that cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The configuration file cannot be read.
    #[error("cannot read the configuration file")]
    Read(#[from] StoreError),
    /// The configuration file is not valid TOML, or has an unknown field or a value of the wrong
    /// type.
    #[error("cannot parse the configuration file {}", .path.display())]
    Syntax {
        /// Path of the configuration file.
        path: PathBuf,
        /// The TOML parser's error, which names the line in the file.
        source: toml::de::Error,
    },
    /// A flag has a value that TOML cannot represent, such as an integer beyond 2^63.
    #[error("cannot merge the flags with the configuration file")]
    Flags(#[from] toml::ser::Error),
    /// A setting has a value outside its allowed values.
    #[error("`{setting}`: expected {expected}, got {got}")]
    Value {
        /// Name of the setting, with underscores.
        setting: &'static str,
        /// The allowed values, in words.
        expected: String,
        /// The invalid value of the setting.
        got: String,
    },
    /// The memory budget, or a setting for one part of it, is too small for the models and for the
    /// limits on requests.
    #[error(transparent)]
    Memory(#[from] MemoryPlanError),
}

/// How to choose the precision of a model that is named without a variant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PrecisionChoice {
    /// int8 if the model has an int8 variant and the CPU has int8 dot-product instructions, else
    /// fp32.
    #[default]
    Auto,
    /// Always fp32, even if the model has an int8 variant.
    Fp32,
    /// int8 if the model has an int8 variant, else fp32.
    Int8,
}

impl PrecisionChoice {
    /// Returns the precision to load on this CPU for a model that has an fp32 and an int8 variant.
    pub fn preferred(self) -> Precision {
        match self {
            Self::Int8 => Precision::Int8,
            Self::Auto if has_int8_dot() => Precision::Int8,
            Self::Auto | Self::Fp32 => Precision::Fp32,
        }
    }
}

/// The settings of `serve` before validation. A setting is `None` if no flag, environment variable
/// or configuration file sets it.
#[derive(Debug, Clone, Default, PartialEq, Args, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Address to listen on, as IP:PORT [default: 127.0.0.1:8080]
    #[arg(long, env = "SIGHTLINE_LISTEN", value_name = "ADDR")]
    pub listen: Option<SocketAddr>,
    /// Address of a second listener for /health/live, /health/ready and /metrics, as IP:PORT; it
    /// responds even if clients hold all connections of the first listener [default: no second
    /// listener]
    #[arg(long, env = "SIGHTLINE_ADMIN_LISTEN", value_name = "ADDR")]
    pub admin_listen: Option<SocketAddr>,
    /// Directory with one folder per model [default: `$XDG_DATA_HOME/sightline/models`, if it
    /// exists]
    #[arg(long, env = "SIGHTLINE_MODELS", value_name = "DIR")]
    pub models: Option<PathBuf>,
    /// Allow symbolic links that lead out of the models directory, or, for a model named by a path,
    /// out of the model's folder
    // Not written if it is not set, so that the file's value counts.
    #[arg(long, env = "SIGHTLINE_FOLLOW_SYMLINKS")]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub follow_symlinks: bool,
    /// ONNX Runtime library (libonnxruntime.so) [default: `ORT_DYLIB_PATH`, else the binary's
    /// folder, .cache/onnxruntime/, or the system's library folders]
    #[arg(long, env = "SIGHTLINE_ONNXRUNTIME", value_name = "FILE")]
    pub onnxruntime: Option<PathBuf>,
    /// Model to load, as NAME, NAME@VARIANT or a path; may be repeated. The first model of a task
    /// is the default of its route [default: every model of the models directory, then the built-in
    /// model, each in fp32 and in int8 if it has that variant]
    #[arg(
        long,
        env = "SIGHTLINE_MODEL",
        value_name = "NAME[@VARIANT]",
        value_delimiter = ','
    )]
    pub model: Option<Vec<ModelRef>>,
    /// Precision of a model named without a variant; `auto` is int8 if the model has that variant
    /// and the CPU has int8 dot-product instructions, else fp32 [default: auto]
    #[arg(
        long,
        env = "SIGHTLINE_PRECISION",
        value_name = "auto|fp32|int8",
        hide_possible_values = true
    )]
    pub precision: Option<PrecisionChoice>,
    /// CPU threads that the server may use [default: the cores that the process may run on]
    #[arg(long, env = "SIGHTLINE_THREADS", value_name = "N")]
    pub threads: Option<usize>,
    /// Workers per model, each with its own ONNX Runtime session [default: one per thread, at most
    /// 8]
    #[arg(long, env = "SIGHTLINE_INSTANCES", value_name = "N")]
    pub instances: Option<usize>,
    /// Threads of each ONNX Runtime session [default: threads / instances]
    #[arg(long, env = "SIGHTLINE_INTRA_OP_THREADS", value_name = "N")]
    pub intra_op_threads: Option<usize>,
    /// Most images in one batch [default: the model's own, else twice the threads of a session, at
    /// most 8]
    #[arg(long, env = "SIGHTLINE_MAX_BATCH_SIZE", value_name = "N")]
    pub max_batch_size: Option<usize>,
    /// Longest time that an image waits for its batch to fill, in microseconds [default: the
    /// model's own, else 0]
    #[arg(
        long,
        env = "SIGHTLINE_MAX_QUEUE_DELAY_US",
        value_name = "MICROSECONDS"
    )]
    pub max_queue_delay_us: Option<u64>,
    /// Most images waiting per model; further requests are rejected with 429 [default: the model's
    /// own, else 256]
    #[arg(long, env = "SIGHTLINE_MAX_QUEUE_SIZE", value_name = "N")]
    pub max_queue_size: Option<usize>,
    /// Largest request body, in bytes [default: 33554432]
    #[arg(long, env = "SIGHTLINE_MAX_BODY_BYTES", value_name = "BYTES")]
    pub max_body_bytes: Option<usize>,
    /// Memory for all requests together, such as 614MiB or 2GiB; it is divided among the four parts
    /// below, and the models come on top [default: 60 % of the cgroup's memory limit or of the
    /// physical memory, whichever is smaller]
    #[arg(long, env = "SIGHTLINE_MEMORY_BUDGET", value_name = "SIZE")]
    pub memory_budget: Option<ByteSize>,
    /// Memory for all request bodies together [default: a part of the budget, at most 512MiB]
    #[arg(long, env = "SIGHTLINE_BODY_MEMORY_BYTES", value_name = "SIZE")]
    pub body_memory_bytes: Option<ByteSize>,
    /// Memory for images while they are decoded or drawn into [default: a part of the budget, at
    /// most what the most expensive images of 4 and of 12 megapixels take on every thread]
    #[arg(long, env = "SIGHTLINE_DECODE_MEMORY_BYTES", value_name = "SIZE")]
    pub decode_memory_bytes: Option<ByteSize>,
    /// Memory for inputs and outputs of the networks of all models [default: a part of the budget,
    /// at most 256MiB for each loaded model and variant]
    #[arg(long, env = "SIGHTLINE_TENSOR_MEMORY_BYTES", value_name = "SIZE")]
    pub tensor_memory_bytes: Option<ByteSize>,
    /// Memory for all responses together, until the clients have read them [default: a part of the
    /// budget, at most 256MiB]
    #[arg(long, env = "SIGHTLINE_RESPONSE_MEMORY_BYTES", value_name = "SIZE")]
    pub response_memory_bytes: Option<ByteSize>,
    /// Largest image, in pixels (width x height) [default: 50000000]
    #[arg(long, env = "SIGHTLINE_MAX_PIXELS", value_name = "PIXELS")]
    pub max_pixels: Option<u64>,
    /// Most pixels of an image per byte of its file; images of up to 1048576 pixels are exempt
    /// [default: 50000]
    #[arg(long, env = "SIGHTLINE_MAX_PIXELS_PER_BYTE", value_name = "PIXELS")]
    pub max_pixels_per_byte: Option<u64>,
    /// Most images in one request [default: 32]
    #[arg(long, env = "SIGHTLINE_MAX_IMAGES", value_name = "N")]
    pub max_images: Option<usize>,
    /// Most open connections; if all are open, a new connection replaces the one that has been idle
    /// longest, else the one with the slowest client, else the next one that gets its response
    /// [default: 1024]
    #[arg(long, env = "SIGHTLINE_MAX_CONNECTIONS", value_name = "N")]
    pub max_connections: Option<usize>,
    /// Time after which a connection without a request is closed, in milliseconds; must be longer
    /// than the idle timeout of a load balancer [default: 75000]
    #[arg(long, env = "SIGHTLINE_KEEP_ALIVE_MS", value_name = "MILLISECONDS")]
    pub keep_alive_ms: Option<u64>,
    /// Time that a request may take before it fails with 504, in milliseconds [default: 30000]
    #[arg(
        long,
        env = "SIGHTLINE_REQUEST_TIMEOUT_MS",
        value_name = "MILLISECONDS"
    )]
    pub request_timeout_ms: Option<u64>,
    /// Time that loading a model from files may take, in milliseconds [default: 60000]
    #[arg(long, env = "SIGHTLINE_LOAD_TIMEOUT_MS", value_name = "MILLISECONDS")]
    pub load_timeout_ms: Option<u64>,
    /// Memory that loading a model from files may take [default: 2GiB and 8 times the size of the
    /// model's files, at most three quarters of the cgroup's memory limit or of the physical memory]
    #[arg(long, env = "SIGHTLINE_LOAD_MEMORY_BYTES", value_name = "SIZE")]
    pub load_memory_bytes: Option<ByteSize>,
    /// Time that requests in flight may take after SIGTERM, in milliseconds [default: 30000]
    #[arg(long, env = "SIGHTLINE_SHUTDOWN_GRACE_MS", value_name = "MILLISECONDS")]
    pub shutdown_grace_ms: Option<u64>,
}

/// Limits on loading a model from files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadLimits {
    /// Maximum time to load one model.
    pub timeout: Duration,
    /// Maximum memory to load one model, in bytes. `None` to derive it from the size of the
    /// model's files and from the memory limit of the cgroup or of the machine.
    pub memory: Option<u64>,
}

impl LoadLimits {
    /// Checks the settings `load_timeout_ms` and `load_memory_bytes`, and replaces `None` by the
    /// defaults.
    ///
    /// # Errors
    /// [`ConfigError::Value`] for the first setting that is out of range.
    pub fn new(timeout_ms: Option<u64>, memory: Option<ByteSize>) -> Result<Self, ConfigError> {
        let timeout = range("load_timeout_ms", timeout_ms, 86_400_000)?;
        Ok(Self {
            timeout: timeout.map_or(LOAD_TIMEOUT, Duration::from_millis),
            memory: size("load_memory_bytes", memory)?,
        })
    }
}

/// The validated settings of `serve`, with defaults for settings that are not set.
#[derive(Debug, Clone, PartialEq)]
pub struct ServeConfig {
    /// Address to listen on.
    pub listen: SocketAddr,
    /// Address of the listener for probes and metrics; `None` if only [`ServeConfig::listen`]
    /// serves them.
    pub admin_listen: Option<SocketAddr>,
    /// Models to load, as NAME, NAME@VARIANT or a path. Empty to load every model of the models
    /// directory and the built-in model.
    pub models: Vec<ModelRef>,
    /// Precision of a model that is named without a variant.
    pub precision: PrecisionChoice,
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
    /// Maximum time for requests in flight to finish after a stop signal.
    pub shutdown_grace: Duration,
}

impl Settings {
    /// Returns these settings, in which each setting that is `None` has the value from the TOML
    /// file at `path`.
    ///
    /// # Errors
    /// [`ConfigError::Read`] if the file cannot be read, [`ConfigError::Syntax`] if it is invalid,
    /// [`ConfigError::Flags`] if a setting cannot be represented in TOML.
    pub fn over_file(&self, path: &Path) -> Result<Self, ConfigError> {
        self.over(&read_text(path)?, path)
    }

    /// Returns these settings, in which each setting that is `None` has the value from `file`, the
    /// text of the TOML file at `path`. Merges TOML tables rather than fields, so that a new
    /// setting needs no code here.
    fn over(&self, file: &str, path: &Path) -> Result<Self, ConfigError> {
        let syntax = |source| ConfigError::Syntax {
            path: path.to_path_buf(),
            source,
        };
        // Parsed before the merge, because errors in the merged table have no line in the file.
        toml::from_str::<Self>(file).map_err(syntax)?;
        let mut merged: toml::Table = toml::from_str(file).map_err(syntax)?;
        merged.extend(toml::Table::try_from(self)?);
        merged.try_into().map_err(syntax)
    }

    /// Validates the settings and completes them with defaults.
    ///
    /// # Errors
    /// [`ConfigError::Value`] for the first setting that is out of range.
    pub fn resolve(self) -> Result<ServeConfig, ConfigError> {
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
            listen: self.listen.unwrap_or(DEFAULT_LISTEN),
            admin_listen: self.admin_listen,
            models: self.model.unwrap_or_default(),
            precision: self.precision.unwrap_or_default(),
            cores: range("threads", self.threads, 1024)?.unwrap_or_else(usable_cores),
            intra_op_threads: range("intra_op_threads", self.intra_op_threads, 1024)?,
            batching,
            limits,
            max_connections: range("max_connections", self.max_connections, 1 << 20)?
                .unwrap_or(1024),
            timeouts,
            load: LoadLimits::new(self.load_timeout_ms, self.load_memory_bytes)?,
            shutdown_grace: Duration::from_millis(grace.unwrap_or(30_000)),
        })
    }
}

/// Returns `value` in bytes, or `None` if it is `None`. Returns an error that names `setting` if
/// `value` is not from 1 byte to 1 TiB.
fn size(setting: &'static str, value: Option<ByteSize>) -> Result<Option<u64>, ConfigError> {
    range(setting, value.map(|size| size.0), 1 << 40)
}

/// Returns `value` if it is `None` or from 1 to `most`. Returns an error that names `setting` for
/// any other value.
fn range<T: Copy + PartialOrd + From<u8> + ToString>(
    setting: &'static str,
    value: Option<T>,
    most: T,
) -> Result<Option<T>, ConfigError> {
    match value {
        Some(number) if number < T::from(1) || number > most => {
            let expected = format!("1 to {}", most.to_string());
            Err(ConfigError::Value {
                setting,
                expected,
                got: number.to_string(),
            })
        }
        value => Ok(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_wins_over_the_file() {
        let flags = Settings {
            max_images: Some(2),
            ..Settings::default()
        };
        let file = "memory_budget = \"1GiB\"\nbody_memory_bytes = 77\nmax_images = 4\nmax_pixels = 9\nmodel = [\"a\"]\nprecision = \"int8\"";
        let config = flags
            .over(file, Path::new("test"))
            .unwrap()
            .resolve()
            .unwrap();
        assert_eq!(config.models, ["a".parse().unwrap()]);
        assert_eq!(config.precision.preferred(), Precision::Int8);
        assert_eq!((config.limits.max_images, config.limits.max_pixels), (2, 9));
        assert_eq!(config.max_connections, 1024);
        let memory = (config.memory_budget, config.parts.bodies);
        assert_eq!(memory, (Some(1 << 30), Some(77)));
    }

    #[test]
    fn bad_values_name_their_setting() {
        let cases = [
            ("max_images = 0", "`max_images`: expected 1 to 1024, got 0"),
            (
                "memory_budget = 0",
                "`memory_budget`: expected 1 to 1099511627776, got 0",
            ),
            (
                "tensor_memory_bytes = \"2TiB\"",
                "`tensor_memory_bytes`: expected 1 to 1099511627776, got 2199023255552",
            ),
            ("threads = 100000", "`threads`: expected 1 to 1024"),
        ];
        for (text, expected) in cases {
            let settings: Settings = toml::from_str(text).unwrap();
            let message = settings.resolve().unwrap_err().to_string();
            assert!(message.starts_with(expected), "{message}");
        }
        assert!(toml::from_str::<Settings>("max_imagse = 1").is_err());
        assert!(toml::from_str::<Settings>("precision = \"int4\"").is_err());
        assert!(toml::from_str::<Settings>("memory_budget = \"1GB\"").is_err());
    }
}
