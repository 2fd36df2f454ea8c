//! The settings of `serve`, from flags, environment variables and a TOML file.
//!
//! A flag wins over its environment variable, which wins over the file, which wins over the
//! default. A setting is a field of [`Settings`]; its name is a key of the file, and with hyphens a
//! flag.

mod access;
mod error;
mod file;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod keys;
mod limits;
mod listen;
mod log;
mod precision;
mod serve;
mod settings;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

pub use access::AccessEvents;
pub use error::{ConfigError, TomlError};
pub use keys::keys;
pub use limits::LoadLimits;
pub use listen::{ListenAddress, ListenAddressError};
pub use log::{DEFAULT_LOG, LogFormat};
pub use precision::PrecisionChoice;
pub use serve::{LifeCycle, ServeConfig};
pub use settings::Settings;

/// Address that the server listens on if no other is set.
pub const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);
