//! Errors of finding and reading models.

use std::io;
use std::path::PathBuf;

use onnx_export::BuildError;
use onnx_export::quantize::QuantizeError;
use thiserror::Error;

use super::ModelRef;
use crate::manifest::ManifestError;

/// A model cannot be found or read.
#[derive(Debug, Error)]
pub enum StoreError {
    /// A file or folder cannot be read.
    #[error("cannot read {}", .path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// A file is larger than the limit for its kind, such as 16 MiB for a manifest.
    #[error("cannot read {}: expected at most {limit} bytes", .path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Maximum size in bytes.
        limit: u64,
    },
    /// A manifest cannot be used.
    #[error("cannot use manifest {}", .path.display())]
    Manifest {
        /// The manifest's file.
        path: PathBuf,
        /// Why the manifest was rejected: its syntax, or one of its fields.
        source: ManifestError,
    },
    /// A manifest of the models directory lists no ONNX files.
    #[error("cannot use manifest {}: expected the model's .onnx files in `stages`, got none", .path.display())]
    NoStages {
        /// The manifest's file.
        path: PathBuf,
    },
    /// A manifest names a file outside its own folder.
    #[error("cannot use manifest {}: `{field}` must name a file in the manifest's folder, got {}", .path.display(), .got.display())]
    Outside {
        /// The manifest's file.
        path: PathBuf,
        /// The field that names the file.
        field: &'static str,
        /// The rejected path.
        got: PathBuf,
    },
    /// No model has the name.
    #[error("model `{model}` not found: {advice}")]
    NotFound {
        /// The reference that was looked up.
        model: ModelRef,
        /// Text on where the model was searched, and how to install it.
        advice: String,
    },
    /// A ranges file cannot be used.
    #[error("cannot use the activation ranges in {}", .path.display())]
    Ranges {
        /// The file, or the name of the model whose ranges the binary contains.
        path: PathBuf,
        /// Why the ranges were rejected: their syntax, one of their fields, or that they do not fit the model.
        source: QuantizeError,
    },
    /// The embedded weights do not fit their architecture.
    #[error("cannot build the built-in model")]
    Build(#[from] BuildError),
}
