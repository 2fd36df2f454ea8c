//! The settings of `serve` before validation.

use std::path::PathBuf;

use clap::Args;
use serde::{Deserialize, Serialize};

use super::file::one_or_many;
use super::{
    AccessEvents, CacheChoice, Compat, CorsOrigin, Delay, ListenAddress, LogFormat, MetricsCompat,
    ModelOverrides, OtlpEndpoint, PrecisionChoice, Share, SocketMode, addresses,
};
use crate::cores::Performance;
use crate::defaults::{self, DefaultModel};
use crate::image::DecodeMode;
use crate::memory::ByteSize;
use crate::store::ModelRef;

/// The settings of `serve` before validation. A setting is `None` if no flag, environment variable
/// or configuration file sets it.
#[derive(Debug, Clone, Default, PartialEq, Args, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Address to listen on, as HOST:PORT or `unix:/PATH`; PORT alone is on 127.0.0.1, :PORT on all IPv4
    /// addresses, `[::]:PORT` on all addresses; may be repeated [default: 127.0.0.1:8080]
    #[arg(
        long,
        env = "SIGHTLINE_LISTEN",
        value_name = "ADDR",
        value_delimiter = ','
    )]
    #[serde(with = "addresses", skip_serializing_if = "Option::is_none")]
    pub listen: Option<Vec<ListenAddress>>,
    /// Address of another listener for probes, /metrics and the control of models, as HOST:PORT or
    /// `unix:/PATH`; it responds even if clients hold all connections of the other listeners; clients
    /// must not reach it [default: no such listener]
    #[arg(long, env = "SIGHTLINE_ADMIN_LISTEN", value_name = "ADDR")]
    pub admin_listen: Option<ListenAddress>,
    /// Address for gRPC (`inference.GRPCInferenceService`), in the forms of `--listen`; may be repeated
    /// [default: no gRPC]
    #[arg(
        long,
        env = "SIGHTLINE_GRPC_LISTEN",
        value_name = "ADDR",
        value_delimiter = ','
    )]
    #[serde(with = "addresses", skip_serializing_if = "Option::is_none")]
    pub grpc_listen: Option<Vec<ListenAddress>>,
    /// Permissions of the Unix sockets, in octal digits; who may write to a socket may connect
    /// [default: 0660]
    #[arg(long, env = "SIGHTLINE_UNIX_SOCKET_MODE", value_name = "MODE")]
    pub unix_socket_mode: Option<SocketMode>,
    /// PEM file with the certificate for TLS, followed by the intermediate certificates; with it, TCP addresses of
    /// `--listen` and `--grpc-listen` use TLS only. Read again when it changes [default: no TLS]
    #[arg(long, env = "SIGHTLINE_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// PEM file with the private key of `--tls-cert` (PKCS#8, PKCS#1 or SEC1); read again when it changes
    /// [default: none]
    #[arg(long, env = "SIGHTLINE_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// PEM file with the certificates of authorities; every client needs a certificate that one of them signed. Read
    /// again when it changes [default: clients need no certificate]
    #[arg(long, env = "SIGHTLINE_TLS_CLIENT_CA", value_name = "FILE")]
    pub tls_client_ca: Option<PathBuf>,
    /// File with the API keys that requests must present, one per line: `sightline key new NAME`
    /// prints a key and its line; the file is read again when it changes [default: no key is needed]
    #[arg(long, env = "SIGHTLINE_API_KEYS", value_name = "FILE")]
    pub api_keys: Option<PathBuf>,
    /// Origin of web pages whose scripts may send requests (CORS), such as
    /// `https://app.example.com`, or `*` for all; may be repeated [default: none]
    #[arg(
        long,
        env = "SIGHTLINE_CORS_ORIGIN",
        value_name = "ORIGIN",
        value_delimiter = ','
    )]
    #[serde(deserialize_with = "one_or_many")]
    pub cors_origin: Option<Vec<CorsOrigin>>,
    /// Directory with one folder per model [default: `$XDG_DATA_HOME/sightline/models`, if it
    /// exists]
    #[arg(long = "models", env = "SIGHTLINE_MODELS", value_name = "DIR")]
    pub models_dir: Option<PathBuf>,
    /// Allow symbolic links that lead out of the models directory, or, for a model named by a path,
    /// out of the model's folder
    /// [default: false]
    #[arg(
        long,
        env = "SIGHTLINE_FOLLOW_SYMLINKS",
        value_name = "true|false",
        hide_possible_values = true,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    pub follow_symlinks: Option<bool>,
    /// ONNX Runtime library (libonnxruntime.so) [default: `ORT_DYLIB_PATH`, else the binary's
    /// folder and the folders relative to it, or the system's library folders]
    #[arg(long, env = "SIGHTLINE_ONNXRUNTIME", value_name = "FILE")]
    pub onnxruntime: Option<PathBuf>,
    /// Folder in which optimized networks are cached, so that later starts are faster; `off` to cache nothing [default:
    /// `$XDG_CACHE_HOME/sightline`, else `$HOME/.cache/sightline`]
    #[arg(long, env = "SIGHTLINE_CACHE", value_name = "DIR")]
    pub cache: Option<CacheChoice>,
    /// Model to serve, as NAME, NAME@VARIANT or a path; may be repeated. NAME loads the variant that
    /// it selects (see `--precision`) at start and the model's other variants when they are first
    /// requested; NAME@VARIANT loads this variant at start and, without NAME, serves no other variant
    /// of the model [default: every model of the models directory, or the built-in model without one]
    #[arg(
        long,
        env = "SIGHTLINE_MODEL",
        value_name = "NAME[@VARIANT]",
        value_delimiter = ','
    )]
    #[serde(deserialize_with = "one_or_many")]
    pub model: Option<Vec<ModelRef>>,
    /// Model that serves the requests of a task that name no model, such as `classification=birds`;
    /// may be repeated. In the file: `default_models = { classification = "birds" }` [default: the
    /// first one of --model, else the first by name]
    #[arg(
        long = "default-model",
        env = "SIGHTLINE_DEFAULT_MODELS",
        value_name = "TASK=NAME[@VARIANT]",
        value_delimiter = ','
    )]
    #[serde(with = "defaults::table", skip_serializing_if = "Option::is_none")]
    pub default_models: Option<Vec<DefaultModel>>,
    /// Precision of a model named without a variant; `int8` applies to models with that variant,
    /// `auto` only if the CPU has int8 dot-product instructions, too [default: the manifest's
    /// `default`, else fp32]
    #[arg(
        long,
        env = "SIGHTLINE_PRECISION",
        value_name = "auto|fp32|int8",
        hide_possible_values = true
    )]
    pub precision: Option<PrecisionChoice>,
    /// Whether images are decoded exactly or, with `fast`, JPEGs at the scale that the network needs, which is
    /// faster for large photographs and changes results slightly; a request chooses for itself with
    /// `decode=exact|fast` [default: exact]
    #[arg(
        long,
        env = "SIGHTLINE_DECODE",
        value_name = "exact|fast",
        hide_possible_values = true
    )]
    pub decode: Option<DecodeMode>,
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
    /// Whether a run may take idle cores: `auto` takes them all while nothing else runs, `latency` also while images
    /// are decoded, `throughput` takes none, as if `intra_op_threads` was set [default: auto]
    #[arg(
        long,
        env = "SIGHTLINE_PERFORMANCE",
        value_name = "auto|latency|throughput",
        hide_possible_values = true
    )]
    pub performance: Option<Performance>,
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
    /// Memory for all requests together, such as 614MiB or 2GiB; it is divided among bodies, images,
    /// tensors and responses, and the models come on top [default: 60 % of the cgroup's memory limit or of the
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
    /// at most 256MiB for each variant that is loaded at start and a full batch of each other one]
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
    /// Look every 2 seconds whether files of the models have changed, and replace, add and remove
    /// models accordingly; SIGHUP does so once [default: false]
    #[arg(
        long,
        env = "SIGHTLINE_WATCH",
        value_name = "true|false",
        hide_possible_values = true,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    pub watch: Option<bool>,
    /// Load no model at start, except those of --pin: each model is loaded when it is first
    /// requested [default: false]
    #[arg(
        long,
        env = "SIGHTLINE_LAZY",
        value_name = "true|false",
        hide_possible_values = true,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    pub lazy: Option<bool>,
    /// Memory for all loaded models together, such as 2GiB; when a model needs room, the models that
    /// were not used for the longest time are unloaded until they are requested again [default: no
    /// limit]
    #[arg(long, env = "SIGHTLINE_MODEL_MEMORY", value_name = "SIZE")]
    pub model_memory: Option<ByteSize>,
    /// Model that is loaded at start and never unloaded to make room for others, as NAME, which
    /// stands for all its variants, or NAME@VARIANT; may be repeated [default: none]
    #[arg(
        long,
        env = "SIGHTLINE_PIN",
        value_name = "NAME[@VARIANT]",
        value_delimiter = ','
    )]
    #[serde(deserialize_with = "one_or_many")]
    pub pin: Option<Vec<ModelRef>>,
    /// Requests that get an event in the log: `all` (except successful probes and scrapes), `errors`
    /// (status 400 and above, and clients that disconnected) or `off` [default: all]
    #[arg(
        long,
        env = "SIGHTLINE_ACCESS_LOG",
        value_name = "off|errors|all",
        hide_possible_values = true
    )]
    pub access_log: Option<AccessEvents>,
    /// Share of the successful requests that get an event in the log, from 0 to 1, chosen by trace id
    /// or request id; failed requests always get one [default: 1]
    #[arg(long, env = "SIGHTLINE_ACCESS_LOG_SAMPLE", value_name = "SHARE")]
    pub access_log_sample: Option<Share>,
    /// OTLP collector to which the spans of requests are exported by gRPC, as http://HOST:PORT
    /// [default: no export]
    #[arg(long, env = "SIGHTLINE_OTLP_ENDPOINT", value_name = "URL")]
    pub otlp_endpoint: Option<OtlpEndpoint>,
    /// Share of the traces that are exported, from 0 to 1, of those that begin at this server; the
    /// `traceparent` of a caller decides about others [default: 1]
    #[arg(long, env = "SIGHTLINE_OTLP_SAMPLE_RATIO", value_name = "SHARE")]
    pub otlp_sample_ratio: Option<Share>,
    /// Metrics of another server that are exported in addition: `triton` (`nv_inference_*`) [default:
    /// none]
    #[arg(
        long,
        env = "SIGHTLINE_METRICS_COMPAT",
        value_name = "triton",
        hide_possible_values = true
    )]
    pub metrics_compat: Option<MetricsCompat>,
    /// Routes of other servers that are served in addition: `deepstack` (/v1/vision/detection) and `torchserve`
    /// (/predictions/NAME, /ping); may be repeated [default: none]
    #[arg(
        long,
        env = "SIGHTLINE_COMPAT",
        value_name = "NAME",
        hide_possible_values = true,
        value_delimiter = ','
    )]
    #[serde(deserialize_with = "one_or_many")]
    pub compat: Option<Vec<Compat>>,
    /// Time after SIGTERM in which new requests are still served while /health/ready returns 503, so
    /// that load balancers can take the server out of rotation; such as 5s, 500ms or a number of
    /// milliseconds [default: 0ms]
    #[arg(long, env = "SIGHTLINE_DRAIN_DELAY", value_name = "DURATION")]
    pub drain_delay: Option<Delay>,
    /// Time that requests in flight may take after SIGTERM and the drain delay, in milliseconds
    /// [default: 30000]
    #[arg(long, env = "SIGHTLINE_SHUTDOWN_GRACE_MS", value_name = "MILLISECONDS")]
    pub shutdown_grace_ms: Option<u64>,
    /// Log filter. A flag of all commands, so not an argument here.
    #[arg(skip)]
    pub log: Option<String>,
    /// Format of the log. A flag of all commands, so not an argument here.
    #[arg(skip)]
    pub log_format: Option<LogFormat>,
    /// Settings of single models. Only the configuration file can set them.
    #[arg(skip)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub models: Option<ModelOverrides>,
}
