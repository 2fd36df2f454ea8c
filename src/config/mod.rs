//! The settings of `serve`, from flags, environment variables and a TOML file.
//!
//! A flag wins over its environment variable, which wins over the file, which wins over the
//! default.

mod access;
mod error;
mod file;
mod limits;
mod precision;
mod serve;
mod settings;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

pub use access::AccessEvents;
pub use error::ConfigError;
pub use limits::LoadLimits;
pub use precision::PrecisionChoice;
pub use serve::ServeConfig;
pub use settings::Settings;

/// Address that the server listens on if no other is set.
pub const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);
