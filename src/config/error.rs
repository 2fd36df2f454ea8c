//! The error of invalid settings.

use std::path::PathBuf;

use onnx_export::text::{cut, shown};
use thiserror::Error;

use super::secret::redacted_in;
use crate::error::explain;
use crate::keys::KeyFileError;
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
    #[error("{}, line {line}: unknown key `{}`; {hint}", .path.display(), shown(.key))]
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
    /// The configuration file has two models directories.
    #[error(
        "{}, line {line}: `models_dir` and the string `models` both set the models directory; \
         remove one of them",
        .path.display()
    )]
    TwoDirectories {
        /// Path of the configuration file.
        path: PathBuf,
        /// Line of the second of these keys, from 1.
        line: usize,
    },
    /// The configuration file has a table for a variant of a model.
    #[error(
        "{}, line {line}: expected the name of a model without a variant; the settings in \
         [models.{}] apply to all its variants",
        .path.display(), shown(.model)
    )]
    VariantTable {
        /// Path of the configuration file.
        path: PathBuf,
        /// Line of the table, from 1.
        line: usize,
        /// Up to 64 characters of the model's name.
        model: String,
    },
    /// A table `[models.NAME]` is for a model that is not served.
    #[error(
        "[models.{}]: expected the name of a served model ({served}), got `{}`{hint}",
        shown(.model), shown(.model)
    )]
    UnknownModel {
        /// Name of the table.
        model: String,
        /// Names of the served models.
        served: String,
        /// The name that was probably meant, after a semicolon. Empty if none is near.
        hint: String,
    },
    /// A table `[models.NAME]` has a setting with an invalid value.
    #[error("[models.{}]: {reason}", shown(.model))]
    Model {
        /// Name of the model.
        model: String,
        /// The error of the setting.
        reason: Box<ConfigError>,
    },
    /// The command line cannot be merged with the configuration file.
    #[error("cannot merge the flags with the configuration file")]
    Arguments(#[from] clap::Error),
    /// Several settings are invalid.
    #[error("{} errors in the configuration:\n{}", .0.len(), listed(.0))]
    Several(Vec<ConfigError>),
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
    /// The file of the API keys cannot be used.
    #[error(transparent)]
    ApiKeys(#[from] KeyFileError),
    /// The TLS files cannot be used.
    #[error("cannot use the TLS files")]
    Tls(#[from] TlsError),
    /// The memory budget, or a setting for one part of it, is too small for the models and for the
    /// limits on requests.
    #[error(transparent)]
    Memory(#[from] MemoryPlanError),
}

impl ConfigError {
    /// Returns an error that lists `errors`, or the only one of them.
    ///
    /// # Errors
    /// If `errors` is not empty.
    pub fn all(mut errors: Vec<Self>) -> Result<(), Self> {
        match (errors.pop(), errors.is_empty()) {
            (None, _) => Ok(()),
            (Some(only), true) => Err(only),
            (Some(last), false) => {
                errors.push(last);
                Err(Self::Several(errors))
            }
        }
    }

    /// Returns the errors of which this one consists.
    pub fn each(self) -> Vec<Self> {
        match self {
            Self::Several(errors) => errors,
            only => vec![only],
        }
    }

    /// Returns the error of the malformed log filter `filter`.
    pub fn log_filter(filter: &str) -> Self {
        Self::Value {
            setting: "log",
            expected: "a filter, such as `info` or `warn,sightline=debug`".to_owned(),
            got: format!("`{}`", cut(filter, 64)),
        }
    }

    /// Returns the message of the error and of its causes.
    pub fn explained(&self) -> String {
        explain(self)
    }
}

/// Returns `errors` as the items of a list.
fn listed(errors: &[ConfigError]) -> String {
    let item = |error: &ConfigError| format!("  - {}", error.explained().replace('\n', "\n    "));
    errors.iter().map(item).collect::<Vec<_>>().join("\n")
}

/// Names of Rust's types in the messages of the TOML parser, and what they are called in a
/// configuration file.
const TYPES: [(&str, &str); 6] = [
    ("wanted string or table", "expected a string"),
    (MAP, "invalid type: table"),
    ("invalid type: sequence", "invalid type: list"),
    ("expected usize", "expected a whole number"),
    ("expected u64", "expected a whole number"),
    ("expected path string", "expected a string"),
];

/// What the messages call a table.
const MAP: &str = "invalid type: map";

/// Maximum number of characters of a line of the file in a message.
const MAX_LINE: usize = 240;

/// Returns `line`, which may quote the file, without the user name and password of a URL, and cut.
fn quoted(line: &str) -> String {
    let line = redacted_in(line);
    let kept = cut(&line, MAX_LINE);
    let mark = if kept.len() < line.len() { "..." } else { "" };
    format!("{kept}{mark}")
}

/// The message of the TOML parser, with the line in the file if there is one.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct TomlError(String);

impl TomlError {
    /// Returns the error for a value that has a date or a time, which the parser reports as a map.
    pub(super) fn of_date(error: &toml::de::Error) -> Self {
        Self::new(&error.to_string().replace(MAP, "invalid type: date or time"))
    }

    fn new(text: &str) -> Self {
        let mut text = text.to_owned();
        for (rust, plain) in TYPES {
            text = text.replace(rust, plain);
        }
        let lines: Vec<String> = text.lines().map(quoted).collect();
        Self(lines.join("\n"))
    }
}

impl From<toml::de::Error> for TomlError {
    fn from(error: toml::de::Error) -> Self {
        Self::new(&error.to_string())
    }
}
