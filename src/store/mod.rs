//! Finding models: in the models directory, at a path, or in the binary.
//!
//! What is *not* here: sessions and queues (`registry` loads what this finds).

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
pub use requantize::Requantize;
pub use source::{Graphs, ModelSource, Origin};

/// The variant that a model's own graph is: 32-bit floats.
pub const FP32: &str = Precision::Fp32.as_str();
/// The variant with 8-bit weights, where there is one.
pub const INT8: &str = Precision::Int8.as_str();

/// A model as people name it: `name` or `name@variant`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelRef {
    /// The manifest's name, or a path to it.
    pub name: String,
    /// The variant, where one is asked for.
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

/// The models directory and the binary's own models.
#[derive(Debug, Clone, Default)]
pub struct ModelStore {
    directory: Option<PathBuf>,
}

impl ModelStore {
    /// A store over `directory`, or over the binary alone.
    pub fn new(directory: Option<PathBuf>) -> Self {
        Self { directory }
    }

    /// Every model of the directory, by name: `DIR/*/model.toml` and `DIR/*.toml`.
    ///
    /// # Errors
    /// [`StoreError`] for the first manifest that cannot be used: a model that silently stays away
    /// is worse than a server that says why.
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

    /// The model that `reference` names: a path, a model of the directory, or the binary's own.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] with the command that brings the model.
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

    /// Looks where the name points first: a broken manifest elsewhere is none of this model's.
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

    fn at_path(reference: &ModelRef) -> Result<ModelSource, StoreError> {
        let path = Path::new(&reference.name);
        let manifest = if has_extension(path, &["onnx"]) {
            Some(path.with_extension("toml"))
        } else {
            manifest_in(path)
        };
        let Some(manifest) = manifest else {
            let advice = "The path names no model.toml, .toml or .onnx".to_owned();
            return Err(StoreError::NotFound {
                model: reference.clone(),
                advice,
            });
        };
        ModelSource::read(&manifest)
    }

    fn advice(&self, name: &str) -> String {
        let place = self.directory.as_ref().map_or_else(
            || "no models directory is set (--models DIR)".to_owned(),
            |directory| format!("{} does not hold it", directory.display()),
        );
        match catalogue::manifest(name) {
            Ok(Some(_)) => {
                format!(
                    "{place}. Make it with: sightline export {name} --weights FILE -o DIR/{name}"
                )
            }
            _ => format!("{place}, and the catalogue does not know it: see `sightline models`"),
        }
    }
}

/// The manifest that a directory entry stands for, if it is one.
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
