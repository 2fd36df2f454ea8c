//! What it costs to keep a layer in fp32: time, multiplications in fp32, and bytes of the file.

use std::collections::{BTreeMap, BTreeSet};

use onnx_export::quantize::{Layer, Range, Target};

use super::QuantizeFailure;
use super::search::Search;

/// Times in nanoseconds on one core of a CPU. Only their ratios matter.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Times {
    /// Time that int8 saves per multiplication of a layer with one group.
    multiplication: f64,
    /// Time that int8 saves per element of the output of a depthwise convolution. Convolutions with
    /// other numbers of groups save nothing: they have no kernel in the crate `ort-int8`.
    depthwise_output: f64,
    /// Time to quantize and dequantize one element of the input or output of an fp32 layer.
    element: f64,
}

impl Times {
    /// Returns the times on CPUs of a family.
    ///
    /// Those for VNNI are measured with the kernels of `ort-int8` (docs/BENCHMARKS.md). On AVX2,
    /// depthwise convolutions in int8 were not compared with fp32, so they count as not faster.
    fn of(target: Target) -> Self {
        match target {
            Target::Vnni => Self {
                multiplication: 0.014,
                depthwise_output: 0.4,
                element: 0.5,
            },
            Target::Avx2 => Self {
                multiplication: 0.06,
                depthwise_output: 0.0,
                element: 1.0,
            },
        }
    }

    /// Returns how much longer `layer` takes in fp32 than in int8, given the number of elements of its
    /// input and its output.
    fn cost(self, layer: &Layer, input: f64, output: f64) -> f64 {
        let multiplications = layer.multiplications as f64;
        let is_depthwise = layer.weights == layer.groups * layer.multiplications;
        let saved = match layer.groups {
            1 => output * multiplications * self.multiplication,
            _ if is_depthwise => output * self.depthwise_output,
            _ => 0.0,
        };
        saved + (input + output) * self.element
    }
}

/// Largest int8 file, as a share of the fp32 file's size. Quantized weights take a quarter of their
/// size in fp32; the remaining 0.03 is for scales and for weights kept in fp32.
const MAX_FILE: f64 = 0.28;
/// Share of the network's weights that may be kept in fp32 in addition to the stem's weights, even
/// if the file exceeds [`MAX_FILE`]. Small layers are often the most sensitive ones.
const MIN_FLOAT_WEIGHTS: f64 = 0.005;

impl Search<'_> {
    /// Returns the share of the network's weights, 0 to 1, that may be kept in fp32 within the
    /// limits [`MAX_FILE`] and [`MIN_FLOAT_WEIGHTS`]. `stem` are the layers that are always in
    /// fp32.
    ///
    /// # Errors
    /// [`QuantizeFailure::Network`] if the network cannot be quantized.
    pub(super) fn max_float_weights(
        &self,
        ranges: &BTreeMap<String, Range>,
        stem: &BTreeSet<String>,
    ) -> Result<f64, QuantizeFailure> {
        let network = &self.subject.network;
        let outputs: Vec<String> = network.outputs().map(str::to_owned).collect();
        let float = network.fetching(&outputs).len() as f64;
        let recipe = self.recipe(ranges, stem.clone());
        let int8 = network.quantize(&recipe, self.goal.target)?.len() as f64;
        let weights: usize = network.layers().iter().map(|layer| layer.weights).sum();
        // A weight takes three bytes more in fp32 than in int8.
        let room = (MAX_FILE * float - int8) / (3.0 * weights.max(1) as f64);
        Ok(self.weight_share(stem) + room.max(MIN_FLOAT_WEIGHTS))
    }

    /// Returns how much longer the layer `name` takes in fp32 than in int8, estimated in
    /// nanoseconds per image. 0 if the network has no layer of this name.
    pub(super) fn cost(&self, name: &str) -> f64 {
        let Some(layer) = self.layer(name) else {
            return 0.0;
        };
        let (input, output) = (self.size(&layer.input), self.size(&layer.output));
        Times::of(self.goal.target).cost(layer, input, output)
    }

    /// Returns the layer called `name`, or `None` if the network has none.
    fn layer(&self, name: &str) -> Option<&Layer> {
        self.subject
            .network
            .layers()
            .iter()
            .find(|layer| layer.name == name)
    }

    /// Returns the mean number of elements per image of the value named `value`; 0 if it has no
    /// statistics.
    fn size(&self, value: &str) -> f64 {
        self.statistics
            .values
            .get(value)
            .map_or(0.0, |value| value.size)
    }

    /// Returns the number of multiplications of a layer per image.
    fn multiplications(&self, layer: &Layer) -> f64 {
        self.size(&layer.output) * layer.multiplications as f64
    }

    /// Returns the share of the network's multiplications, 0 to 1, that the layers `float` compute.
    pub(super) fn float_share(&self, float: &BTreeSet<String>) -> f64 {
        self.share(float, |layer| self.multiplications(layer))
    }

    /// Returns the share of the network's weights, 0 to 1, that the layers `float` have.
    pub(super) fn weight_share(&self, float: &BTreeSet<String>) -> f64 {
        self.share(float, |layer| layer.weights as f64)
    }

    /// Returns the sum of `of` over the layers `float`, as a share (0 to 1) of the sum over all
    /// layers.
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
