//! What a layer in float costs: time, multiplications, and bytes of the file.

use std::collections::{BTreeMap, BTreeSet};

use onnx_export::quantize::{Layer, Range};

use super::QuantizeFailure;
use super::search::Search;

/// Nanoseconds that a multiplication saves in 8 bits, and that a number costs to be changed into 8 bits
/// and back, on one core. Their ratio matters alone; depthwise convolutions save nothing, since
/// their integer kernels are no faster.
const SAVED_PER_MULTIPLICATION: f64 = 0.06;
const COST_PER_NUMBER: f64 = 1.0;

/// Most bytes of the int8 file, as a part of the float one's. Its 8-bit weights take a quarter; the rest
/// is room for scales, and for weights that stay in float.
const MAX_FILE: f64 = 0.28;
/// Part of the weights that may be in float whatever the file's size: small layers are the ones that matter.
const MIN_FLOAT_WEIGHTS: f64 = 0.005;

impl Search<'_> {
    /// Part of the weights that may be in float for the size of the file.
    pub(super) fn max_float_weights(
        &self,
        ranges: &BTreeMap<String, Range>,
        stem: &BTreeSet<String>,
    ) -> Result<f64, QuantizeFailure> {
        let network = &self.subject.network;
        let outputs: Vec<String> = network.outputs().map(str::to_owned).collect();
        let float = network.fetching(&outputs).len() as f64;
        let recipe = self.recipe(ranges, stem.clone());
        let int8 = network.quantize(&recipe, self.target)?.len() as f64;
        let weights: usize = network.layers().iter().map(|layer| layer.weights).sum();
        // In float a weight takes three bytes more.
        let room = (MAX_FILE * float - int8) / (3.0 * weights.max(1) as f64);
        Ok(self.weight_share(stem) + room.max(MIN_FLOAT_WEIGHTS))
    }

    /// Time that a layer in float costs more than in int8, in nanoseconds of a picture.
    pub(super) fn cost(&self, name: &str) -> f64 {
        let Some(layer) = self.layer(name) else {
            return 0.0;
        };
        let saved = if layer.groups > 1 {
            0.0
        } else {
            SAVED_PER_MULTIPLICATION
        };
        let numbers = self.size(&layer.input) + self.size(&layer.output);
        self.multiplications(layer) * saved + numbers * COST_PER_NUMBER
    }

    fn layer(&self, name: &str) -> Option<&Layer> {
        self.subject
            .network
            .layers()
            .iter()
            .find(|layer| layer.name == name)
    }

    fn size(&self, value: &str) -> f64 {
        self.statistics
            .values
            .get(value)
            .map_or(0.0, |value| value.size)
    }

    /// Multiplications of one picture.
    fn multiplications(&self, layer: &Layer) -> f64 {
        self.size(&layer.output) * layer.multiplications as f64
    }

    /// The part of the multiplications that is in float.
    pub(super) fn float_share(&self, float: &BTreeSet<String>) -> f64 {
        self.share(float, |layer| self.multiplications(layer))
    }

    /// The part of the weights that is in float.
    pub(super) fn weight_share(&self, float: &BTreeSet<String>) -> f64 {
        self.share(float, |layer| layer.weights as f64)
    }

    fn share(&self, float: &BTreeSet<String>, of: impl Fn(&Layer) -> f64) -> f64 {
        let (mut all, mut in_float) = (0.0, 0.0);
        for layer in self.subject.network.layers() {
            let amount = of(layer);
            all += amount;
            in_float += if float.contains(&layer.name) {
                amount
            } else {
                0.0
            };
        }
        in_float / f64::max(all, 1.0)
    }
}
