//! Quantizes an exported model with the trained int8 scales of its checkpoint, if the checkpoint
//! has any (quantization-aware training).

use std::path::Path;

use anyhow::{Context, Result};
use onnx_export::qat::{Layout, Trained};
use onnx_export::quantize::{Network, Recipes, Target};
use onnx_export::{Model, Stages};
use sightline::manifest::{Precision, Variant};

use super::output::{OutputPaths, file_name, stage_files};
use super::say::say;

/// The int8 variant of an exported model, and the recipe with which it was quantized.
pub(super) struct Int8 {
    pub(super) network: Vec<u8>,
    /// Content of the ranges file: the recipe as JSON.
    pub(super) ranges: String,
    layout: Layout,
    /// Number of layers of the network, which are all quantized to int8.
    layers: usize,
    target: Target,
}

impl Int8 {
    /// Quantizes `model`, which was built from `trained`, for `target`.
    pub(super) fn new(trained: &Trained, model: &Model, target: Target) -> Result<Self> {
        let network =
            Network::read(&model.to_bytes()).context("cannot quantize the exported network")?;
        let recipe = trained.recipe(&network)?;
        let int8 = network.quantize(&recipe, target)?;
        let recipes = Recipes {
            target,
            stages: Stages::new(recipe),
        };
        Ok(Self {
            network: int8,
            ranges: recipes.to_json()?,
            layout: trained.layout,
            layers: network.layers().len(),
            target,
        })
    }

    /// Returns the manifest's entry for the int8 variant at `paths`.
    pub(super) fn variant(paths: &OutputPaths) -> Variant {
        Variant {
            precision: Some(Precision::Int8),
            stages: stage_files(Stages::new(paths.int8())),
            ranges: Some(file_name(&paths.ranges)),
            ..Variant::default()
        }
    }

    /// Prints the kind of `checkpoint` and how the int8 variant was quantized.
    pub(super) fn report(&self, checkpoint: &Path, paths: &OutputPaths) -> Result<()> {
        say!("{}: {}", checkpoint.display(), recognised(self.layout))?;
        let (layers, target) = (self.layers, self.target.as_str());
        let weights = match self.target {
            Target::Vnni => "",
            Target::Avx2 => {
                "; the weight scales are twice the trained ones, because AVX2 needs 7-bit weights"
            }
        };
        say!(
            "{}: {layers} int8 layers with the trained scales, for {target}{weights}",
            paths.int8().display()
        )
    }
}

/// Returns a description, for messages, of a checkpoint with trained int8 scales in this layout.
pub(super) fn recognised(layout: Layout) -> &'static str {
    match layout {
        Layout::Converted => "a quantized checkpoint: int8 weights and their trained scales",
        Layout::Prepared => {
            "a checkpoint of quantization-aware training: fp32 weights and trained scales"
        }
    }
}
