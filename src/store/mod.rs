//! Finds models in the models directory, at a path, or in the binary.
//!
//! `registry` loads the models that this module finds.

mod denied;
mod directory;
mod error;
mod files;
mod fingerprint;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod integrity;
mod labels;
mod requantize;
mod scan;
mod source;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use onnx_export::text::cut;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::catalogue;
use crate::manifest::Precision;
use crate::nearest::{did_you_mean, nearest};
pub use denied::Denied;
pub use directory::{BrokenEntry, DirectoryError, Problem};
pub use error::StoreError;
pub use files::{
    Boundary, MAX_TEXT_BYTES, read_bounded, read_labels, read_regular, read_regular_text,
};
pub use fingerprint::{FileList, Fingerprint};
pub use labels::{LabelError, lines};
pub use requantize::{Requantize, quantized};
use scan::{Scan, has_extension};
pub use source::{MAX_ONNX_BYTES, ModelSource, Origin};

/// Variant name of a model as its manifest describes it, with fp32 weights.
pub const FP32: &str = Precision::Fp32.as_str();
/// Name of the variant with int8 weights.
pub const INT8: &str = Precision::Int8.as_str();

/// Maximum number of characters of a name that is compared with the names of models.
const MAX_NAME: usize = 64;

/// A reference to a model on the command line or in the configuration file: `name` or
/// `name@variant`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ModelRef {
    /// Name of the model, or the path of its folder, manifest or ONNX file.
    pub name: String,
    /// Name of the variant. `None` if the reference has no `@`.
    pub variant: Option<String>,
}

impl ModelRef {
    /// Returns whether this reference names the variant `source`, or its model without a variant.
    pub fn names(&self, source: &ModelSource) -> bool {
        let variant = self.variant.as_ref();
        self.name == source.manifest.name
            && variant.is_none_or(|variant| *variant == source.variant)
    }
}

/// A text has no name before, or no variant after its `@`. Contains up to 64 characters of the text.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("expected NAME, NAME@VARIANT or a path, got `{0}`")]
pub struct ModelRefError(String);

impl FromStr for ModelRef {
    type Err = ModelRefError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, variant) = match text.rsplit_once('@') {
            Some((name, variant)) => (name, Some(variant.to_owned())),
            None => (text, None),
        };
        if name.is_empty() || variant.as_deref() == Some("") {
            return Err(ModelRefError(cut(text, 64).to_owned()));
        }
        Ok(Self {
            name: name.to_owned(),
            variant,
        })
    }
}

impl TryFrom<String> for ModelRef {
    type Error = ModelRefError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
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
    /// Whether the built-in model is served if the directory has no model.
    optional: bool,
    follow_symlinks: bool,
}

impl ModelStore {
    /// Creates a store of the models in `directory` and in the binary. If `directory` is `None`,
    /// the store has only the models in the binary.
    pub fn new(directory: Option<PathBuf>) -> Self {
        Self {
            directory,
            optional: false,
            follow_symlinks: false,
        }
    }

    /// Makes the models directory optional: [`ModelStore::served`] returns the built-in model if the directory has no
    /// model. By default, a store with a directory requires a model in it.
    #[must_use]
    pub fn optional(self) -> Self {
        Self {
            optional: true,
            ..self
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
    /// name. Hidden entries, `lost+found`, and files and folders that do not look like a model are skipped.
    /// The result is empty if the store has no directory.
    ///
    /// # Errors
    /// [`DirectoryError`] if the directory cannot be read, or for all entries that look like a model but cannot be
    /// used: skipping one would make its model disappear silently.
    pub fn list(&self) -> Result<Vec<ModelSource>, StoreError> {
        Ok(self.usable(self.scan()?)?)
    }

    /// Returns every model of the models directory, as [`ModelStore::list`], and the error for the
    /// entries that look like a model but cannot be used, if there are any.
    ///
    /// # Errors
    /// [`DirectoryError`] if the directory cannot be read.
    pub fn installed(&self) -> Result<(Vec<ModelSource>, Option<DirectoryError>), StoreError> {
        let Scan { models, broken, .. } = self.scan()?;
        let error = (!broken.is_empty()).then(|| self.broken(None, broken));
        Ok((models, error))
    }

    /// Returns the models to serve if none is named: every model of the models directory, sorted by name, or the
    /// built-in model if the store has no directory, or has an [optional](ModelStore::optional) one without a model.
    ///
    /// # Errors
    /// [`DirectoryError`] as [`ModelStore::list`], and also if an ONNX or ranges file of a model or of one of its
    /// variants cannot be opened, or if a directory that is not optional has no model.
    pub fn served(&self) -> Result<Vec<ModelSource>, StoreError> {
        let mut scan = self.scan()?;
        scan.check_files();
        let ignored = std::mem::take(&mut scan.ignored);
        let models = self.usable(scan)?;
        if !models.is_empty() {
            return Ok(models);
        }
        match &self.directory {
            Some(directory) if !self.optional => Err(DirectoryError::Empty {
                directory: directory.clone(),
                ignored,
            })?,
            _ => Ok(vec![ModelSource::embedded()?]),
        }
    }

    /// Returns every model of the models directory that can be served, and the entries that cannot. It is no error if
    /// the directory has no model; the built-in model is not returned in this case.
    ///
    /// # Errors
    /// [`DirectoryError`] if the directory cannot be read.
    pub fn survey(&self) -> Result<(Vec<ModelSource>, Vec<BrokenEntry>), StoreError> {
        let mut scan = self.scan()?;
        scan.check_files();
        Ok((scan.models, scan.broken))
    }

    /// Returns the models directory. `None` if the store has none.
    pub fn directory(&self) -> Option<&Path> {
        self.directory.as_deref()
    }

    /// Checks that the models directory, if the store has one, exists and can be read.
    ///
    /// # Errors
    /// [`DirectoryError`] if not.
    pub fn check(&self) -> Result<(), StoreError> {
        if let Some(directory) = &self.directory {
            scan::entries(directory)?;
        }
        Ok(())
    }

    /// Reads the models directory. The result is empty if the store has no directory.
    fn scan(&self) -> Result<Scan, StoreError> {
        let Some(directory) = &self.directory else {
            return Ok(Scan::default());
        };
        let names = scan::entries(directory)?;
        Ok(Scan::new(directory, names, &self.boundary(directory)?))
    }

    /// Returns the models of `scan`, or an error if it has broken entries.
    fn usable(&self, scan: Scan) -> Result<Vec<ModelSource>, DirectoryError> {
        if scan.broken.is_empty() {
            return Ok(scan.models);
        }
        Err(self.broken(None, scan.broken))
    }

    /// Returns the error for `entries`, with which a search for the model `wanted` ended, if it is not `None`.
    fn broken(&self, wanted: Option<&str>, entries: Vec<BrokenEntry>) -> DirectoryError {
        DirectoryError::Entries {
            directory: self.directory.clone().unwrap_or_default(),
            wanted: wanted.map(str::to_owned),
            entries,
        }
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
    /// so that a broken manifest of another model does not matter. If no model has the name, broken
    /// entries are an error: one of them may be the model. For the built-in model, only an entry of
    /// its name counts.
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
        let Scan { models, broken, .. } = self.scan()?;
        let mut models = models.into_iter();
        if let Some(model) = models.find(|model| model.manifest.name == name) {
            return Ok(Some(model));
        }
        let (own, others): (Vec<_>, Vec<_>) =
            broken.into_iter().partition(|entry| entry.is_for(name));
        if !own.is_empty() {
            return Err(self.broken(None, own).into());
        }
        if !others.is_empty() && name != catalogue::DEFAULT_MODEL {
            return Err(self.broken(Some(name), others).into());
        }
        Ok(None)
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
            let expected =
                "the path must name a folder with model.toml, a .toml file or an .onnx file";
            let problem = scan::problem(path).map(|problem| problem.to_string());
            let advice = problem.unwrap_or_else(|| expected.to_owned());
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
        if Path::new(name).is_dir() {
            return format!("{place}; to use the folder {name} here, write ./{name}");
        }
        match catalogue::manifest(name) {
            Ok(Some(_)) => {
                format!(
                    "{place}; install it with `sightline pull {name}`, or your own checkpoint of it with \
                     `sightline export {name} --weights FILE -o DIR/{name}`"
                )
            }
            _ => format!(
                "{place}, and the catalogue has no model of this name{}; see `sightline models`",
                did_you_mean(self.nearest(name).as_deref())
            ),
        }
    }

    /// Returns the model of the models directory or of the catalogue that the misspelt name `name`
    /// was probably meant to be.
    pub fn nearest(&self, name: &str) -> Option<String> {
        let name = cut(name, MAX_NAME);
        // If the directory cannot be read, only the names of the catalogue are compared: this error is about the name.
        let installed = self.list().unwrap_or_default().into_iter();
        let mut names: Vec<String> = installed.map(|model| model.manifest.name).collect();
        names.extend(catalogue::names().map(str::to_owned));
        nearest(name, names.iter().map(String::as_str)).map(str::to_owned)
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

#[cfg(test)]
mod file_tests;
#[cfg(test)]
mod scan_tests;
#[cfg(test)]
mod tests;
