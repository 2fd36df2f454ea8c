//! Finds models in the models directory, at a path, or in the binary.
//!
//! `registry` loads the models that this module finds.

mod error;
mod files;
mod requantize;
mod source;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::catalogue;
use crate::manifest::Precision;
pub use error::StoreError;
pub use files::{lines, read_bounded, read_text};
pub use requantize::{Requantize, quantized};
pub use source::{ModelSource, Origin};

/// Name of the variant that is the model itself, in fp32.
pub const FP32: &str = Precision::Fp32.as_str();
/// Name of the variant with int8 weights.
pub const INT8: &str = Precision::Int8.as_str();

/// A reference to a model on the command line: `name` or `name@variant`.
#[derive(Debug, Clone, PartialEq, Eq)]
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

impl fmt::Display for ModelRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.variant {
            Some(variant) => write!(f, "{}@{variant}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// The models of a directory and of the binary.
#[derive(Debug, Clone, Default)]
pub struct ModelStore {
    directory: Option<PathBuf>,
}

impl ModelStore {
    /// Creates a store of the models in `directory` and in the binary. With `None` it has only those
    /// in the binary.
    pub fn new(directory: Option<PathBuf>) -> Self {
        Self { directory }
    }

    /// Returns every model of the directory, `DIR/*/model.toml` and `DIR/*.toml`, sorted by name.
    ///
    /// # Errors
    /// [`StoreError`] for the first manifest that cannot be used. Skipping it would make a model disappear
    /// silently.
    pub fn list(&self) -> Result<Vec<ModelSource>, StoreError> {
        let Some(directory) = &self.directory else {
            return Ok(Vec::new());
        };
        let fail = |source| StoreError::Io {
            path: directory.clone(),
            source,
        };
        let entries = std::fs::read_dir(directory).map_err(fail)?;
        let mut models = Vec::new();
        for entry in entries {
            let path = entry.map_err(fail)?.path();
            if let Some(manifest) = manifest_in(&path) {
                models.push(ModelSource::read(&manifest)?);
            }
        }
        models.sort_by(|a, b| a.manifest.name.cmp(&b.manifest.name));
        Ok(models)
    }

    /// Finds the model that `reference` names: at that path if it is one, else in the directory, else in the binary.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] with the command that installs the model, or [`StoreError`] if its files
    /// cannot be read.
    pub fn find(&self, reference: &ModelRef) -> Result<ModelSource, StoreError> {
        self.find_name(reference)?.with_variant(reference)
    }

    fn find_name(&self, reference: &ModelRef) -> Result<ModelSource, StoreError> {
        let name = &reference.name;
        if name.contains('/') || has_extension(Path::new(name), &["toml", "onnx"]) {
            return Self::at_path(reference);
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

    /// Finds the model `name` in the directory. The paths that the name suggests are tried first, so that a broken
    /// manifest elsewhere does not affect this model.
    fn in_directory(&self, name: &str) -> Result<Option<ModelSource>, StoreError> {
        let Some(directory) = &self.directory else {
            return Ok(None);
        };
        for path in [
            directory.join(name).join("model.toml"),
            directory.join(format!("{name}.toml")),
        ] {
            if path.is_file() {
                let source = ModelSource::read(&path)?;
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

    /// Reads the model whose folder, manifest or ONNX file `reference` names.
    fn at_path(reference: &ModelRef) -> Result<ModelSource, StoreError> {
        let path = Path::new(&reference.name);
        let manifest = if has_extension(path, &["onnx"]) {
            Some(path.with_extension("toml"))
        } else {
            manifest_in(path)
        };
        let Some(manifest) = manifest else {
            let advice =
                "expected the path of a folder with model.toml, of a .toml or of an .onnx file"
                    .to_owned();
            return Err(StoreError::NotFound {
                model: reference.clone(),
                advice,
            });
        };
        ModelSource::read(&manifest)
    }

    /// Returns where the model `name` was searched, and how to install it, for [`StoreError::NotFound`].
    fn advice(&self, name: &str) -> String {
        let place = self.directory.as_ref().map_or_else(
            || "no models directory is set (--models DIR)".to_owned(),
            |directory| format!("{} does not contain it", directory.display()),
        );
        match catalogue::manifest(name) {
            Ok(Some(_)) => {
                format!(
                    "{place}; create it with: sightline export {name} --weights FILE -o DIR/{name}"
                )
            }
            _ => format!("{place}, and the catalogue does not know it; see `sightline models`"),
        }
    }
}

/// Returns the path of the manifest that `path` stands for, or `None` if it is neither a model folder nor a
/// `.toml` file.
fn manifest_in(path: &Path) -> Option<PathBuf> {
    let inside = path.join("model.toml");
    match () {
        () if inside.is_file() => Some(inside),
        () if has_extension(path, &["toml"]) && path.is_file() => Some(path.to_path_buf()),
        () => None,
    }
}

fn has_extension(path: &Path, extensions: &[&str]) -> bool {
    path.extension()
        .is_some_and(|found| extensions.iter().any(|extension| found == *extension))
}

#[cfg(test)]
mod tests;
