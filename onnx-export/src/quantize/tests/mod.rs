//! Tests of quantization, mostly with small networks.

mod catalogue;
mod reading;
mod rewriting;
mod roles;

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;

use super::*;
use crate::graph::ops::{Conv, ConvData};
use crate::graph::{Graph, Loader, Value};
use crate::proto::{GraphProto, ModelProto, NodeProto};
use crate::weights::StateDict;
use crate::{DEFAULT_OPSET, Model, ModelInfo, Stages, formula};

/// Builds a small network.
struct Builder {
    graph: Graph,
    images: Value,
}

impl Builder {
    fn new() -> Self {
        Self::of_opset(DEFAULT_OPSET)
    }

    fn of_opset(opset: i64) -> Self {
        let mut graph = Graph::new(opset);
        let images = graph.image_input("images");
        Self { graph, images }
    }

    /// Adds a convolution of `x` whose node is called `/{name}/Conv`.
    fn conv(&mut self, name: &str, x: Value, conv: Conv) -> Value {
        let channels = self.graph.channels(x).unwrap();
        let weight = formula::fill(&format!("{name}.weight"), &conv.weight_shape(channels));
        let bias = formula::fill(&format!("{name}.bias"), &[conv.out]);
        let data = ConvData::new(weight, bias);
        let weights = self.graph.conv_weights(name, channels, conv, data).unwrap();
        self.graph.conv_with(name, x, conv, weights).unwrap()
    }

    /// Adds the hard swish `x * clip(x / 6 + 1/2, 0, 1)`.
    fn hard_swish(&mut self, x: Value) -> Value {
        let gate = self.graph.hard_sigmoid(x);
        self.graph.mul(x, gate).unwrap()
    }

    /// Adds a mean over the pixels and the Gemm `/fc/Gemm` with 4 output channels.
    fn classify(&mut self, x: Value) -> Value {
        let state = StateDict::from_tensors(BTreeMap::new());
        let pooled = self.graph.mean_pixels(x).unwrap();
        let flat = self.graph.flatten(pooled).unwrap();
        let loader = Loader::new(&state);
        let scope = loader.root().sub("fc");
        self.graph.gemm(&scope, flat, 4).unwrap()
    }

    /// Returns the network with the given outputs, each a pair of a value and the name of the
    /// output.
    fn finish(mut self, outputs: &[(Value, &str)]) -> Network {
        for (value, name) in outputs {
            self.graph.output(*value, name);
        }
        let info = ModelInfo::new("small", self.graph.opset(), String::new(), 0);
        let model = Model {
            stages: Stages::new(self.graph),
            info,
        };
        Network::read(&model.to_bytes()).unwrap()
    }
}

/// Returns a recipe with the activation range -4 to 4 for every value. `float_layers` are kept in
/// fp32.
fn recipe(network: &Network, float_layers: &[&str]) -> Recipe {
    let range = Range {
        min: -4.0,
        max: 4.0,
    };
    Recipe {
        ranges: network
            .values()
            .into_iter()
            .map(|value| (value, range))
            .collect(),
        float_layers: float_layers.iter().map(|name| (*name).to_owned()).collect(),
        ..Recipe::default()
    }
}

/// Returns the int8 graph of `network`. Checks that the graph has standard operators only, that
/// every value is written once and before it is read, and that every constant is read.
fn quantized(network: &Network, recipe: &Recipe, target: Target) -> GraphProto {
    let bytes = network.quantize(recipe, target).unwrap();
    let graph = ModelProto::decode(&bytes[..]).unwrap().graph.unwrap();
    let mut known: BTreeSet<&str> = graph.input.iter().map(|v| v.name.as_str()).collect();
    known.insert("");
    for tensor in &graph.initializer {
        assert!(
            known.insert(&tensor.name),
            "{} is written twice",
            tensor.name
        );
    }
    let mut read = BTreeSet::new();
    for node in &graph.node {
        assert_eq!(node.domain, "", "{}", node.name);
        for input in &node.input {
            assert!(
                known.contains(input.as_str()),
                "{} reads {input} before it is written",
                node.name
            );
            read.insert(input.as_str());
        }
        for output in &node.output {
            assert!(known.insert(output), "{output} is written twice");
        }
    }
    for output in &graph.output {
        assert!(known.contains(output.name.as_str()), "{}", output.name);
    }
    for tensor in &graph.initializer {
        assert!(
            read.contains(tensor.name.as_str()),
            "no node reads the constant {}",
            tensor.name
        );
    }
    graph
}

/// Returns the graph as text, one line `output = Operator(inputs)` per node. Constant inputs are
/// left out.
fn dump(graph: &GraphProto) -> String {
    let constants: BTreeSet<&str> = graph.initializer.iter().map(|t| t.name.as_str()).collect();
    let line = |node: &NodeProto| {
        let inputs = node.input.iter().map(String::as_str);
        let inputs: Vec<&str> = inputs.filter(|name| !constants.contains(name)).collect();
        let (output, op) = (node.output.join(", "), &node.op_type);
        format!("{output} = {op}({})\n", inputs.join(", "))
    };
    graph.node.iter().map(line).collect()
}

/// Returns the elements of the f32 constant `name`.
fn f32_values(graph: &GraphProto, name: &str) -> Vec<f32> {
    let tensor = graph.initializer.iter().find(|tensor| tensor.name == name);
    let tensor = tensor.unwrap_or_else(|| panic!("the graph has no constant {name}"));
    let chunks = tensor.raw_data.as_chunks::<4>().0.iter();
    chunks.map(|bytes| f32::from_le_bytes(*bytes)).collect()
}
