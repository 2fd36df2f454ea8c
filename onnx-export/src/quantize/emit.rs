//! Writing 8-bit weights, biases, and the nodes around them.

use std::collections::HashSet;

use super::affine::{channel_scales, round_bias, round_weights};
use super::check::check_order;
use super::correct::lost_means;
use super::rewrite::{Rewriter, RoundedWeight};
use super::{Affine, Layer, QuantizeError};
use crate::graph::Attr;
use crate::proto::{AttributeProto, FLOAT, GraphProto, INT8, INT32, NodeProto, TensorProto, UINT8};

impl Rewriter<'_> {
    /// The dequantised form of a layer's weight, written once: layers may share it.
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
                let (limit, bias) = (self.target.weight_limit(), self.bias_numbers(layer));
                let scales = channel_scales(&weight.data, channels, bias, limit, input_scale);
                (scales, (-limit, limit))
            }
        };
        let rounded = round_weights(&weight.data, &scales, limits);
        let bytes = rounded.iter().map(|q| q.to_le_bytes()[0]).collect();
        let shape = weight.shape.clone();
        self.per_channel(name, (INT8, bytes, shape), &scales);
        self.weights
            .insert(name.clone(), RoundedWeight { rounded, scales });
        dequantized(name)
    }

    /// The numbers of a layer's bias; none where it has no bias.
    fn bias_numbers(&self, layer: &Layer) -> &[f32] {
        let bias = layer.bias.as_ref();
        let bias = bias.and_then(|name| self.network.weight(name));
        bias.map_or(&[], |tensor| tensor.data.as_slice())
    }

    /// The dequantised form of a layer's bias. Its steps depend on the layer's input, so layers that share
    /// a bias write one each.
    pub(super) fn bias(&mut self, layer: &Layer, input_scale: f32) -> Option<String> {
        let mut bias: Vec<f64> = self
            .bias_numbers(layer)
            .iter()
            .copied()
            .map(f64::from)
            .collect();
        if bias.is_empty() {
            return None;
        }
        let RoundedWeight { rounded, scales } = self.weights.get(&layer.weight)?;
        if let Some(means) = self.recipe.channel_means.get(&layer.input) {
            let weight = self.network.weight(&layer.weight)?;
            let lost = lost_means(weight, layer.groups, rounded, scales, means);
            bias.iter_mut()
                .zip(lost)
                .for_each(|(bias, lost)| *bias += lost);
        }
        let scales: Vec<f32> = scales.iter().map(|scale| scale * input_scale).collect();
        let steps = round_bias(&bias, &scales);
        let name = suffixed(&layer.name, "bias");
        let bytes = steps.iter().flat_map(|step| step.to_le_bytes()).collect();
        let shape = vec![steps.len() as i64];
        self.per_channel(&name, (INT32, bytes, shape), &scales);
        Some(dequantized(&name))
    }

    /// A constant in integers with one scale an output channel, and its `DequantizeLinear`.
    fn per_channel(
        &mut self,
        name: &str,
        (data_type, bytes, shape): (i32, Vec<u8>, Vec<i64>),
        scales: &[f32],
    ) {
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

    /// Zero points of `channels` channels; one constant serves all weights or biases of that many.
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

    /// A U8 scale, and the name of its zero point.
    pub(super) fn scalars(&mut self, scale: &str, affine: Affine) -> String {
        self.number(scale, affine.scale);
        self.byte(affine.zero_point)
    }

    /// The name of a scalar U8 number; one constant serves all that are equal.
    pub(super) fn byte(&mut self, number: u8) -> String {
        let name = format!("u8_{number}");
        if self.zeros.insert(name.clone()) {
            self.constant(&name, UINT8, vec![], vec![number]);
        }
        name
    }

    /// The name of a scale of 1.
    pub(super) fn one(&mut self) -> String {
        let name = "f32_1".to_owned();
        if self.zeros.insert(name.clone()) {
            self.number(&name, 1.0);
        }
        name
    }

    /// A scalar float.
    pub(super) fn number(&mut self, name: &str, number: f32) {
        self.constant(name, FLOAT, vec![], number.to_le_bytes().to_vec());
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

    /// Adds a node. Those that only change the form of a value need no name, which would take a tenth
    /// of the file.
    pub(super) fn push(
        &mut self,
        op: &str,
        name: &str,
        inputs: &[String],
        output: &str,
        attribute: Option<(&'static str, i64)>,
    ) {
        let attribute = attribute.map(|(name, number)| (name, Attr::Int(number)));
        self.nodes.push(NodeProto {
            op_type: op.to_owned(),
            name: name.to_owned(),
            input: inputs.to_vec(),
            output: vec![output.to_owned()],
            attribute: attribute.iter().map(AttributeProto::from).collect(),
            ..NodeProto::default()
        });
    }

    /// The graph of what was written.
    ///
    /// # Errors
    /// [`QuantizeError::Unsupported`] where the network uses a name that was to be a new value's.
    pub(super) fn finish(self) -> Result<GraphProto, QuantizeError> {
        let mut graph = self.network.graph().clone();
        graph.initializer.extend(self.constants);
        graph.node = self.nodes;
        check_order(&graph)?;
        Ok(graph)
    }
}

/// The graph without readings of 8-bit numbers, and then without constants, that nothing reads.
pub(super) fn without_unread(mut graph: GraphProto) -> GraphProto {
    let operands = graph.node.iter().flat_map(|node| &node.input);
    let outputs = graph.output.iter().map(|output| &output.name);
    let read: HashSet<String> = operands.chain(outputs).cloned().collect();
    graph.node.retain(|node| {
        node.op_type != "DequantizeLinear" || node.output.iter().any(|value| read.contains(value))
    });
    graph.drop_unread_constants();
    graph
}

/// The name of a value's 8-bit form.
pub(super) fn quantized(value: &str) -> String {
    suffixed(value, "q")
}

/// The name of what a value's 8-bit form stands for.
pub(super) fn dequantized(value: &str) -> String {
    suffixed(value, "dq")
}

/// The name of a value's scale.
pub(super) fn scale_of(value: &str) -> String {
    suffixed(value, "s")
}

pub(super) fn suffixed(value: &str, suffix: &str) -> String {
    format!("{value}_{suffix}")
}
