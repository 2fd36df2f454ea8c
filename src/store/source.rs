//! A model that was found: its manifest, its labels, and where its graph is.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use onnx_export::weights::StateDict;
use onnx_export::{BuildError, DEFAULT_OPSET, Model};

use super::requantize::Requantize;
use super::{FP32, INT8, ModelRef, StoreError, lines, read_bounded, read_text};
use crate::catalogue;
use crate::manifest::{ModelManifest, Precision, Variant};

/// Protobuf's own limit on a message.
const MAX_ONNX_BYTES: u64 = 2 << 30;

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
#[derive(Debug, Clone, PartialEq)]
pub struct ModelSource {
    /// What it is.
    pub manifest: ModelManifest,
    /// Which variant of it.
    pub variant: String,
    /// The number type of its weights.
    pub precision: Precision,
    /// The manifest's file; none for a model that is in memory.
    pub path: Option<PathBuf>,
    /// Its class labels, by class number.
    pub labels: Vec<String>,
    /// Where its graph comes from.
    pub origin: Origin,
    /// For 8-bit weights: how they are made of float ones.
    pub requantize: Option<Requantize>,
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
            precision: Precision::Fp32,
            path: None,
            labels,
            origin: Origin::Embedded,
            requantize: None,
        })
    }

    /// Reads the manifest at `path` and the labels beside it.
    pub(super) fn read(path: &Path) -> Result<Self, StoreError> {
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
        let box_head = manifest.box_head_file.as_deref();
        let files = beside_both(path, ["file", "box_head_file"], file, box_head)?;
        for variant in manifest.variants.values() {
            if let Some(file) = &variant.file {
                let fields = ["variants.NAME.file", "variants.NAME.box_head_file"];
                beside_both(path, fields, file, variant.box_head_file.as_deref())?;
            }
            if let Some(ranges) = &variant.ranges {
                beside(path, "variants.NAME.ranges", ranges)?;
            }
        }
        let labels = read_text(&beside(path, "labels", &manifest.labels)?)?;
        Ok(Self {
            labels: lines(&labels),
            path: Some(path.to_path_buf()),
            variant: FP32.to_owned(),
            precision: Precision::Fp32,
            manifest,
            origin: Origin::Files(files),
            requantize: None,
        })
    }

    /// The variant that `reference` asks for of this model.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] lists the variants that there are.
    pub fn with_variant(self, reference: &ModelRef) -> Result<Self, StoreError> {
        let Some(name) = reference.variant.as_deref().filter(|name| *name != FP32) else {
            return Ok(self);
        };
        let Some(variant) = self.manifest.variants.get(name).cloned() else {
            let others = self.manifest.variants.keys().map(String::as_str);
            let known: Vec<&str> = std::iter::once(FP32).chain(others).collect();
            return Err(StoreError::NotFound {
                model: reference.clone(),
                advice: format!("Its variants: {}", known.join(", ")),
            });
        };
        Ok(self.changed(name, variant))
    }

    /// The model with 8-bit weights, where it comes as such.
    pub fn int8(&self) -> Option<Self> {
        let variant = self.manifest.variants.get(INT8)?.clone();
        Some(self.clone().changed(INT8, variant))
    }

    /// As the variant `name` has it.
    fn changed(mut self, name: &str, variant: Variant) -> Self {
        if let Some(resize) = variant.resize {
            self.manifest.preprocess.resize = resize;
        }
        if let Some(ranges) = variant.ranges {
            self.requantize = Requantize::new(&self.manifest.name, &self.origin, &ranges);
        }
        if let (Origin::Files(files), Some(file)) = (&mut self.origin, variant.file) {
            // Names without a folder, which was checked when the manifest was read.
            let box_head = variant.box_head_file;
            *files = Graphs {
                network: files.network.with_file_name(file),
                box_head: box_head.map(|file| files.network.with_file_name(file)),
            };
        }
        self.precision = variant.precision.unwrap_or_default();
        name.clone_into(&mut self.variant);
        self
    }

    /// `name@variant`.
    pub fn id(&self) -> String {
        format!("{}@{}", self.manifest.name, self.variant)
    }

    /// The graphs as the bytes of ONNX files. 8-bit weights are those for this processor.
    ///
    /// # Errors
    /// [`StoreError`] if a file cannot be read, or ranges are another network's.
    pub fn graphs(&self) -> Result<Graphs<Bytes>, StoreError> {
        if let Some(requantize) = &self.requantize
            && let Some(graphs) = requantize.graphs(&self.manifest, &self.origin)?
        {
            return Ok(graphs);
        }
        self.origin.graphs(&self.manifest)
    }
}

impl Origin {
    /// The graphs as the bytes of ONNX files.
    pub(super) fn graphs(&self, manifest: &ModelManifest) -> Result<Graphs<Bytes>, StoreError> {
        match self {
            Self::Files(files) => {
                let read = |path: &PathBuf| read_bounded(path, MAX_ONNX_BYTES).map(Bytes::from);
                Ok(Graphs {
                    network: read(&files.network)?,
                    box_head: files.box_head.as_ref().map(read).transpose()?,
                })
            }
            Self::Memory(graphs) => Ok(graphs.clone()),
            Self::Embedded => {
                let ModelManifest {
                    name, architecture, ..
                } = manifest;
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

/// The files of a graph, named by these two fields.
fn beside_both(
    manifest: &Path,
    [field, box_head_field]: [&'static str; 2],
    file: &Path,
    box_head: Option<&Path>,
) -> Result<Graphs<PathBuf>, StoreError> {
    let box_head = box_head.map(|file| beside(manifest, box_head_field, file));
    Ok(Graphs {
        network: beside(manifest, field, file)?,
        box_head: box_head.transpose()?,
    })
}

/// A file of the manifest's own folder; a manifest from elsewhere must not read others.
fn beside(manifest: &Path, field: &'static str, file: &Path) -> Result<PathBuf, StoreError> {
    if file.file_name().is_none_or(|name| Path::new(name) != file) {
        let (path, got) = (manifest.to_path_buf(), file.to_path_buf());
        return Err(StoreError::Outside { path, field, got });
    }
    Ok(manifest.with_file_name(file))
}
