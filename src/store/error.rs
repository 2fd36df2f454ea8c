//! Why a model cannot be found or read.

use std::io;
use std::path::PathBuf;

use onnx_export::BuildError;
use onnx_export::quantize::QuantizeError;
use thiserror::Error;

use super::ModelRef;
use crate::manifest::ManifestError;

/// A model that cannot be found or read.
#[derive(Debug, Error)]
pub enum StoreError {
    /// A file or folder could not be read.
    #[error("cannot read {}", .path.display())]
    Io {
        /// What was read.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A file larger than its kind may be.
    #[error("{} is larger than {limit} bytes", .path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The limit.
        limit: u64,
    },
    /// A manifest that cannot be used.
    #[error("manifest {}", .path.display())]
    Manifest {
        /// The manifest's file.
        path: PathBuf,
        /// What is wrong.
        source: ManifestError,
    },
    /// A manifest of the models directory that names no `.onnx` file.
    #[error("{}: names no `file`, the .onnx beside it", .path.display())]
    NoFile {
        /// The manifest's file.
        path: PathBuf,
    },
    /// A file name that leaves the manifest's folder.
    #[error("{}: `{field}` must name a file beside the manifest, got {}", .path.display(), .got.display())]
    Outside {
        /// The manifest's file.
        path: PathBuf,
        /// The field.
        field: &'static str,
        /// What it names.
        got: PathBuf,
    },
    /// No model of that name is here.
    #[error("model `{model}` is not here. {advice}")]
    NotFound {
        /// What was asked for.
        model: ModelRef,
        /// What to do.
        advice: String,
    },
    /// Ranges that cannot be used.
    #[error("ranges {}", .path.display())]
    Ranges {
        /// The file, or the model that the binary carries.
        path: PathBuf,
        /// What is wrong.
        source: QuantizeError,
    },
    /// The embedded weights do not fit their own architecture.
    #[error("the built-in model")]
    Build(#[from] BuildError),
}
