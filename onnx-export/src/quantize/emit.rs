//! Writes quantized weights and biases, constants and nodes. The quantized form of a value is an
//! integer tensor: the output of a `QuantizeLinear` or a constant. The dequantized form is the fp32
//! output of a `DequantizeLinear` that reads the quantized form.

use std::collections::HashSet;

use super::affine::{ScaleInputs, channel_scales, round_bias, round_weights};
use super::check::check_order;
use super::correct::lost_means;
use super::rewrite::{Rewriter, RoundedWeight};
use super::{Affine, Layer, QuantizeError};
use crate::graph::Attr;
use crate::proto::{AttributeProto, FLOAT, GraphProto, INT8, INT32, NodeProto, TensorProto, UINT8};

/// An integer constant with one scale per output channel.
struct PerChannel<'a> {
    name: &'a str,
    data_type: i32,
    /// Elements of the constant as little-endian bytes.
    bytes: Vec<u8>,
    shape: Vec<i64>,
    scales: &'a [f32],
}

impl Rewriter<'_> {
    /// Returns the name of a layer's dequantized weight. Writes the weight when the first layer
    /// uses it, since several layers may share one weight.
    pub(super) fn weight(&mut self, layer: &Layer, input_scale: f32) -> String {
        let name = &layer.weight;
        if self.weights.contains_key(name) {
            return dequantized(name);
        }
        let Some(weight) = self.network.weight(name) else {
            return name.clone();
        };
        let channels = weight.shape.first().map_or(1, |n| (*n as usize).max(1));
        let trained = self.recipe.weight_scales.get(name);
        let (coarser, trained_limits) = self.target.trained_weights();
        let coarser = |scale: &f32| coarser * scale;
        let (scales, limits) = match trained.map(Vec::as_slice) {
            Some([scale]) => (vec![coarser(scale); channels], trained_limits),
            Some(scales) if scales.len() == channels => {
                (scales.iter().map(coarser).collect(), trained_limits)
            }
            _ => {
                let limit = self.target.weight_limit();
                let scales = channel_scales(ScaleInputs {
                    weights: &weight.data,
                    channels,
                    bias: self.bias_values(layer),
                    limit,
                    input_scale,
                });
                (scales, (-limit, limit))
            }
        };
        let rounded = round_weights(&weight.data, &scales, limits);
        let bytes = rounded.iter().map(|q| q.to_le_bytes()[0]).collect();
        let shape = weight.shape.clone();
        self.per_channel(PerChannel {
            name,
            data_type: INT8,
            bytes,
            shape,
            scales: &scales,
        });
        self.weights
            .insert(name.clone(), RoundedWeight { rounded, scales });
        dequantized(name)
    }

    /// Returns the elements of a layer's bias. Empty if the layer has no bias.
    fn bias_values(&self, layer: &Layer) -> &[f32] {
        let bias = layer.bias.as_ref();
        let bias = bias.and_then(|name| self.network.weight(name));
        bias.map_or(&[], |tensor| tensor.data.as_slice())
    }

    /// Writes a layer's bias and returns the name of its dequantized form. `None` if the layer has no bias.
    ///
    /// The scale of a bias depends on the scale of the layer's input, so each of several layers
    /// that share a bias writes its own quantized form.
    pub(super) fn bias(&mut self, layer: &Layer, input_scale: f32) -> Option<String> {
        let mut bias: Vec<f64> = self
            .bias_values(layer)
            .iter()
            .copied()
            .map(f64::from)
            .collect();
        if bias.is_empty() {
            return None;
        }
        let rounded = self.weights.get(&layer.weight)?;
        if let Some(means) = self.recipe.channel_means.get(&layer.input) {
            let weight = self.network.weight(&layer.weight)?;
            let lost = lost_means(weight, layer.groups, rounded, means);
            bias.iter_mut()
                .zip(lost)
                .for_each(|(bias, lost)| *bias += lost);
        }
        let scales = rounded.scales.iter();
        let scales: Vec<f32> = scales.map(|scale| scale * input_scale).collect();
        let bias = round_bias(&bias, &scales);
        let name = suffixed(&layer.name, "bias");
        let bytes = bias.iter().flat_map(|q| q.to_le_bytes()).collect();
        self.per_channel(PerChannel {
            name: &name,
            data_type: INT32,
            bytes,
            shape: vec![bias.len() as i64],
            scales: &scales,
        });
        Some(dequantized(&name))
    }

    /// Writes an integer constant, a constant with its scales, and the `DequantizeLinear` that
    /// reads both.
    fn per_channel(&mut self, constant: PerChannel<'_>) {
        let PerChannel {
            name,
            data_type,
            bytes,
            shape,
            scales,
        } = constant;
        let channels = scales.len();
        let scale_bytes = scales
            .iter()
            .flat_map(|scale| scale.to_le_bytes())
            .collect();
        let (q, scale) = (quantized(name), scale_of(name));
        self.constant(&q, data_type, shape, bytes);
        self.constant(&scale, FLOAT, vec![channels as i64], scale_bytes);
        let inputs = [q, scale, self.zeros(data_type, channels)];
        let output = dequantized(name);
        self.push(
            "DequantizeLinear",
            &output,
            &inputs,
            &output,
            Some(("axis", 0)),
        );
    }

    /// Returns the name of a constant of type `data_type` (int8 or int32) with `channels` zero
    /// points of 0. The constant is written at its first use and shared afterwards.
    fn zeros(&mut self, data_type: i32, channels: usize) -> String {
        let (kind, size) = if data_type == INT8 {
            ("s8", 1)
        } else {
            ("s32", 4)
        };
        let name = format!("zero_points_{kind}_{channels}");
        if self.zeros.insert(name.clone()) {
            let bytes = vec![0; channels * size];
            self.constant(&name, data_type, vec![channels as i64], bytes);
        }
        name
    }

    /// Writes the scale of `affine` as the f32 constant called `scale`. Returns the name of the
    /// uint8 constant with the zero point of `affine`.
    pub(super) fn scalars(&mut self, scale: &str, affine: Affine) -> String {
        self.float(scale, affine.scale);
        self.byte(affine.zero_point)
    }

    /// Returns the name of the uint8 scalar constant `value`. The constant is written at its first
    /// use and shared afterwards.
    pub(super) fn byte(&mut self, value: u8) -> String {
        let name = format!("u8_{value}");
        if self.zeros.insert(name.clone()) {
            self.constant(&name, UINT8, vec![], vec![value]);
        }
        name
    }

    /// Returns the name of the f32 scalar constant 1. The constant is written at its first use and
    /// shared afterwards.
    pub(super) fn one(&mut self) -> String {
        let name = "f32_1".to_owned();
        if self.zeros.insert(name.clone()) {
            self.float(&name, 1.0);
        }
        name
    }

    /// Writes an f32 scalar constant called `name` with the given value.
    pub(super) fn float(&mut self, name: &str, value: f32) {
        self.constant(name, FLOAT, vec![], value.to_le_bytes().to_vec());
    }

    fn constant(&mut self, name: &str, data_type: i32, dims: Vec<i64>, raw_data: Vec<u8>) {
        self.constants.push(TensorProto {
            name: name.to_owned(),
            data_type,
            dims,
            raw_data,
            ..TensorProto::default()
        });
    }

    /// Adds a node with one output and at most one integer attribute. `name` is empty for added
    /// nodes such as `QuantizeLinear`, whose names would take a tenth of the file.
    pub(super) fn push(
        &mut self,
        op: &str,
        name: &str,
        inputs: &[String],
        output: &str,
        attribute: Option<(&'static str, i64)>,
    ) {
        let attribute = attribute.iter();
        let attribute =
            attribute.map(|(name, value)| AttributeProto::new(name, &Attr::Int(*value)));
        self.nodes.push(NodeProto {
            op_type: op.to_owned(),
            name: name.to_owned(),
            input: inputs.to_vec(),
            output: vec![output.to_owned()],
            attribute: attribute.collect(),
            ..NodeProto::default()
        });
    }

    /// Returns the int8 graph.
    ///
    /// # Errors
    /// [`QuantizeError::Unsupported`] if a value of the fp32 network has the name of a value that
    /// the rewriting adds.
    pub(super) fn finish(self) -> Result<GraphProto, QuantizeError> {
        let mut graph = self.network.graph().clone();
        let mut added = self.constants.iter().map(|tensor| &tensor.name);
        if let Some(name) = added.find(|name| graph.input.iter().any(|i| i.name == **name)) {
            return Err(QuantizeError::Unsupported {
                item: format!("input `{name}`"),
                found: "has the name of a constant of the int8 network".to_owned(),
                expected: "an input of another name",
            });
        }
        // Types of names that the fp32 network does not use must not describe values that the rewriting adds.
        let network = self.network;
        graph.value_info.retain(|info| network.has(&info.name));
        graph.initializer.extend(self.constants);
        graph.node = self.nodes;
        check_order(&graph)?;
        Ok(graph)
    }
}

/// Removes the `DequantizeLinear` nodes whose outputs neither a node nor an output of the graph
/// reads, then the constants that no node reads, then the types of values that the graph no longer has.
pub(super) fn without_unread(mut graph: GraphProto) -> GraphProto {
    let operands = graph.node.iter().flat_map(|node| &node.input);
    let outputs = graph.output.iter().map(|output| &output.name);
    let read: HashSet<String> = operands.chain(outputs).cloned().collect();
    graph.node.retain(|node| {
        node.op_type != "DequantizeLinear" || node.output.iter().any(|value| read.contains(value))
    });
    graph.drop_unread_initializers();
    let outputs = graph.node.iter().flat_map(|node| &node.output);
    let constants = graph.initializer.iter().map(|tensor| &tensor.name);
    let inputs = graph.input.iter().map(|input| &input.name);
    let names: HashSet<&String> = outputs.chain(constants).chain(inputs).collect();
    graph.value_info.retain(|info| names.contains(&info.name));
    graph
}

/// Returns the name of the quantized form of `value`.
pub(super) fn quantized(value: &str) -> String {
    suffixed(value, "q")
}

/// Returns the name of the dequantized form of `value`, the output of `DequantizeLinear`.
pub(super) fn dequantized(value: &str) -> String {
    suffixed(value, "dq")
}

/// Returns the name of the f32 constant that holds the scale of `value`.
pub(super) fn scale_of(value: &str) -> String {
    suffixed(value, "s")
}

pub(super) fn suffixed(value: &str, suffix: &str) -> String {
    format!("{value}_{suffix}")
}
