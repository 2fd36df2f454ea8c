//! Quantization of fp32 weights to int8 when a model is loaded, for the CPU of this machine.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use onnx_export::Stages;
use onnx_export::quantize::{Network, QuantizeError, Recipes, Target};

use super::{Boundary, Origin, StoreError, integrity};
use crate::catalogue;
use crate::cpu::int8_target;
use crate::manifest::ModelManifest;

/// The data from which a model's int8 weights are computed: its fp32 graphs and its ranges file.
#[derive(Debug, Clone, PartialEq)]
pub struct Requantize {
    fp32: Origin,
    ranges: Ranges,
}

/// Location of a model's ranges file, which holds activation ranges and other data for quantizing
/// the model.
#[derive(Debug, Clone, PartialEq)]
enum Ranges {
    /// The ranges file is in the binary. Holds the content of the file.
    Embedded(&'static str),
    /// The ranges file is on disk.
    File {
        /// Path of the file.
        path: PathBuf,
        /// Folder that the file must not leave through symbolic links.
        boundary: Boundary,
    },
}

impl Requantize {
    /// Creates the sources of int8 weights for the model `name`, with fp32 graphs from `fp32` and a
    /// ranges file with the name `file`. The ranges file of a model on disk is in the folder of the
    /// graphs. Returns `None` if a built-in model's ranges file is not in the binary, which a test
    /// of the catalogue rules out.
    pub(super) fn new(name: &str, fp32: &Origin, file: &Path) -> Option<Self> {
        let ranges = match fp32 {
            Origin::Files { paths, boundary } => Ranges::File {
                path: paths.network().with_file_name(file),
                boundary: boundary.clone(),
            },
            Origin::Embedded | Origin::Memory(_) => {
                Ranges::Embedded(catalogue::ranges(name, file)?)
            }
        };
        Some(Self {
            fp32: fp32.clone(),
            ranges,
        })
    }

    /// Re-quantizes the model for this CPU. Returns `None` if the stored `int8` files already
    /// target this CPU.
    ///
    /// The weights must match the CPU: with 8-bit weights, sums of products overflow silently on
    /// CPUs that add the products in 16 bits; 7-bit weights, which avoid the overflow, lose
    /// precision needlessly on all other CPUs.
    pub(super) fn graphs(
        &self,
        manifest: &ModelManifest,
        int8: &Origin,
    ) -> Result<Option<Stages<Bytes>>, StoreError> {
        let (path, text) = match &self.ranges {
            Ranges::Embedded(text) => (PathBuf::from(&manifest.name), (*text).to_owned()),
            Ranges::File { path, boundary } => {
                let text = boundary.read_text(path)?;
                integrity::check(manifest, path, text.as_bytes())?;
                (path.clone(), text)
            }
        };
        let bad = |source| StoreError::Ranges {
            path: path.clone(),
            source,
        };
        let recipes = Recipes::parse(&text).map_err(bad)?;
        let target = int8_target();
        let has_files = matches!(int8, Origin::Files { .. });
        if has_files && recipes.target == target {
            return Ok(None);
        }
        let fp32 = self.fp32.graphs(manifest)?;
        Ok(Some(quantized(&fp32, &recipes, target).map_err(bad)?))
    }
}

/// Quantizes the fp32 stages of a model for CPUs of the family `target`. A stage that has no recipe
/// in `recipes` stays in fp32.
///
/// # Errors
/// [`QuantizeError`] if a stage is not a readable ONNX file or does not fit its recipe.
pub fn quantized(
    fp32: &Stages<Bytes>,
    recipes: &Recipes,
    target: Target,
) -> Result<Stages<Bytes>, QuantizeError> {
    fp32.as_ref()
        .try_map(|role, graph| match recipes.stages.get(role) {
            Some(recipe) => Ok(Network::read(graph)?.quantize(recipe, target)?.into()),
            None => Ok(graph.clone()),
        })
}
