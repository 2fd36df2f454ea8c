//! The float network with what a calibration looks at as its outputs.

use std::collections::BTreeSet;

use super::domain::{Role, quantizable_values, roles};
use super::emit::dequantized;
use super::{Layer, Network, Recipe};
use crate::graph::Attr;
use crate::proto::{
    AttributeProto, FLOAT, GraphProto, INT64, NodeProto, TensorProto, TensorTypeProto, TypeProto,
    ValueInfoProto,
};

/// What one output of an observed network says.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Observed {
    /// The smallest number of a value.
    Min(String),
    /// The largest number of a value.
    Max(String),
    /// How many numbers a value has.
    Size(String),
    /// The mean of every channel of a layer's input.
    ChannelMeans(String),
}

impl Network {
    /// Every value that a recipe may need a range for.
    pub fn values(&self) -> BTreeSet<String> {
        quantizable_values(self)
    }

    /// The network with a few numbers about every value as its outputs, and what each is: whatever
    /// the size of the values, their own memory is given back during the run.
    pub fn observed(&self) -> (Vec<u8>, Vec<Observed>) {
        let mut graph = self.graph().clone();
        graph.output.clear();
        let mut observed = Vec::new();
        for value in self.values() {
            self.summarise(&mut graph, &value, &mut observed);
        }
        (self.with_graph(graph), observed)
    }

    /// The network with `values` as its outputs, in their order.
    pub fn fetching(&self, values: &[String]) -> Vec<u8> {
        let mut graph = self.graph().clone();
        graph.output = values.iter().map(|value| float_output(value)).collect();
        self.with_graph(graph)
    }

    /// Where a layer's result is 8-bit: behind the activations that are computed with it. Gives the value's
    /// name in this network, and in the one quantised by `recipe`; nothing for a layer in float, and
    /// for a last Gemm.
    pub fn result(&self, layer: &Layer, recipe: &Recipe) -> Option<(String, String)> {
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
                return Some((value.to_owned(), dequantized(value)));
            };
            // Of a hard swish the product counts, of another gate the gate.
            let swish = self.consumers(value).iter().find(|other| **other != node);
            value = self.nodes()[*swish.unwrap_or(&node)].output.first()?;
        }
    }

    fn summarise(&self, graph: &mut GraphProto, value: &str, observed: &mut Vec<Observed>) {
        let own = || value.to_owned();
        let without_axes = || vec![AttributeProto::from(&("keepdims", Attr::Int(0)))];
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
        let to_float = vec![AttributeProto::from(&("to", Attr::Int(i64::from(FLOAT))))];
        let size = summary("Cast", &count.output[0], to_float);
        graph.node.push(count);
        summaries.push((size, Observed::Size(own())));
        if let Some(layer) = self.layers().iter().find(|layer| layer.input == value) {
            let axes: &[i64] = if layer.is_conv { &[0, 2, 3] } else { &[0] };
            let mut means = summary("ReduceMean", value, without_axes());
            // The axes became an operand in opset 18.
            if self.opset() < 18 {
                means
                    .attribute
                    .push(AttributeProto::from(&("axes", Attr::Ints(axes.to_vec()))));
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

/// A node on `value` whose output is named after both.
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

fn list(name: String, values: &[i64]) -> TensorProto {
    TensorProto {
        dims: vec![values.len() as i64],
        data_type: INT64,
        name,
        raw_data: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        ..TensorProto::default()
    }
}

/// An output of floats whose shape is not said.
pub(super) fn float_output(name: &str) -> ValueInfoProto {
    let tensor = TensorTypeProto {
        elem_type: FLOAT,
        shape: None,
    };
    ValueInfoProto {
        name: name.to_owned(),
        r#type: Some(TypeProto {
            tensor_type: Some(tensor),
        }),
    }
}
