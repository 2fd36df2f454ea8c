//! 8-bit weights made of float ones when a model is loaded, for the processor at hand.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use onnx_export::quantize::{Network, QuantizeError, Recipe, Recipes, Target};

use super::{Graphs, Origin, StoreError, read_text};
use crate::catalogue;
use crate::cpu::int8_target;
use crate::manifest::ModelManifest;

/// How 8-bit weights are made of a model's float ones.
#[derive(Debug, Clone, PartialEq)]
pub struct Requantize {
    float: Origin,
    ranges: Ranges,
}

/// Where the ranges are.
#[derive(Debug, Clone, PartialEq)]
enum Ranges {
    /// In the binary.
    Embedded(&'static str),
    /// In a file.
    File(PathBuf),
}

impl Requantize {
    /// Of a model whose float graph comes from `float`, with the ranges called `file` beside it. Nothing
    /// where the binary has no such ranges, which a test of the catalogue rules out.
    pub(super) fn new(name: &str, float: &Origin, file: &Path) -> Option<Self> {
        let ranges = match float {
            Origin::Files(files) => Ranges::File(files.network.with_file_name(file)),
            Origin::Embedded | Origin::Memory(_) => {
                Ranges::Embedded(catalogue::ranges(name, file)?)
            }
        };
        Some(Self {
            float: float.clone(),
            ranges,
        })
    }

    /// The graphs for this processor; nothing where those of `int8` are for such a one.
    ///
    /// Weights of all 8 bits overflow on processors that add products in 16, and answers would be wrong
    /// without a sign of it; those of 7 bits are less exact than need be elsewhere.
    pub(super) fn graphs(
        &self,
        manifest: &ModelManifest,
        int8: &Origin,
    ) -> Result<Option<Graphs<Bytes>>, StoreError> {
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
        let float = self.float.graphs(manifest)?;
        Ok(Some(float.quantized(&recipes, target).map_err(bad)?))
    }
}

impl Graphs<Bytes> {
    /// These float networks in int8. One without a recipe stays as it is.
    ///
    /// # Errors
    /// [`QuantizeError`] if the recipes are other networks'.
    pub fn quantized(&self, recipes: &Recipes, target: Target) -> Result<Self, QuantizeError> {
        let quantize = |graph: &[u8], recipe: &Recipe| {
            Network::read(graph)?
                .quantize(recipe, target)
                .map(Bytes::from)
        };
        let box_head = match (&self.box_head, &recipes.box_head) {
            (Some(graph), Some(recipe)) => Some(quantize(graph, recipe)?),
            (graph, _) => graph.clone(),
        };
        Ok(Self {
            network: quantize(&self.network, &recipes.network)?,
            box_head,
        })
    }
}
