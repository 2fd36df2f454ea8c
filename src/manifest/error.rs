//! Errors of reading, checking and writing a manifest.

use std::borrow::Cow;
use std::fmt::Display;

use onnx_export::ArgumentError;
use onnx_export::text::shown;
use thiserror::Error;

/// A manifest cannot be parsed, has a field out of range, or cannot be written.
#[derive(Debug, Error)]
pub enum ManifestError {
    /// The text is not TOML, or a field is unknown, missing or of the wrong type.
    #[error("the model manifest cannot be parsed: {0}")]
    Syntax(#[from] toml::de::Error),
    /// The text is not TOML, so that it cannot be edited.
    #[error("the model manifest cannot be edited: {0}")]
    Text(#[from] toml_edit::TomlError),
    /// A field is out of range.
    #[error(transparent)]
    Field(#[from] InvalidField),
    /// The manifest cannot be written as TOML.
    #[error("cannot write the manifest as TOML: {0}")]
    Write(#[from] toml::ser::Error),
}

/// A field of a manifest is out of range.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("field `{field}`: expected {expected}, got {got}")]
pub struct InvalidField {
    /// Dotted path of the field, such as `preprocess.resize.size`.
    pub field: Cow<'static, str>,
    /// The allowed values, in words.
    pub expected: Cow<'static, str>,
    /// The rejected value, in words; `none` if the field is not set.
    pub got: String,
}

impl InvalidField {
    /// Converts the exporter's error about an argument of the manifest's `architecture`.
    pub(super) fn in_architecture(error: ArgumentError) -> Self {
        Self {
            field: format!("architecture.{}", error.argument).into(),
            expected: error.expected.into(),
            got: shown(&error.got),
        }
    }
}

/// Returns an error about `field` unless `holds`.
pub(super) fn require(
    holds: bool,
    field: &'static str,
    expected: &'static str,
    got: &dyn Display,
) -> Result<(), InvalidField> {
    if holds {
        return Ok(());
    }
    Err(InvalidField {
        field: field.into(),
        expected: expected.into(),
        got: shown(&got.to_string()),
    })
}
