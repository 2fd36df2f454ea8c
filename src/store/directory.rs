//! Errors of a models directory: why its models cannot be served, and what to do.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::StoreError;
use super::scan::has_extension;
use crate::catalogue;
use crate::error::explain;

/// Maximum number of entries of a models directory that one error names.
const MAX_NAMED: usize = 10;

/// Why the models of a models directory cannot be served.
#[derive(Debug, Error)]
pub enum DirectoryError {
    /// The models directory does not exist.
    #[error(
        "the models directory {} does not exist: correct the path, or create a model in it with \
         `sightline export NAME --weights FILE -o {}`",
        .directory.display(), .directory.join("NAME").display()
    )]
    Missing {
        /// Path of the models directory.
        directory: PathBuf,
    },
    /// The path of the models directory leads to a file.
    #[error("the models directory {} is a file: {}", .directory.display(), instead_of_file(.directory))]
    NotDirectory {
        /// Path of the models directory.
        directory: PathBuf,
    },
    /// The models directory cannot be read.
    #[error(transparent)]
    Unreadable(Box<StoreError>),
    /// The models directory has no model, although one is required.
    #[error(
        "the models directory {0} has no model{found}: `sightline export NAME --weights FILE -o \
         {0}/NAME` creates one; `--model {built_in}` selects the built-in model",
        .directory.display(), found = instead_of_models(.ignored), built_in = catalogue::DEFAULT_MODEL
    )]
    Empty {
        /// Path of the models directory.
        directory: PathBuf,
        /// Names of its entries that are not models.
        ignored: Vec<String>,
    },
    /// Entries of the models directory are neither models nor known to be something else.
    #[error("{}", describe(.directory, .wanted.as_deref(), .entries))]
    Entries {
        /// Path of the models directory.
        directory: PathBuf,
        /// Name of the model that was searched and not found. `None` if all models were to be read.
        wanted: Option<String>,
        /// The entries, at least one.
        entries: Vec<BrokenEntry>,
    },
}

/// An entry of a models directory that cannot be served.
#[derive(Debug)]
pub struct BrokenEntry {
    /// Name of the folder or file, or the name of the model if its manifest is valid but another file cannot be
    /// opened.
    pub name: OsString,
    /// Why the entry cannot be served.
    pub problem: Problem,
}

impl BrokenEntry {
    /// Returns the name of the model if another model has the same name. `None` if something else is wrong.
    pub fn namesake(&self) -> Option<&str> {
        match &self.problem {
            Problem::Model(StoreError::Duplicate { model, .. }) => Some(model),
            _ => None,
        }
    }

    /// Returns whether the entry is `model` or `model.toml`, where the model of this name is expected.
    pub(super) fn is_for(&self, model: &str) -> bool {
        let name = Path::new(&self.name);
        name == Path::new(model)
            || (has_extension(name, &["toml"]) && name.file_stem() == Some(OsStr::new(model)))
    }
}

/// Why an entry of a models directory cannot be served.
#[derive(Debug, Error)]
pub enum Problem {
    /// The folder, or a file of the model, cannot be read or is invalid.
    #[error("{}", explain(.0))]
    Model(StoreError),
    /// A folder has an ONNX file but no manifest.
    #[error(
        "{} has {} but no model.toml: `sightline inspect {}` prints a manifest to start from",
        folder_of(.onnx), name_of(.onnx), .onnx.display()
    )]
    NoManifest {
        /// Path of the ONNX file.
        onnx: PathBuf,
    },
    /// A folder has an ONNX file and a manifest with another name than `model.toml`.
    #[error(
        "{} has {} but no model.toml: rename the manifest to model.toml",
        folder_of(.manifest), name_of(.manifest)
    )]
    OtherManifest {
        /// Path of the manifest.
        manifest: PathBuf,
    },
    /// A folder has no manifest, but a folder inside it has one.
    #[error(
        "{0} has no model.toml, but its folder {1} has: move {1} one level up, or pass --models {0}",
        folder_of(.inner), name_of(.inner)
    )]
    TooDeep {
        /// Path of the inner folder.
        inner: PathBuf,
    },
    /// A folder has a checkpoint but neither a manifest nor an ONNX file.
    #[error(
        "{0} has the checkpoint {1} but no model.toml: `sightline export NAME --weights {2} -o {0}` \
         converts it",
        folder_of(.checkpoint), name_of(.checkpoint), .checkpoint.display()
    )]
    Checkpoint {
        /// Path of the checkpoint.
        checkpoint: PathBuf,
    },
    /// A folder is empty.
    #[error(
        "{0} is empty: remove it, or create a model in it with `sightline export NAME --weights FILE \
         -o {0}`", .folder.display()
    )]
    EmptyFolder {
        /// Path of the folder.
        folder: PathBuf,
    },
    /// An ONNX file is directly in the models directory, and no manifest there names it.
    #[error(
        "{0} has no manifest: move it into a folder of its own, with the manifest as model.toml; \
         `sightline inspect {0}` prints a manifest to start from", .onnx.display()
    )]
    LooseOnnx {
        /// Path of the ONNX file.
        onnx: PathBuf,
    },
    /// A symbolic link leads to nothing.
    #[error("{} is a link to {}, which does not exist: correct or remove it", .link.display(), .target.display())]
    BrokenLink {
        /// Path of the link.
        link: PathBuf,
        /// Path that the link holds.
        target: PathBuf,
    },
}

/// Returns what to do if the path of the models directory leads to the file `path`.
fn instead_of_file(path: &Path) -> String {
    if has_extension(path, &["toml", "onnx"]) {
        return format!("pass --model {} to serve this model", path.display());
    }
    "--models expects the directory that contains the folders of the models".to_owned()
}

/// Returns the text of [`DirectoryError::Entries`].
fn describe(directory: &Path, wanted: Option<&str>, entries: &[BrokenEntry]) -> String {
    let place = directory.display();
    let start = match wanted {
        None => format!("cannot use the models directory {place}"),
        Some(model) => format!(
            "model `{model}` not found in the models directory {place}, a part of which cannot be used"
        ),
    };
    if let [entry] = entries {
        return format!("{start}: {}", entry.problem);
    }
    let mut text = format!("{start}: {} entries cannot be served:", entries.len());
    for entry in entries.iter().take(MAX_NAMED) {
        text.push_str("\n  - ");
        text.push_str(&entry.problem.to_string().replace('\n', "\n    "));
    }
    let more = entries.len().saturating_sub(MAX_NAMED);
    if more > 0 {
        text.push_str("\n  - and ");
        text.push_str(&more.to_string());
        text.push_str(" more");
    }
    text.push_str("\n  correct or remove them, or name the models to serve with --model");
    text
}

/// Returns the first of the entries `names` of a models directory without a model, as a part of a sentence. Empty if
/// there are none.
fn instead_of_models(names: &[String]) -> String {
    if names.is_empty() {
        return String::new();
    }
    let more = if names.len() > MAX_NAMED { ", ..." } else { "" };
    let named = names[..names.len().min(MAX_NAMED)].join(", ");
    format!(", only {named}{more}")
}

fn folder_of(path: &Path) -> impl fmt::Display {
    path.parent().unwrap_or(path).display()
}

fn name_of(path: &Path) -> impl fmt::Display {
    Path::new(path.file_name().unwrap_or(path.as_os_str())).display()
}
