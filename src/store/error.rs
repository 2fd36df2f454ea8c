//! Errors from finding a model and reading its files.

use std::io;
use std::path::{Path, PathBuf};

use onnx_export::quantize::QuantizeError;
use onnx_export::{BuildError, NotFinite};
use thiserror::Error;

use super::{Denied, DirectoryError, LabelError, ModelRef};
use crate::inspect::Finding;
use crate::manifest::ManifestError;

/// A reason why a model cannot be found or its files cannot be read.
#[derive(Debug, Error)]
pub enum StoreError {
    /// A file or folder cannot be read.
    #[error("cannot read {}", .path.display())]
    Io {
        /// Path of the file or folder.
        path: PathBuf,
        /// Error of the operating system, [`io::ErrorKind::InvalidData`] if a text file is not
        /// UTF-8, or [`io::ErrorKind::OutOfMemory`] if the memory does not suffice for the file.
        source: io::Error,
    },
    /// The user of this process may not read a file or folder.
    #[error("{0}")]
    Denied(Denied),
    /// The models of a models directory cannot be served.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// Two models have the same name and variant, so that a request could not select one of them.
    #[error(
        "two models are named `{model}`, {} and {}: change `name` in one of the manifests, or name the \
         models to serve with --model", .paths[0].display(), .paths[1].display()
    )]
    Duplicate {
        /// The name of the models, or their name and variant, as `name@variant`.
        model: String,
        /// Paths of their manifests.
        paths: [PathBuf; 2],
    },
    /// A file is larger than the limit for its kind, such as 16 MiB for a manifest.
    #[error("cannot read {}: the file is larger than the limit of {limit} bytes", .path.display())]
    TooLarge {
        /// Path of the file.
        path: PathBuf,
        /// Maximum size of the file in bytes.
        limit: u64,
    },
    /// A file of a model, or a checkpoint, is not a regular file.
    #[error("cannot read {}: expected a regular file, got {got}", .path.display())]
    NotRegular {
        /// Path of the file.
        path: PathBuf,
        /// Kind of the file, such as `a folder`.
        got: &'static str,
    },
    /// A file of a model is outside the model's folder or the models directory, because its path
    /// has a symbolic link.
    #[error(
        "cannot read {}: the path leads to {}, outside {}; copy the file into this folder, or allow \
         symbolic links out of it with --follow-symlinks",
        .path.display(), .target.display(), .folder.display()
    )]
    LinkOutside {
        /// Path of the file.
        path: PathBuf,
        /// Path of the file without symbolic links.
        target: PathBuf,
        /// Folder that the file must be in, without symbolic links.
        folder: PathBuf,
    },
    /// A line of a label file is not a label.
    #[error("cannot read the labels in {}", .path.display())]
    Labels {
        /// Path of the label file.
        path: PathBuf,
        /// Error in one of the lines.
        source: LabelError,
    },
    /// A manifest has invalid syntax or an invalid field.
    #[error("cannot use manifest {}", .path.display())]
    Manifest {
        /// Path of the manifest, or the name of the built-in model if its manifest is invalid.
        path: PathBuf,
        /// Error in the syntax or in one of the fields.
        source: ManifestError,
    },
    /// A weight in an ONNX file is NaN or infinite.
    #[error("cannot use the model {}", .path.display())]
    Weights {
        /// Path of the ONNX file.
        path: PathBuf,
        /// Name of the weight, and its first value that is NaN or infinite.
        source: NotFinite,
    },
    /// A network does not fit its manifest, or cannot be served.
    #[error("cannot use the network {}", .path.display())]
    Network {
        /// Path of the ONNX file.
        path: PathBuf,
        /// The most basic of the findings.
        source: Finding,
    },
    /// A manifest that is not built in lists no ONNX files in `stages`.
    #[error("cannot use manifest {}: `stages` must list the model's .onnx files, got none", .path.display())]
    NoStages {
        /// Path of the manifest.
        path: PathBuf,
    },
    /// A manifest names a file outside its own folder.
    #[error("cannot use manifest {}: `{field}` must name a file in the manifest's folder, got {}", .path.display(), .got.display())]
    Outside {
        /// Path of the manifest.
        path: PathBuf,
        /// Field of the manifest with the rejected path, such as `stages.file`.
        field: &'static str,
        /// Value of the field: the rejected path.
        got: PathBuf,
    },
    /// A file does not have the SHA-256 that its manifest states.
    #[error(
        "cannot use {}: its SHA-256 is {got}, but the manifest states {expected}; if you have replaced the file, \
         correct or remove `{field}`, else write the model again with `export` or `quantize`",
        .path.display()
    )]
    Hash {
        /// Path of the file.
        path: PathBuf,
        /// Field of the manifest with the SHA-256, such as `stages.sha256`.
        field: &'static str,
        /// SHA-256 in the manifest.
        expected: String,
        /// SHA-256 of the file.
        got: String,
    },
    /// A variant was made from other weights than the model has now.
    #[error(
        "cannot use the variant `{variant}` of {}: it was made from other weights than the model's; make it again with \
         `sightline quantize {} --calibration DIR`, or remove [variants.{variant}]",
        .path.display(), .path.display()
    )]
    Stale {
        /// Path of the manifest.
        path: PathBuf,
        /// Name of the variant.
        variant: String,
    },
    /// Another process replaced the model while this one read it.
    #[error(
        "the model of {} was changed while it was being read, by `export`, `quantize` or a copy: try again",
        .path.display()
    )]
    Changed {
        /// Path of the manifest.
        path: PathBuf,
    },
    /// No model, or no variant of a model, matches the reference that was looked up.
    #[error("model `{model}` not found: {advice}")]
    NotFound {
        /// Reference that was looked up.
        model: ModelRef,
        /// Text that says where the model was searched and how to install it, or which paths or
        /// variants are valid.
        advice: String,
    },
    /// A ranges file (the activation ranges for quantizing a model) cannot be used.
    #[error("cannot use the activation ranges in {}", .path.display())]
    Ranges {
        /// Path of the ranges file, or the name of the model if its ranges file is in the binary.
        path: PathBuf,
        /// Error in the syntax or a field of the ranges file, or a mismatch with the model's
        /// network.
        source: QuantizeError,
    },
    /// The weights in the binary do not fit the architecture of the built-in model.
    #[error("cannot build the built-in model")]
    Build(#[from] BuildError),
}

impl StoreError {
    /// Returns the error of a file or folder `path` that cannot be read: [`StoreError::Denied`] if a permission is
    /// missing, else [`StoreError::Io`].
    pub(super) fn io(path: &Path, source: io::Error) -> Self {
        if source.kind() == io::ErrorKind::PermissionDenied {
            return Self::Denied(Denied::at(path));
        }
        let path = path.to_path_buf();
        Self::Io { path, source }
    }
}
