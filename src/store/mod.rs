//! Finding models: in the models directory, at a path, or in the binary.
//!
//! What is *not* here: sessions and queues (`registry` loads what this finds).

mod error;
mod files;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use bytes::Bytes;
use onnx_export::manifest::ModelManifest;
use onnx_export::weights::StateDict;
use onnx_export::{BuildError, DEFAULT_OPSET, Model};

use crate::catalogue;
pub use error::StoreError;
pub use files::{lines, read_bounded, read_text};

/// The variant that a model is unless another is asked for: 32-bit floats.
pub const FP32: &str = "fp32";
/// Protobuf's own limit on a message.
const MAX_ONNX_BYTES: u64 = 2 << 30;

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

/// Where a model's graph comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Weights in the binary.
    Embedded,
    /// Files.
    Files(Graphs<PathBuf>),
    /// Files in memory, just built.
    Memory(Graphs<Bytes>),
}

/// The ONNX files of a model: paths, or their bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Graphs<T> {
    /// What reads the picture.
    pub network: T,
    /// What reads the regions of a detector in two stages.
    pub box_head: Option<T>,
}

/// A model that was found, not yet loaded.
#[derive(Debug, Clone)]
pub struct ModelSource {
    /// What it is.
    pub manifest: ModelManifest,
    /// Which variant of it.
    pub variant: String,
    /// Its class labels, by class number.
    pub labels: Vec<String>,
    /// Where its graph comes from.
    pub origin: Origin,
}

impl ModelSource {
    /// The built-in default.
    ///
    /// # Errors
    /// [`StoreError`] if the binary was built from a malformed catalogue.
    pub fn embedded() -> Result<Self, StoreError> {
        let path = PathBuf::from(catalogue::DEFAULT_MODEL);
        let malformed = |source| StoreError::Manifest {
            path: path.clone(),
            source,
        };
        let manifest = catalogue::manifest(catalogue::DEFAULT_MODEL).map_err(malformed)?;
        let Some(manifest) = manifest else {
            return Err(StoreError::NoFile { path });
        };
        let labels = lines(catalogue::labels(&manifest.labels).unwrap_or_default());
        Ok(Self {
            manifest,
            variant: FP32.to_owned(),
            labels,
            origin: Origin::Embedded,
        })
    }

    /// Reads the manifest at `path` and the labels beside it.
    fn read(path: &Path) -> Result<Self, StoreError> {
        let text = read_text(path)?;
        let parsed = ModelManifest::parse(&text);
        let manifest = parsed.map_err(|source| StoreError::Manifest {
            path: path.to_path_buf(),
            source,
        })?;
        let Some(file) = &manifest.file else {
            return Err(StoreError::NoFile {
                path: path.to_path_buf(),
            });
        };
        let network = beside(path, "file", file)?;
        let box_head = manifest.box_head_file.as_deref();
        let box_head = box_head.map(|file| beside(path, "box_head_file", file));
        let box_head = box_head.transpose()?;
        let labels = read_text(&beside(path, "labels", &manifest.labels)?)?;
        Ok(Self {
            labels: lines(&labels),
            variant: FP32.to_owned(),
            manifest,
            origin: Origin::Files(Graphs { network, box_head }),
        })
    }

    /// The variant that `reference` asks for of this model.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] lists the variants that there are.
    pub fn with_variant(mut self, reference: &ModelRef) -> Result<Self, StoreError> {
        let Some(name) = reference.variant.as_deref().filter(|name| *name != FP32) else {
            return Ok(self);
        };
        let Some(variant) = self.manifest.variants.get(name) else {
            let others = self.manifest.variants.keys().map(String::as_str);
            let known: Vec<&str> = std::iter::once(FP32).chain(others).collect();
            return Err(StoreError::NotFound {
                model: reference.clone(),
                advice: format!("Its variants: {}", known.join(", ")),
            });
        };
        self.manifest.preprocess.resize = variant.resize.clone();
        name.clone_into(&mut self.variant);
        Ok(self)
    }

    /// The graphs as the bytes of ONNX files.
    ///
    /// # Errors
    /// [`StoreError`] if a file cannot be read.
    pub fn graphs(&self) -> Result<Graphs<Bytes>, StoreError> {
        match &self.origin {
            Origin::Files(files) => {
                let read = |path: &PathBuf| read_bounded(path, MAX_ONNX_BYTES).map(Bytes::from);
                Ok(Graphs {
                    network: read(&files.network)?,
                    box_head: files.box_head.as_ref().map(read).transpose()?,
                })
            }
            Origin::Memory(graphs) => Ok(graphs.clone()),
            Origin::Embedded => {
                let ModelManifest {
                    name, architecture, ..
                } = &self.manifest;
                let bytes = catalogue::weights(name).unwrap_or_default();
                let state = StateDict::from_bytes(bytes).map_err(BuildError::from)?;
                let path = || PathBuf::from(name);
                let architecture = architecture
                    .as_ref()
                    .ok_or_else(|| StoreError::NoFile { path: path() })?;
                let model = onnx_export::build(name, architecture, &state, DEFAULT_OPSET)?;
                Ok(Graphs::from(&model))
            }
        }
    }
}

impl From<&Model> for Graphs<Bytes> {
    fn from(model: &Model) -> Self {
        Self {
            network: model.to_bytes().into(),
            box_head: model.box_head_bytes().map(Bytes::from),
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

/// A file of the manifest's own folder; a manifest from elsewhere must not read others.
fn beside(manifest: &Path, field: &'static str, file: &Path) -> Result<PathBuf, StoreError> {
    if file.file_name().is_none_or(|name| Path::new(name) != file) {
        let (path, got) = (manifest.to_path_buf(), file.to_path_buf());
        return Err(StoreError::Outside { path, field, got });
    }
    Ok(manifest.with_file_name(file))
}

#[cfg(test)]
mod tests;
