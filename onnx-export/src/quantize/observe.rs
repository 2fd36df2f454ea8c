//! Turns statistics of the fp32 network's values into outputs of the network, for calibration.

use std::collections::BTreeSet;

use super::domain::{Role, quantizable_values, roles};
use super::emit::dequantized;
use super::{Layer, Network, Recipe};
use crate::graph::Attr;
use crate::proto::{
    AttributeProto, FLOAT, GraphProto, INT64, NodeProto, TensorProto, TensorTypeProto, TypeProto,
    ValueInfoProto,
};

/// The statistic that one output of an observed network computes. [`Network::observed`] adds these
/// outputs to a network.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Observed {
    /// The smallest element of the named value.
    Min(String),
    /// The largest element of the named value.
    Max(String),
    /// The number of elements of the named value.
    Size(String),
    /// The mean of each channel of the named value, which a layer reads.
    ChannelMeans(String),
}

/// The names of the values that hold a layer's result in the fp32 network and in the int8 network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerResult {
    /// Name of the value in the fp32 network.
    pub fp32: String,
    /// Name of the dequantized value in the int8 network.
    pub int8: String,
}

impl Network {
    /// Returns the names of all values for which a recipe may need an activation range.
    pub fn values(&self) -> BTreeSet<String> {
        quantizable_values(self)
    }

    /// Returns the network as an ONNX file whose outputs are statistics of every value of
    /// [`Network::values`], and a list of the statistic in each output, in the order of the
    /// outputs.
    ///
    /// An output has one element, or one per channel, whatever the size of the value, so a run
    /// needs hardly more memory than a run of the network itself.
    pub fn observed(&self) -> (Vec<u8>, Vec<Observed>) {
        let mut graph = self.graph().clone();
        graph.output.clear();
        graph.value_info.clear();
        let mut observed = Vec::new();
        for value in self.values() {
            self.summarize(&mut graph, &value, &mut observed);
        }
        (self.with_graph(graph), observed)
    }

    /// Returns the network as an ONNX file with the fp32 `values` as its outputs, in order.
    pub fn fetching(&self, values: &[String]) -> Vec<u8> {
        let mut graph = self.graph().clone();
        graph.output = values.iter().map(|value| float_output(value)).collect();
        graph.value_info.clear();
        self.with_graph(graph)
    }

    /// Returns the names of the values that hold the result of `layer` after its activation
    /// function. `None` if `layer` is kept in fp32 by `recipe`, or is a Gemm whose result is an
    /// output of the network.
    pub fn result(&self, layer: &Layer, recipe: &Recipe) -> Option<LayerResult> {
        let roles = roles(self, recipe);
        if roles[layer.node] != Role::Layer || (!layer.is_conv && self.is_output(&layer.output)) {
            return None;
        }
        let mut value = layer.output.as_str();
        loop {
            let next = self.consumers(value).iter();
            let next = next
                .copied()
                .find(|node| matches!(roles[*node], Role::Limit | Role::Gate));
            let Some(node) = next else {
                return Some(LayerResult {
                    fp32: value.to_owned(),
                    int8: dequantized(value),
                });
            };
            // In a hard swish, the product also reads the hard sigmoid's operand, and its output is
            // the result. Without another reader of the operand, the output of the Relu, Clip or
            // hard sigmoid is the result.
            let swish = self.consumers(value).iter().find(|other| **other != node);
            value = self.nodes()[*swish.unwrap_or(&node)].output.first()?;
        }
    }

    /// Adds the statistics of `value` to the outputs of `graph`, and the [`Observed`] of each added
    /// output to `observed`.
    fn summarize(&self, graph: &mut GraphProto, value: &str, observed: &mut Vec<Observed>) {
        let own = || value.to_owned();
        let without_axes = || vec![AttributeProto::new("keepdims", &Attr::Int(0))];
        let mut summaries = vec![
            (
                summary("ReduceMin", value, without_axes()),
                Observed::Min(own()),
            ),
            (
                summary("ReduceMax", value, without_axes()),
                Observed::Max(own()),
            ),
        ];
        let count = summary("Size", value, vec![]);
        let to_float = vec![AttributeProto::new("to", &Attr::Int(i64::from(FLOAT)))];
        let size = summary("Cast", &count.output[0], to_float);
        graph.node.push(count);
        summaries.push((size, Observed::Size(own())));
        if let Some(layer) = self.layers().iter().find(|layer| layer.input == value) {
            let axes: &[i64] = if layer.is_conv { &[0, 2, 3] } else { &[0] };
            let mut means = summary("ReduceMean", value, without_axes());
            // Since opset 18, the axes are an operand of `ReduceMean`, not an attribute.
            if self.opset() < 18 {
                means
                    .attribute
                    .push(AttributeProto::new("axes", &Attr::Ints(axes.to_vec())));
            } else {
                let name = format!("{}_axes", means.output[0]);
                means.input.push(name.clone());
                graph.initializer.push(list(name, axes));
            }
            summaries.push((means, Observed::ChannelMeans(own())));
        }
        for (node, what) in summaries {
            graph.output.push(float_output(&node.output[0]));
            graph.node.push(node);
            observed.push(what);
        }
    }
}

/// Returns a node that applies the operator `op` to `value`. The node and its output are named `<value>_<op>`.
fn summary(op: &str, value: &str, attribute: Vec<AttributeProto>) -> NodeProto {
    let name = format!("{value}_{op}");
    NodeProto {
        input: vec![value.to_owned()],
        output: vec![name.clone()],
        name,
        op_type: op.to_owned(),
        attribute,
        ..NodeProto::default()
    }
}

/// Returns a constant int64 tensor of one axis, called `name`, with the elements `values`.
fn list(name: String, values: &[i64]) -> TensorProto {
    TensorProto {
        dims: vec![values.len() as i64],
        data_type: INT64,
        name,
        raw_data: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        ..TensorProto::default()
    }
}

/// Returns the declaration of a graph output called `name`, of data type f32 and unknown shape.
pub(super) fn float_output(name: &str) -> ValueInfoProto {
    let tensor = TensorTypeProto {
        elem_type: FLOAT,
        shape: None,
    };
    ValueInfoProto {
        name: name.to_owned(),
        r#type: Some(TypeProto {
            tensor_type: Some(tensor),
            ..TypeProto::default()
        }),
        ..ValueInfoProto::default()
    }
}
