//! Rewrites the fp32 network to int8 with `QuantizeLinear` / `DequantizeLinear` pairs.
//!
//! Every quantized value `v` is written as `v -> QuantizeLinear -> DequantizeLinear`, so that a runtime sees
//! `DequantizeLinear -> operator -> QuantizeLinear` around each integer operator and fuses it.

use std::collections::{HashMap, HashSet};

use super::domain::{Role, roles};
use super::emit::{dequantized, quantized, scale_of, suffixed, without_unread};
use super::observe::float_output;
use super::{Affine, Layer, Network, QuantizeError, Range, Recipe, Target};
use crate::proto::{GraphProto, NodeProto, TensorProto};

impl Network {
    /// Returns the int8 network as an ONNX file.
    ///
    /// # Errors
    /// [`QuantizeError::NoRange`] and [`QuantizeError::NoLayer`] if the recipe does not fit this
    /// network, [`QuantizeError::Unsupported`] if a value of the network has the name of a value
    /// that the rewriting adds.
    pub fn quantize(&self, recipe: &Recipe, target: Target) -> Result<Vec<u8>, QuantizeError> {
        let graph = self.rewritten(recipe, target)?;
        Ok(self.with_graph(without_unread(graph)))
    }

    /// Returns the int8 network as an ONNX file whose outputs are the fp32 `values`, such as the
    /// dequantized results of layers, for comparison with the fp32 network.
    ///
    /// # Errors
    /// As [`Network::quantize`].
    pub fn quantize_fetching(
        &self,
        recipe: &Recipe,
        target: Target,
        values: &[String],
    ) -> Result<Vec<u8>, QuantizeError> {
        let mut graph = self.rewritten(recipe, target)?;
        graph.output = values.iter().map(|value| float_output(value)).collect();
        graph.value_info.clear();
        Ok(self.with_graph(without_unread(graph)))
    }

    fn rewritten(&self, recipe: &Recipe, target: Target) -> Result<GraphProto, QuantizeError> {
        let known: HashSet<&str> = self.layers().iter().map(|l| l.name.as_str()).collect();
        let mut named = recipe.float_layers.iter();
        if let Some(layer) = named.find(|name| !known.contains(name.as_str())) {
            let layer = layer.clone();
            return Err(QuantizeError::NoLayer { layer });
        }
        let mut rewriter = Rewriter {
            network: self,
            recipe,
            target,
            roles: roles(self, recipe),
            nodes: Vec::new(),
            constants: Vec::new(),
            quantized: HashMap::new(),
            weights: HashMap::new(),
            zeros: HashSet::new(),
            seconds: HashMap::new(),
            scaled_values: HashSet::new(),
        };
        for (index, node) in self.nodes().iter().enumerate() {
            rewriter.node(index, node)?;
        }
        rewriter.finish()
    }
}

/// State of the rewriting: the nodes and constants of the int8 network that have been written so
/// far.
pub(super) struct Rewriter<'a> {
    pub(super) network: &'a Network,
    pub(super) recipe: &'a Recipe,
    pub(super) target: Target,
    roles: Vec<Role>,
    pub(super) nodes: Vec<NodeProto>,
    pub(super) constants: Vec<TensorProto>,
    /// Scale and zero point of each value whose quantized form has been written, by the value's
    /// name.
    quantized: HashMap<String, Affine>,
    /// Quantized weights that have been written so far, by the weight's name.
    pub(super) weights: HashMap<String, RoundedWeight>,
    /// Names of the shared constants (zero points and 1) that have been written so far.
    pub(super) zeros: HashSet<String>,
    /// Name of a value's second dequantized form, by the value's name. The entry is removed when a
    /// node reads this form; see [`Rewriter::second_form`].
    seconds: HashMap<String, String>,
    /// Names of the values that `QuantizeLinear` reads divided by their scale already, so that it
    /// only rounds them; see [`super::steps`].
    pub(super) scaled_values: HashSet<String>,
}

/// A layer's weight, rounded to int8.
pub(super) struct RoundedWeight {
    /// Rounded elements in C order, output channels outermost.
    pub(super) rounded: Vec<i8>,
    /// Scale of each output channel.
    pub(super) scales: Vec<f32>,
}

impl<'a> Rewriter<'a> {
    fn node(&mut self, index: usize, node: &NodeProto) -> Result<(), QuantizeError> {
        match (self.roles[index], self.network.layer_of(index)) {
            (Role::Layer, Some(layer)) => self.layer(node, layer)?,
            (Role::Gate, _) => self.gate(node)?,
            (Role::Limit, _) => self.limit(node),
            (Role::Arithmetic, _) if self.step(node).is_some() => self.swish(node)?,
            (Role::Arithmetic, _) if self.is_scaled(node) => self.scaled(node)?,
            (Role::Rearrange | Role::Arithmetic, _) => self.arithmetic(node)?,
            (Role::Step, _) => {}
            (Role::Float | Role::Layer, _) => self.fp32_node(node),
        }
        if matches!(self.roles[index], Role::Float | Role::Gate | Role::Step) {
            return Ok(());
        }
        self.output(index, node)
    }

    /// Writes a node that computes in fp32. The node reads the dequantized form of operands that
    /// int8 nodes compute.
    fn fp32_node(&mut self, node: &NodeProto) {
        let mut node = node.clone();
        for input in &mut node.input {
            if self.is_int8(input) && self.quantized.contains_key(input.as_str()) {
                *input = dequantized(input);
            }
        }
        self.nodes.push(node);
    }

    /// Returns whether an int8 node writes `value`.
    fn is_int8(&self, value: &str) -> bool {
        let producer = self.network.producer(value);
        producer.is_some_and(|node| self.roles[node] != Role::Float)
    }

    /// Returns the hard sigmoid that is written together with `product`, the last node of a hard
    /// swish. `None` if no operand of `product` comes from a hard sigmoid with [`Role::Step`].
    pub(super) fn step(&self, product: &NodeProto) -> Option<&'a NodeProto> {
        let operands = product.input.iter();
        let mut producers = operands.filter_map(|value| self.network.producer(value));
        let step = producers.find(|node| self.roles[*node] == Role::Step)?;
        Some(&self.network.nodes()[step])
    }

    fn layer(&mut self, node: &NodeProto, layer: &Layer) -> Result<(), QuantizeError> {
        let (input, affine) = self.operand(&layer.input)?;
        let mut inputs = vec![input, self.weight(layer, affine.scale)];
        inputs.extend(self.bias(layer, affine.scale));
        self.nodes.push(NodeProto {
            input: inputs,
            output: vec![self.written(&layer.output)],
            ..node.clone()
        });
        Ok(())
    }

    /// Writes a Relu or Clip of an int8 value. Runtimes remove the node, since the quantized range
    /// of its output ends where the node clips.
    fn limit(&mut self, node: &NodeProto) {
        if self.scaled_values.contains(&node.input[0]) {
            self.scaled_values.insert(node.output[0].clone());
        }
        let mut node = node.clone();
        node.output[0] = self.written(&node.output[0]);
        self.nodes.push(node);
    }

    pub(super) fn arithmetic(&mut self, node: &NodeProto) -> Result<(), QuantizeError> {
        let mut node = node.clone();
        for input in &mut node.input {
            if !input.is_empty() && !self.network.is_constant(input) {
                *input = self.operand(input)?.0;
            }
        }
        node.output[0] = self.written(&node.output[0]);
        if node.op_type == "ReduceMean" {
            // `GlobalAveragePool` equals this mean over the pixels, and ONNX Runtime has an integer
            // kernel for it.
            "GlobalAveragePool".clone_into(&mut node.op_type);
            node.input.truncate(1);
            node.attribute.clear();
        }
        self.nodes.push(node);
        Ok(())
    }

    /// Writes the quantized form of an int8 node's output. Writes nothing in three cases: the
    /// output is read by a Relu or Clip ([`Role::Limit`]), whose own output is quantized instead;
    /// it is read by a hard sigmoid ([`Role::Gate`]), which writes the quantized form; or the node
    /// is a Gemm whose result is an output of the network and stays fp32.
    fn output(&mut self, index: usize, node: &NodeProto) -> Result<(), QuantizeError> {
        let output = &node.output[0];
        let next = self
            .network
            .consumers(output)
            .iter()
            .map(|node| self.roles[*node]);
        let is_quantized_later = next
            .into_iter()
            .any(|role| matches!(role, Role::Limit | Role::Gate));
        let is_last_gemm = node.op_type == "Gemm" && self.network.is_output(output);
        if is_quantized_later || is_last_gemm {
            return Ok(());
        }
        let affine = if self.roles[index] == Role::Rearrange {
            self.operand(&node.input[0])?.1
        } else {
            self.affine(output)?
        };
        self.pair(output, &self.written(output), affine);
        Ok(())
    }

    /// Returns the name under which a node writes `value` before quantization. This name has a
    /// suffix if `value` is an output of the network that an int8 node other than a Gemm computes,
    /// since the dequantized value keeps the output's own name.
    pub(super) fn written(&self, value: &str) -> String {
        let node = self
            .network
            .producer(value)
            .map(|node| &self.network.nodes()[node]);
        let is_gemm = node.is_some_and(|node| node.op_type == "Gemm");
        if self.network.is_output(value) && self.is_int8(value) && !is_gemm {
            suffixed(value, "raw")
        } else {
            value.to_owned()
        }
    }

    /// Returns the activation range of `value` from the recipe.
    pub(super) fn range(&self, value: &str) -> Result<Range, QuantizeError> {
        let range = self.recipe.ranges.get(value).copied();
        range.ok_or_else(|| QuantizeError::NoRange {
            value: value.to_owned(),
        })
    }

    /// Returns the scale and zero point of `value` for its activation range in the recipe. A
    /// trained scale in the recipe replaces the scale computed from the range.
    pub(super) fn affine(&self, value: &str) -> Result<Affine, QuantizeError> {
        let affine = Affine::covering(self.range(value)?);
        let scale = self.recipe.scales.get(value).copied();
        let scale = scale.unwrap_or(affine.scale);
        Ok(Affine { scale, ..affine })
    }

    /// Returns the name of the dequantized form of `value`, and the scale and zero point of
    /// `value`. Writes the quantized and the dequantized form first if they have not been written.
    pub(super) fn operand(&mut self, value: &str) -> Result<(String, Affine), QuantizeError> {
        if let Some(affine) = self.quantized.get(value).copied() {
            let second = self.seconds.remove(value);
            return Ok((second.unwrap_or_else(|| dequantized(value)), affine));
        }
        let affine = self.affine(value)?;
        let is_input = self.network.inputs().any(|input| input == value);
        let source = if self.recipe.trained && is_input {
            self.scaled_input(value, affine)
        } else {
            self.guarded(value, affine)
        };
        self.pair(value, &source, affine);
        self.second_form(value, affine);
        Ok((dequantized(value), affine))
    }

    /// Returns the name of the value that the `QuantizeLinear` of `value` reads. That is `value`
    /// itself, or a `Max` of `value` if a layer kept in fp32 computed it from an int8 value. The
    /// `Max` clips only elements that quantization would clip, too.
    ///
    /// The `Max` keeps the layer in fp32: ONNX Runtime quantizes the weights of every layer between
    /// `DequantizeLinear` and `QuantizeLinear` (`WeightBiasQuantization`), also if a Relu or Clip
    /// follows the layer.
    fn guarded(&mut self, value: &str, affine: Affine) -> String {
        let producer = |value: &str| {
            let node = self.network.producer(value)?;
            let is_float = self.roles[node] == Role::Float;
            is_float.then(|| (node, &self.network.nodes()[node]))
        };
        let mut found = producer(value);
        if let Some((_, node)) = found
            && matches!(node.op_type.as_str(), "Relu" | "Clip")
        {
            found = producer(&node.input[0]);
        }
        let layer = found.and_then(|(node, _)| self.network.layer_of(node));
        if layer.is_none_or(|layer| !self.is_int8(&layer.input)) {
            return value.to_owned();
        }
        let (least, guarded) = (suffixed(value, "least"), suffixed(value, "guarded"));
        self.float(&least, affine.range().min);
        self.push("Max", "", &[value.to_owned(), least], &guarded, None);
        guarded
    }

    /// Writes a second quantized form of `value`, for its second int8 reader, if an fp32 `MaxPool`
    /// computes `value`.
    ///
    /// With only one `QuantizeLinear` after the `MaxPool`, ONNX Runtime would move it in front of
    /// the `MaxPool`, whose int8 kernel takes thirty times as long as the fp32 kernel behind an
    /// fp32 convolution. It does not move two `QuantizeLinear` with different scales, so the scale
    /// of the second form is larger by one unit in the last place.
    fn second_form(&mut self, value: &str, affine: Affine) {
        let network = self.network;
        let readers = network.consumers(value).iter();
        let integer_readers = readers
            .filter(|node| self.roles[**node] != Role::Float)
            .count();
        let producer = network.producer(value).map(|node| &network.nodes()[node]);
        if integer_readers < 2 || producer.is_none_or(|node| node.op_type != "MaxPool") {
            return;
        }
        let second = suffixed(value, "second");
        let scale = affine.scale.next_up();
        self.pair(&second, value, Affine { scale, ..affine });
        self.quantized.remove(&second);
        self.seconds.insert(value.to_owned(), dequantized(&second));
    }

    /// Writes the quantized and the dequantized form of `value`: a `QuantizeLinear` of the value
    /// `source`, which holds the elements before quantization, and a `DequantizeLinear`.
    pub(super) fn pair(&mut self, value: &str, source: &str, affine: Affine) {
        let scale = scale_of(value);
        let zero_point = self.scalars(&scale, affine);
        let (q, dq) = (quantized(value), dequantized(value));
        let divisor = if self.scaled_values.contains(value) {
            self.one()
        } else {
            scale.clone()
        };
        let inputs = [source.to_owned(), divisor, zero_point.clone()];
        self.push("QuantizeLinear", "", &inputs, &q, None);
        let inputs = [q, scale, zero_point];
        self.push("DequantizeLinear", "", &inputs, &dq, None);
        // If `value` is an output of the network, its own name belongs to the dequantized value.
        if source != value && source == self.written(value) {
            self.push("DequantizeLinear", "", &inputs, value, None);
        }
        self.quantized.insert(value.to_owned(), affine);
    }
}
