//! The error of invalid settings.

use std::path::PathBuf;

use thiserror::Error;

use crate::memory::MemoryPlanError;
use crate::store::StoreError;
use crate::tls::TlsError;

/// The error of invalid settings of `serve`, or of a configuration file that cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The configuration file cannot be read.
    #[error("cannot read the configuration file")]
    Read(#[from] StoreError),
    /// The configuration file is not valid TOML, or has a value of the wrong type.
    #[error("cannot parse the configuration file {}", .path.display())]
    Syntax {
        /// Path of the configuration file.
        path: PathBuf,
        /// The TOML parser's error, which names the line in the file.
        source: TomlError,
    },
    /// The configuration file has a key that is not the name of a setting.
    #[error("{}, line {line}: unknown key `{key}`; {hint}", .path.display())]
    UnknownKey {
        /// Path of the configuration file.
        path: PathBuf,
        /// Line of the key, from 1.
        line: usize,
        /// Up to 64 characters of the key.
        key: String,
        /// The key that was probably meant, or where to find all keys.
        hint: String,
    },
    /// A model to serve is not found, or a models directory cannot be served.
    #[error(transparent)]
    Models(StoreError),
    /// A flag has a value that TOML cannot represent, such as an integer beyond 2^63.
    #[error("cannot merge the flags with the configuration file")]
    Flags(#[from] toml::ser::Error),
    /// The flags do not fit the settings of the configuration file.
    #[error("cannot merge the flags with the configuration file")]
    Merge(#[source] TomlError),
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
    /// The TLS files cannot be used.
    #[error("cannot use the TLS files")]
    Tls(#[from] TlsError),
    /// The memory budget, or a setting for one part of it, is too small for the models and for the
    /// limits on requests.
    #[error(transparent)]
    Memory(#[from] MemoryPlanError),
}

/// Names of Rust's types in the messages of the TOML parser, and what they are called in a
/// configuration file.
const TYPES: [(&str, &str); 3] = [
    ("expected usize", "expected a whole number"),
    ("expected u64", "expected a whole number"),
    ("expected path string", "expected a string"),
];

/// The message of the TOML parser, with the line in the file if there is one.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct TomlError(String);

impl From<toml::de::Error> for TomlError {
    fn from(error: toml::de::Error) -> Self {
        let mut text = error.to_string();
        for (rust, plain) in TYPES {
            text = text.replace(rust, plain);
        }
        Self(text)
    }
}
