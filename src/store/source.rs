//! A model that the store found: its manifest, its labels, and the origin of its graphs.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use onnx_export::weights::StateDict;
use onnx_export::{BuildError, DEFAULT_OPSET, Stages};

use super::requantize::Requantize;
use super::{FP32, INT8, ModelRef, StoreError, lines, read_bounded, read_text};
use crate::catalogue;
use crate::manifest::{ModelManifest, Precision, StageFile, Variant};

/// Maximum size of an ONNX file in bytes, protobuf's limit on a message.
const MAX_ONNX_BYTES: u64 = 2 << 30;

/// The origin of a model's graphs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Weights that the binary contains. The graphs are built from them.
    Embedded,
    /// The paths of ONNX files.
    Files(Stages<PathBuf>),
    /// The contents of ONNX files that were built in this process.
    Memory(Stages<Bytes>),
}

/// A model that the store found but that is not loaded yet.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelSource {
    /// The model's manifest, with the variant's changes.
    pub manifest: ModelManifest,
    /// Name of the variant.
    pub variant: String,
    /// Data type of the weights.
    pub precision: Precision,
    /// Path of the manifest. `None` for a model in memory or in the binary.
    pub path: Option<PathBuf>,
    /// Class labels, by class index.
    pub labels: Vec<String>,
    /// Origin of the graphs.
    pub origin: Origin,
    /// Sources of the int8 weights. `None` for an fp32 variant and for int8 files without ranges.
    pub requantize: Option<Requantize>,
}

impl ModelSource {
    /// Returns the built-in default model.
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
            return Err(StoreError::NoStages { path });
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

    /// Reads the manifest at `path` and the label file that it names.
    pub(super) fn read(path: &Path) -> Result<Self, StoreError> {
        let text = read_text(path)?;
        let parsed = ModelManifest::parse(&text);
        let manifest = parsed.map_err(|source| StoreError::Manifest {
            path: path.to_path_buf(),
            source,
        })?;
        let Some(stages) = StageFile::stages(&manifest.stages) else {
            return Err(StoreError::NoStages {
                path: path.to_path_buf(),
            });
        };
        let files = stages.try_map(|_, file| beside(path, "stages.file", file))?;
        for variant in manifest.variants.values() {
            for stage in &variant.stages {
                beside(path, "variants.NAME.stages.file", &stage.file)?;
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

    /// Returns the variant of this model that `reference` names; the model itself if it names none or `fp32`.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], which lists the model's variants, if it has no variant of that name.
    pub fn with_variant(self, reference: &ModelRef) -> Result<Self, StoreError> {
        let Some(name) = reference.variant.as_deref().filter(|name| *name != FP32) else {
            return Ok(self);
        };
        let Some(variant) = self.manifest.variants.get(name).cloned() else {
            let others = self.manifest.variants.keys().map(String::as_str);
            let known: Vec<&str> = std::iter::once(FP32).chain(others).collect();
            return Err(StoreError::NotFound {
                model: reference.clone(),
                advice: format!("expected one of its variants {}", known.join(", ")),
            });
        };
        Ok(self.changed(name, variant))
    }

    /// Returns the int8 variant of the model, or `None` if it has none.
    pub fn int8(&self) -> Option<Self> {
        let variant = self.manifest.variants.get(INT8)?.clone();
        Some(self.clone().changed(INT8, variant))
    }

    /// Returns the variant `name` of this model: the model with the resize and graph of `variant`.
    fn changed(mut self, name: &str, variant: Variant) -> Self {
        if let Some(resize) = variant.resize {
            self.manifest.preprocess.resize = resize;
        }
        if let Some(ranges) = variant.ranges {
            self.requantize = Requantize::new(&self.manifest.name, &self.origin, &ranges);
        }
        let stages = StageFile::stages(&variant.stages);
        if let (Origin::Files(files), Some(stages)) = (&mut self.origin, stages) {
            // The names have no folder, which was checked when the manifest was read.
            *files = stages.map(|_, file| files.network().with_file_name(file));
        }
        self.precision = variant.precision.unwrap_or_default();
        name.clone_into(&mut self.variant);
        self
    }

    /// Returns `name@variant`.
    pub fn id(&self) -> String {
        format!("{}@{}", self.manifest.name, self.variant)
    }

    /// Returns the stages as the bytes of ONNX files. Int8 weights target the CPU of this machine if the model
    /// has ranges.
    ///
    /// # Errors
    /// [`StoreError`] if a file cannot be read, or if the ranges file does not match the model.
    pub fn graphs(&self) -> Result<Stages<Bytes>, StoreError> {
        if let Some(requantize) = &self.requantize
            && let Some(graphs) = requantize.graphs(&self.manifest, &self.origin)?
        {
            return Ok(graphs);
        }
        self.origin.graphs(&self.manifest)
    }
}

impl Origin {
    /// Returns the stages as the bytes of ONNX files.
    pub(super) fn graphs(&self, manifest: &ModelManifest) -> Result<Stages<Bytes>, StoreError> {
        match self {
            Self::Files(files) => files
                .as_ref()
                .try_map(|_, path| read_bounded(path, MAX_ONNX_BYTES).map(Bytes::from)),
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
                    .ok_or_else(|| StoreError::NoStages { path: path() })?;
                let model = onnx_export::build(name, architecture, &state, DEFAULT_OPSET)?;
                Ok(model.to_files().map(|_, file| file.into()))
            }
        }
    }
}

/// Returns the path of `file` in the manifest's folder. A manifest from elsewhere must not make other files readable.
///
/// # Errors
/// [`StoreError::Outside`] if `file` is more than a file name.
fn beside(manifest: &Path, field: &'static str, file: &Path) -> Result<PathBuf, StoreError> {
    if file.file_name().is_none_or(|name| Path::new(name) != file) {
        let (path, got) = (manifest.to_path_buf(), file.to_path_buf());
        return Err(StoreError::Outside { path, field, got });
    }
    Ok(manifest.with_file_name(file))
}
