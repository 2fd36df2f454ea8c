//! The settings of `serve`, from flags, environment variables and a TOML file.
//!
//! A flag wins over its environment variable, which wins over the file, which wins over the
//! default. A setting is a field of [`Settings`]; its name is a key of the file, and with hyphens a
//! flag. The settings of one model, [`ModelOverrides`], are tables of the file only; they win over
//! the settings of the same name for all models.

mod access;
mod addresses;
mod cache;
mod compat;
mod cors;
mod delay;
mod error;
mod file;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod keys;
mod limits;
mod listen;
mod log;
mod metrics;
mod overrides;
mod parse;
mod precision;
mod problems;
mod secret;
mod serve;
mod settings;
mod socket_path;
mod telemetry;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

pub use access::AccessEvents;
pub use cache::{CacheChoice, CacheChoiceError};
pub use compat::Compat;
pub use cors::{CorsOrigin, CorsOriginError, CorsOrigins};
pub use delay::{Delay, DelayError};
pub use error::{ConfigError, TomlError};
pub use file::ConfigFile;
pub use keys::{keys, model_keys};
pub use limits::LoadLimits;
pub use listen::{ListenAddress, ListenAddressError, resolve};
pub use log::{DEFAULT_LOG, LogFormat, check_filter};
pub use metrics::MetricsCompat;
pub use overrides::{ModelOverride, ModelOverrides, Tuning};
pub use precision::PrecisionChoice;
pub use secret::{SecretUrl, is_redacted, redacted};
pub use serve::{LifeCycle, ServeConfig};
pub use settings::Settings;
pub use socket_path::{SocketMode, SocketModeError, SocketPath, SocketPathError};
pub use telemetry::{OtlpEndpoint, OtlpEndpointError, Share, ShareError};

/// Address that the server listens on if no other is set.
pub const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);
/// Default of `max_connections`, the maximum number of open connections.
pub const DEFAULT_MAX_CONNECTIONS: usize = 1024;
