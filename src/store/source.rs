//! A model that the store found: its manifest, its labels, and where its ONNX graphs come from.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use onnx_export::summary::Summary;
use onnx_export::text::shown_error;
use onnx_export::weights::StateDict;
use onnx_export::{BuildError, DEFAULT_OPSET, Stages};

use super::requantize::Requantize;
use super::{Boundary, FP32, INT8, ModelRef, StoreError, integrity, lines};
use crate::catalogue;
use crate::inspect;
use crate::manifest::{ModelManifest, Precision, StageFile, Variant, same_sha256, sha256};

/// Maximum size of an ONNX file in bytes, which is protobuf's limit for one message.
pub const MAX_ONNX_BYTES: u64 = 2 << 30;

/// Where the ONNX graphs of a model's stages come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The graphs are built from weights in the binary.
    Embedded,
    /// The graphs are read from ONNX files.
    Files {
        /// Paths of the files.
        paths: Stages<PathBuf>,
        /// Folder that the files must not leave through symbolic links.
        boundary: Boundary,
    },
    /// The graphs were built in this process. Holds the contents of ONNX files.
    Memory(Stages<Bytes>),
}

/// A model that the store found but that is not loaded yet.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelSource {
    /// Manifest of the model, with the variant's resize if the variant has its own.
    pub manifest: ModelManifest,
    /// Name of the variant, `fp32` for the model itself.
    pub variant: String,
    /// Data type of the weights.
    pub precision: Precision,
    /// Path of the manifest. `None` if the model is in memory or in the binary.
    pub path: Option<PathBuf>,
    /// Text of the manifest as it was read, to detect that the model has been replaced since. `None` if the
    /// model has no manifest file.
    pub manifest_text: Option<Arc<str>>,
    /// Class labels, by class index.
    pub labels: Vec<String>,
    /// Where the ONNX graphs of the model's stages come from.
    pub origin: Origin,
    /// Data for computing the variant's int8 weights for this CPU. `None` if the variant has no
    /// ranges file: its files are then loaded unchanged on every CPU.
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
            manifest_text: None,
            labels,
            origin: Origin::Embedded,
            requantize: None,
        })
    }

    /// Reads the manifest at `path` and the label file that the manifest names, both inside
    /// `boundary`.
    pub(super) fn read(path: &Path, boundary: Boundary) -> Result<Self, StoreError> {
        Self::parse(path, &boundary.read_text(path)?, boundary)
    }

    /// Reads the manifest at `path`, which the user has named and which may therefore be a link to
    /// any file, and the label file inside `boundary` that the manifest names.
    pub(super) fn read_named(path: &Path, boundary: Boundary) -> Result<Self, StoreError> {
        Self::parse(path, &Boundary::None.read_text(path)?, boundary)
    }

    /// Parses `text`, the manifest at `path`, and reads its label file inside `boundary`.
    fn parse(path: &Path, text: &str, boundary: Boundary) -> Result<Self, StoreError> {
        let parsed = ModelManifest::parse(text);
        let manifest = parsed.map_err(|source| StoreError::Manifest {
            path: path.to_path_buf(),
            source,
        })?;
        let Some(stages) = StageFile::stages(&manifest.stages) else {
            return Err(StoreError::NoStages {
                path: path.to_path_buf(),
            });
        };
        let paths = stages.try_map(|_, file| beside(path, "stages.file", file))?;
        for variant in manifest.variants.values() {
            for stage in &variant.stages {
                beside(path, "variants.NAME.stages.file", &stage.file)?;
            }
            if let Some(ranges) = &variant.ranges {
                beside(path, "variants.NAME.ranges", ranges)?;
            }
        }
        let labels = beside(path, "labels", &manifest.labels)?;
        Ok(Self {
            labels: boundary.read_labels(&labels)?,
            path: Some(path.to_path_buf()),
            manifest_text: Some(text.into()),
            variant: FP32.to_owned(),
            precision: Precision::Fp32,
            manifest,
            origin: Origin::Files { paths, boundary },
            requantize: None,
        })
    }

    /// Returns the paths of the ONNX and ranges files that the manifest names, also those of its variants. Empty for a
    /// model without a manifest file.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        let Some(path) = &self.path else {
            return Vec::new();
        };
        let variants = self.manifest.variants.values();
        let stages = variants.clone().flat_map(|variant| &variant.stages);
        let stages = self.manifest.stages.iter().chain(stages);
        let ranges = variants.filter_map(|variant| variant.ranges.as_ref());
        let names = stages.map(|stage| &stage.file).chain(ranges);
        names.map(|name| path.with_file_name(name)).collect()
    }

    /// Checks that the ONNX and ranges files of the model and of its variants can be opened.
    ///
    /// # Errors
    /// [`StoreError`] for the first file that is missing, is not a regular file, cannot be read, or is outside the
    /// folder that the files must not leave.
    pub fn check_files(&self) -> Result<(), StoreError> {
        let Origin::Files { boundary, .. } = &self.origin else {
            return Ok(());
        };
        self.files()
            .iter()
            .try_for_each(|file| boundary.check(file))
    }

    /// Returns the variant of this model that `reference` names, or the model itself if `reference`
    /// names no variant or `fp32`.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], which lists the model's variants, if the model has no variant of
    /// that name; [`StoreError::Stale`] if the variant was made from other weights than the model's.
    pub fn with_variant(self, reference: &ModelRef) -> Result<Self, StoreError> {
        let Some(name) = reference.variant.as_deref().filter(|name| *name != FP32) else {
            return Ok(self);
        };
        let Some(variant) = self.manifest.variants.get(name).cloned() else {
            let others = self.manifest.variants.keys().map(String::as_str);
            let known: Vec<&str> = std::iter::once(FP32).chain(others).collect();
            return Err(StoreError::NotFound {
                model: reference.clone(),
                advice: format!("the variant must be one of {}", known.join(", ")),
            });
        };
        self.check_fresh(name, &variant, &OnceCell::new())?;
        Ok(self.changed(name, variant))
    }

    /// Returns the variant `int8` of the model, or `None` if the model has no variant of that name or
    /// the variant is stale (see [`ModelSource::stale`]).
    pub fn int8(&self) -> Option<Self> {
        self.variant(INT8)
    }

    /// Returns the variant `name` of this model in fp32, or the model itself for `fp32`. `None` if
    /// the model has no variant of that name, or if the variant is stale.
    pub fn variant(&self, name: &str) -> Option<Self> {
        if name == FP32 {
            return Some(self.clone());
        }
        let variant = self.manifest.variants.get(name)?.clone();
        self.check_fresh(name, &variant, &OnceCell::new()).ok()?;
        Some(self.clone().changed(name, variant))
    }

    /// Returns a [`StoreError::Stale`] for each variant that was made from other weights than the
    /// model's, and which therefore cannot be used.
    pub fn stale(&self) -> Vec<StoreError> {
        let current = OnceCell::new();
        let variants = self.manifest.variants.iter();
        let stale =
            variants.filter_map(|(name, variant)| self.check_fresh(name, variant, &current).err());
        stale.collect()
    }

    /// Returns the model itself and all its variants, by name, with a [`StoreError::Stale`] in place of
    /// each variant that was made from other weights than the model's. The model's files are hashed at
    /// most once.
    pub fn variants(&self) -> Vec<Result<Self, StoreError>> {
        let current = OnceCell::new();
        let variants = self.manifest.variants.iter().map(|(name, variant)| {
            self.check_fresh(name, variant, &current)?;
            Ok(self.clone().changed(name, variant.clone()))
        });
        std::iter::once(Ok(self.clone())).chain(variants).collect()
    }

    /// Checks that the variant `name` of this model was made from the model's weights. A variant that
    /// does not state what it was made from passes. `current` keeps the hashes of the model's files.
    fn check_fresh(
        &self,
        name: &str,
        variant: &Variant,
        current: &OnceCell<Option<Vec<String>>>,
    ) -> Result<(), StoreError> {
        if variant.source_sha256.is_empty() {
            return Ok(());
        }
        // Without a stated hash the file itself is read. If it cannot be read, loading says why.
        let read = || self.manifest.fp32_sha256().or_else(|| self.file_sha256());
        let current = current.get_or_init(read);
        match (current, &self.path) {
            (Some(current), Some(path)) if !same_sha256(current, &variant.source_sha256) => {
                let (path, variant) = (path.clone(), name.to_owned());
                Err(StoreError::Stale { path, variant })
            }
            _ => Ok(()),
        }
    }

    /// Returns the SHA-256 of the model's fp32 ONNX files, or `None` if one of them cannot be read.
    fn file_sha256(&self) -> Option<Vec<String>> {
        let Origin::Files { paths, boundary } = &self.origin else {
            return None;
        };
        let hash = |path: &PathBuf| Some(sha256(&boundary.read(path, MAX_ONNX_BYTES).ok()?));
        paths.iter().map(|stage| hash(stage.content)).collect()
    }

    /// Returns the variant `name` of this model. The resize, ranges file and ONNX files that
    /// `variant` lists replace those of the model.
    fn changed(mut self, name: &str, variant: Variant) -> Self {
        if let Some(resize) = variant.resize {
            self.manifest.preprocess.resize = resize;
        }
        if let Some(ranges) = variant.ranges {
            self.requantize = Requantize::new(&self.manifest.name, &self.origin, &ranges);
        }
        let stages = StageFile::stages(&variant.stages);
        if let (Origin::Files { paths, .. }, Some(stages)) = (&mut self.origin, stages) {
            // `parse` has checked that each file is a plain file name, so all stay in the
            // manifest's folder.
            *paths = stages.map(|_, file| paths.network().with_file_name(file));
        }
        self.precision = variant.precision.unwrap_or_default();
        name.clone_into(&mut self.variant);
        self
    }

    /// Returns the identifier of the model and its variant, `name@variant`.
    pub fn id(&self) -> String {
        format!("{}@{}", self.manifest.name, self.variant)
    }

    /// Returns the size of the variant's ONNX files in bytes. A file that cannot be read counts as empty: reading it
    /// says why. `None` for the built-in model, whose graph is built when it is loaded.
    pub fn file_bytes(&self) -> Option<u64> {
        match &self.origin {
            Origin::Embedded => None,
            Origin::Files { paths, .. } => {
                let size = |path| std::fs::metadata(path).map_or(0, |file| file.len());
                Some(paths.iter().map(|stage| size(stage.content)).sum())
            }
            Origin::Memory(graphs) => {
                Some(graphs.iter().map(|stage| stage.content.len() as u64).sum())
            }
        }
    }

    /// Returns `reason`, why this model cannot be loaded, as clients may see it: without the folders of the server, on
    /// one line, and cut.
    pub fn public_reason(&self, reason: &str) -> Arc<str> {
        let mut text = reason.to_owned();
        let folder = self.path.as_deref().and_then(Path::parent);
        for folder in [folder, folder.and_then(Path::parent)] {
            if let Some(folder) = folder.filter(|folder| folder.components().count() > 1) {
                text = text.replace(&format!("{}/", folder.display()), "");
            }
        }
        shown_error(&text).into()
    }

    /// Returns the contents of one ONNX file for each stage of the model. If the variant has a
    /// ranges file, the int8 weights are quantized for the CPU of this machine.
    ///
    /// # Errors
    /// [`StoreError::Changed`] if another process replaced the model meanwhile; [`StoreError::Network`] if the network
    /// does not fit the manifest; another [`StoreError`] if a file cannot be read, or if the ranges file does not
    /// match the network.
    pub fn graphs(&self) -> Result<Stages<Bytes>, StoreError> {
        let graphs = self.read_graphs();
        // This check is first, because other errors would be misleading if the model was replaced.
        self.check_unchanged()?;
        graphs
    }

    /// Checks that the manifest is still the one that was read, so that the files that were read since belong to it.
    ///
    /// # Errors
    /// [`StoreError::Changed`] if the manifest differs or cannot be read.
    pub fn check_unchanged(&self) -> Result<(), StoreError> {
        let (Some(path), Some(text)) = (&self.path, &self.manifest_text) else {
            return Ok(());
        };
        if Boundary::None
            .read_text(path)
            .is_ok_and(|now| now == **text)
        {
            return Ok(());
        }
        Err(StoreError::Changed { path: path.clone() })
    }

    fn read_graphs(&self) -> Result<Stages<Bytes>, StoreError> {
        let graphs = self.read_or_requantize()?;
        if let Origin::Files { paths, .. } = &self.origin {
            check_network(paths.network(), graphs.network(), self)?;
        }
        Ok(graphs)
    }

    fn read_or_requantize(&self) -> Result<Stages<Bytes>, StoreError> {
        if let Some(requantize) = &self.requantize
            && let Some(graphs) = requantize.graphs(&self.manifest, &self.origin)?
        {
            return Ok(graphs);
        }
        self.origin.graphs(&self.manifest)
    }
}

impl Origin {
    /// Returns the contents of one ONNX file for each stage of the model that `manifest` describes.
    pub(super) fn graphs(&self, manifest: &ModelManifest) -> Result<Stages<Bytes>, StoreError> {
        match self {
            Self::Files { paths, boundary } => paths.as_ref().try_map(|_, path| {
                let bytes = boundary.read(path, MAX_ONNX_BYTES)?;
                integrity::check(manifest, path, &bytes)?;
                check_finite(path, &bytes)?;
                Ok(bytes.into())
            }),
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

/// Checks that no weight in `bytes`, the ONNX file at `path`, is NaN or infinite.
fn check_finite(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    onnx_export::check_weights(bytes).map_err(|source| StoreError::Weights {
        path: path.to_path_buf(),
        source,
    })
}

/// Checks that the network in `bytes`, the ONNX file at `path`, fits the manifest of `source`.
fn check_network(path: &Path, bytes: &[u8], source: &ModelSource) -> Result<(), StoreError> {
    // A file that cannot be summarized is rejected by ONNX Runtime, which says what is wrong.
    let Ok(summary) = Summary::read(bytes) else {
        return Ok(());
    };
    let findings = inspect::check(&summary, &source.manifest, source.labels.len());
    match findings.into_iter().next() {
        None => Ok(()),
        Some(source) => Err(StoreError::Network {
            path: path.to_path_buf(),
            source,
        }),
    }
}

/// Returns the path of `file` in the folder of the manifest. A manifest from an unknown author must
/// not make the server read files outside that folder.
///
/// # Errors
/// [`StoreError::Outside`] if `file` is not a plain file name without a folder.
fn beside(manifest: &Path, field: &'static str, file: &Path) -> Result<PathBuf, StoreError> {
    if file.file_name().is_none_or(|name| Path::new(name) != file) {
        let (path, got) = (manifest.to_path_buf(), file.to_path_buf());
        return Err(StoreError::Outside { path, field, got });
    }
    Ok(manifest.with_file_name(file))
}
