//! The error of invalid settings.

use std::path::PathBuf;

use thiserror::Error;

use crate::memory::MemoryPlanError;
use crate::store::StoreError;

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
