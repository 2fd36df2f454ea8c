//! Quantization of fp32 weights to int8 when a model is loaded, for the CPU of this machine.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use onnx_export::Stages;
use onnx_export::quantize::{Network, QuantizeError, Recipes, Target};

use super::{Origin, StoreError, read_text};
use crate::catalogue;
use crate::cpu::int8_target;
use crate::manifest::ModelManifest;

/// The sources of a model's int8 weights: its fp32 graphs and its ranges file.
#[derive(Debug, Clone, PartialEq)]
pub struct Requantize {
    fp32: Origin,
    ranges: Ranges,
}

/// Where the ranges file of a model is: activation ranges and other data to quantize it with.
#[derive(Debug, Clone, PartialEq)]
enum Ranges {
    /// In the binary; the text is the file's content.
    Embedded(&'static str),
    /// On disk, at this path.
    File(PathBuf),
}

impl Requantize {
    /// Creates the sources for the model `name`, whose fp32 graphs come from `fp32` and whose ranges file is called
    /// `file`. Returns `None` if the binary does not contain the ranges; a test of the catalogue rules that out.
    pub(super) fn new(name: &str, fp32: &Origin, file: &Path) -> Option<Self> {
        let ranges = match fp32 {
            Origin::Files(files) => Ranges::File(files.network().with_file_name(file)),
            Origin::Embedded | Origin::Memory(_) => {
                Ranges::Embedded(catalogue::ranges(name, file)?)
            }
        };
        Some(Self {
            fp32: fp32.clone(),
            ranges,
        })
    }

    /// Re-quantizes the model for this CPU. Returns `None` if the stored `int8` files already target it.
    ///
    /// 8-bit weights overflow silently on CPUs that add products in 16 bits, and 7-bit weights lose precision
    /// needlessly on all others.
    pub(super) fn graphs(
        &self,
        manifest: &ModelManifest,
        int8: &Origin,
    ) -> Result<Option<Stages<Bytes>>, StoreError> {
        let (path, text) = match &self.ranges {
            Ranges::Embedded(text) => (PathBuf::from(&manifest.name), (*text).to_owned()),
            Ranges::File(path) => (path.clone(), read_text(path)?),
        };
        let bad = |source| StoreError::Ranges {
            path: path.clone(),
            source,
        };
        let recipes = Recipes::parse(&text).map_err(bad)?;
        let target = int8_target();
        let has_files = matches!(int8, Origin::Files(_));
        if has_files && recipes.target == target {
            return Ok(None);
        }
        let fp32 = self.fp32.graphs(manifest)?;
        Ok(Some(quantized(&fp32, &recipes, target).map_err(bad)?))
    }
}

/// Quantizes the fp32 stages of a model for `target`. A stage without a recipe stays in fp32.
///
/// # Errors
/// [`QuantizeError`] if a recipe does not fit its stage.
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
