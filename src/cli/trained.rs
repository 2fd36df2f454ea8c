//! The int8 variant of an export: what a checkpoint that was trained for int8 holds beside the float network.

use std::path::Path;

use anyhow::{Context, Result};
use onnx_export::Model;
use onnx_export::qat::{Layout, Trained};
use onnx_export::quantize::{Network, Recipes, Target};
use sightline::manifest::{Precision, Variant};

use super::output::{OutputPaths, file_name};
use super::say::say;

/// The int8 network and what it was made with.
pub(super) struct Int8 {
    pub(super) network: Vec<u8>,
    /// The contents of its ranges file.
    pub(super) ranges: String,
    layout: Layout,
    layers: usize,
    target: Target,
}

impl Int8 {
    /// The int8 form of `model`, which was built of `trained`.
    pub(super) fn new(trained: &Trained, model: &Model, target: Target) -> Result<Self> {
        let network = Network::read(&model.to_bytes()).context("cannot quantise the network")?;
        let recipe = trained.recipe(&network)?;
        let int8 = network.quantize(&recipe, target)?;
        Ok(Self {
            network: int8,
            ranges: Recipes::new(target, recipe, None).to_json()?,
            layout: trained.layout,
            layers: network.layers().len(),
            target,
        })
    }

    /// The variant in the manifest of the files at `paths`.
    pub(super) fn variant(paths: &OutputPaths) -> Variant {
        Variant {
            precision: Some(Precision::Int8),
            file: Some(file_name(&paths.int8)),
            ranges: Some(file_name(&paths.ranges)),
            ..Variant::default()
        }
    }

    /// What `checkpoint` was recognised as and what was made of it, for people.
    pub(super) fn report(&self, checkpoint: &Path, paths: &OutputPaths) -> Result<()> {
        say!("{}: {}", checkpoint.display(), recognised(self.layout))?;
        let (layers, target) = (self.layers, self.target.as_str());
        let weights = match self.target {
            Target::Vnni => "",
            Target::Avx2 => {
                "; weights in twice the trained steps, since older x86 has room for 7 bits of them"
            }
        };
        say!(
            "{}: {layers} layers in int8 with the scales of training, for {target}{weights}",
            paths.int8.display()
        )
    }
}

/// What kind of checkpoint it is.
pub(super) fn recognised(layout: Layout) -> &'static str {
    match layout {
        Layout::Converted => "a quantised checkpoint: 8-bit weights and the scales of training",
        Layout::Prepared => {
            "a checkpoint of quantisation-aware training: float weights and the scales of training"
        }
    }
}
