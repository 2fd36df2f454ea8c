//! Finds models in the models directory, at a path, or in the binary.
//!
//! `registry` loads the models that this module finds.

mod error;
mod files;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod integrity;
mod labels;
mod requantize;
mod source;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::catalogue;
use crate::manifest::Precision;
pub use error::StoreError;
pub use files::{Boundary, read_bounded, read_labels, read_regular, read_text};
pub use labels::{LabelError, lines};
pub use requantize::{Requantize, quantized};
pub use source::{ModelSource, Origin};

/// Variant name of a model as its manifest describes it, with fp32 weights.
pub const FP32: &str = Precision::Fp32.as_str();
/// Name of the variant with int8 weights.
pub const INT8: &str = Precision::Int8.as_str();

/// A reference to a model on the command line or in the configuration file: `name` or
/// `name@variant`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct ModelRef {
    /// Name of the model, or the path of its folder, manifest or ONNX file.
    pub name: String,
    /// Name of the variant. `None` if the reference has no `@`.
    pub variant: Option<String>,
}

impl FromStr for ModelRef {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, variant) = match text.rsplit_once('@') {
            Some((name, variant)) => (name, Some(variant.to_owned())),
            None => (text, None),
        };
        Ok(Self {
            name: name.to_owned(),
            variant,
        })
    }
}

impl From<String> for ModelRef {
    fn from(text: String) -> Self {
        let Ok(reference) = text.parse();
        reference
    }
}

impl From<ModelRef> for String {
    fn from(reference: ModelRef) -> Self {
        reference.to_string()
    }
}

impl fmt::Display for ModelRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.variant {
            Some(variant) => write!(f, "{}@{variant}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// Finds models in a models directory and among the models that the binary contains.
#[derive(Debug, Clone, Default)]
pub struct ModelStore {
    directory: Option<PathBuf>,
    follow_symlinks: bool,
}

impl ModelStore {
    /// Creates a store of the models in `directory` and in the binary. If `directory` is `None`,
    /// the store has only the models in the binary.
    pub fn new(directory: Option<PathBuf>) -> Self {
        Self {
            directory,
            follow_symlinks: false,
        }
    }

    /// Sets whether symbolic links may lead out of the models directory, or, for a model at another
    /// path, out of the model's folder. The default is `false`.
    #[must_use]
    pub fn following_symlinks(self, follow_symlinks: bool) -> Self {
        Self {
            follow_symlinks,
            ..self
        }
    }

    /// Returns every model of the models directory, `DIR/*/model.toml` and `DIR/*.toml`, sorted by
    /// name. Entries whose name starts with a dot are skipped. The result is empty if the store has
    /// no directory.
    ///
    /// # Errors
    /// [`StoreError`] if the directory cannot be read, or for the first manifest that cannot be
    /// used: skipping an invalid manifest would make its model disappear silently.
    pub fn list(&self) -> Result<Vec<ModelSource>, StoreError> {
        let Some(directory) = &self.directory else {
            return Ok(Vec::new());
        };
        let fail = |source| StoreError::Io {
            path: directory.clone(),
            source,
        };
        let entries = std::fs::read_dir(directory).map_err(fail)?;
        let boundary = self.boundary(directory)?;
        let mut models = Vec::new();
        for entry in entries {
            let entry = entry.map_err(fail)?;
            // Kubernetes keeps the files of a volume in `..data`; the visible entries are links into it.
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            if let Some(manifest) = manifest_in(&entry.path()) {
                models.push(ModelSource::read(&manifest, boundary.clone())?);
            }
        }
        models.sort_by(|a, b| a.manifest.name.cmp(&b.manifest.name));
        Ok(models)
    }

    /// Finds the model or variant that `reference` names. A name that is a path (it contains `/` or
    /// ends in `.toml` or `.onnx`) is read from that path; other names are searched in the models
    /// directory, then in the binary.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] if no model or variant matches `reference`, or another
    /// [`StoreError`] if the files of the model cannot be read.
    pub fn find(&self, reference: &ModelRef) -> Result<ModelSource, StoreError> {
        self.find_name(reference)?.with_variant(reference)
    }

    fn find_name(&self, reference: &ModelRef) -> Result<ModelSource, StoreError> {
        let name = &reference.name;
        if name.contains('/') || has_extension(Path::new(name), &["toml", "onnx"]) {
            return self.at_path(reference);
        }
        if let Some(source) = self.in_directory(name)? {
            return Ok(source);
        }
        if name == catalogue::DEFAULT_MODEL {
            return ModelSource::embedded();
        }
        Err(StoreError::NotFound {
            model: reference.clone(),
            advice: self.advice(name),
        })
    }

    /// Finds the model `name` in the models directory, or returns `None` if the directory does not
    /// contain the model. `name/model.toml` and `name.toml` are tried before all other manifests,
    /// so that a broken manifest of another model does not matter.
    fn in_directory(&self, name: &str) -> Result<Option<ModelSource>, StoreError> {
        let Some(directory) = &self.directory else {
            return Ok(None);
        };
        for path in [
            directory.join(name).join("model.toml"),
            directory.join(format!("{name}.toml")),
        ] {
            if is_present(&path) {
                let source = ModelSource::read(&path, self.boundary(directory)?)?;
                if source.manifest.name == name {
                    return Ok(Some(source));
                }
            }
        }
        if name == catalogue::DEFAULT_MODEL {
            return Ok(None);
        }
        Ok(self
            .list()?
            .into_iter()
            .find(|model| model.manifest.name == name))
    }

    /// Reads the model whose folder, manifest or ONNX file `reference` names. All files of the model
    /// are in one folder; only a manifest that `reference` names may be a link out of it.
    fn at_path(&self, reference: &ModelRef) -> Result<ModelSource, StoreError> {
        let path = Path::new(&reference.name);
        let manifest = if has_extension(path, &["onnx"]) {
            Some(path.with_extension("toml"))
        } else {
            manifest_in(path)
        };
        let Some(manifest) = manifest else {
            let advice =
                "the path must name a folder with model.toml, a .toml file or an .onnx file"
                    .to_owned();
            return Err(StoreError::NotFound {
                model: reference.clone(),
                advice,
            });
        };
        let boundary = self.boundary(manifest.parent().unwrap_or(path))?;
        if manifest == path {
            ModelSource::read_named(&manifest, boundary)
        } else {
            ModelSource::read(&manifest, boundary)
        }
    }

    /// Returns the boundary for the files of the models in `folder`.
    fn boundary(&self, folder: &Path) -> Result<Boundary, StoreError> {
        if self.follow_symlinks {
            return Ok(Boundary::None);
        }
        Boundary::at(folder)
    }

    /// Returns the text of [`StoreError::NotFound`] that says where the model `name` was searched
    /// and how to install it.
    fn advice(&self, name: &str) -> String {
        let place = self.directory.as_ref().map_or_else(
            || "no models directory is set (--models DIR)".to_owned(),
            |directory| format!("{} does not contain the model", directory.display()),
        );
        match catalogue::manifest(name) {
            Ok(Some(_)) => {
                format!(
                    "{place}; add the model: sightline export {name} --weights FILE -o DIR/{name}"
                )
            }
            _ => format!(
                "{place}, and the catalogue has no model of this name; see `sightline models`"
            ),
        }
    }
}

/// Returns `path/model.toml` if that exists, else `path` if it exists and ends in `.toml`, else
/// `None`. A folder does not count.
fn manifest_in(path: &Path) -> Option<PathBuf> {
    let inside = path.join("model.toml");
    match () {
        () if is_present(&inside) => Some(inside),
        () if has_extension(path, &["toml"]) && is_present(path) => Some(path.to_path_buf()),
        () => None,
    }
}

/// Returns whether `path` exists and is not a folder. A pipe or a broken link counts as well, so that
/// reading it fails and the model does not disappear silently.
fn is_present(path: &Path) -> bool {
    path.symlink_metadata()
        .is_ok_and(|metadata| !metadata.is_dir())
}

fn has_extension(path: &Path, extensions: &[&str]) -> bool {
    path.extension()
        .is_some_and(|found| extensions.iter().any(|extension| found == *extension))
}

#[cfg(test)]
mod file_tests;
#[cfg(test)]
mod tests;
