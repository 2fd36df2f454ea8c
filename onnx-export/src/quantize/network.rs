//! An fp32 network, indexed by values and nodes for calibration and for rewriting to int8.

use std::collections::{HashMap, HashSet};

use prost::Message;

use super::QuantizeError;
use super::check::{check, name_nodes, opset};
use crate::external::reject_external_data;
use crate::proto::{
    AttributeProto, FLOAT, GraphProto, INT64, ModelProto, NodeProto, reject_unknown_fields,
};
use crate::read::{GraphReadError, WeightTensor, weight_tensor};

/// A Conv or Gemm with constant weights, which can run in int8. Layers take most of the time of an
/// inference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// Name of the node.
    pub name: String,
    /// Whether the node is a Conv, which reads `[N, C, H, W]`; if `false`, it is a Gemm, which
    /// reads `[N, C]`.
    pub is_conv: bool,
    /// Number of groups of a Conv; 1 for a Gemm.
    pub groups: usize,
    /// Name of the value that the layer reads.
    pub input: String,
    /// Name of the value that the layer writes.
    pub output: String,
    /// Number of multiplications for one element of the output.
    pub multiplications: usize,
    /// Number of elements of the weight.
    pub weights: usize,
    /// Name of the initializer that holds the weight.
    pub(crate) weight: String,
    /// Name of the initializer that holds the bias. `None` if the layer has no bias.
    pub(super) bias: Option<String>,
    /// Index of the node in the list of the network's nodes.
    pub(crate) node: usize,
}

/// The fp32 network of one ONNX file.
#[derive(Debug, Clone)]
pub struct Network {
    /// The content of the ONNX file without its graph.
    envelope: ModelProto,
    graph: GraphProto,
    weights: HashMap<String, WeightTensor>,
    layers: Vec<Layer>,
    producers: HashMap<String, usize>,
    consumers: HashMap<String, Vec<usize>>,
    /// Index of each initializer by its name.
    constants: HashMap<String, usize>,
    outputs: HashSet<String>,
}

impl Network {
    /// Reads an fp32 ONNX file.
    ///
    /// # Errors
    /// [`QuantizeError::Read`] if the bytes are not an ONNX file or a tensor's elements do not match its shape,
    /// [`QuantizeError::External`] if a tensor has its elements in another file or the bytes cannot be searched for
    /// such tensors, [`QuantizeError::Unknown`] for a field that rewriting would lose, [`QuantizeError::Quantized`] for
    /// an int8 network, [`QuantizeError::Unsupported`] for content that cannot be rewritten (subgraphs, functions,
    /// operators of other domains, sparse tensors, tensors in fields such as `double_data`), and
    /// [`QuantizeError::NoLayers`] if there is no layer to quantize.
    pub fn read(bytes: &[u8]) -> Result<Self, QuantizeError> {
        reject_external_data(bytes)?;
        reject_unknown_fields(bytes)?;
        let mut envelope = ModelProto::decode(bytes).map_err(GraphReadError::from)?;
        let mut graph = envelope.graph.take().unwrap_or_default();
        name_nodes(&mut graph);
        check(&envelope, &graph)?;
        let constants = graph.initializer.iter().enumerate();
        let constants: HashMap<String, usize> = constants
            .map(|(index, tensor)| (tensor.name.clone(), index))
            .collect();
        // Files before ONNX IR version 4 list initializers as inputs, too.
        graph
            .input
            .retain(|input| !constants.contains_key(&input.name));
        let weights = float_tensors(&graph)?;
        let (mut producers, mut consumers) = (HashMap::new(), HashMap::<_, Vec<_>>::new());
        for (index, node) in graph.node.iter().enumerate() {
            for output in &node.output {
                producers.insert(output.clone(), index);
            }
            for input in node.input.iter().filter(|name| !name.is_empty()) {
                consumers.entry(input.clone()).or_default().push(index);
            }
        }
        let nodes = graph.node.iter().enumerate();
        let layers: Vec<Layer> = nodes
            .filter_map(|(index, node)| layer(index, node, &weights))
            .collect();
        if layers.is_empty() {
            return Err(QuantizeError::NoLayers);
        }
        let outputs = graph.output.iter().map(|value| value.name.clone());
        Ok(Self {
            constants,
            outputs: outputs.collect(),
            envelope,
            graph,
            weights,
            layers,
            producers,
            consumers,
        })
    }

    /// Returns the layers that can be quantized, in the order in which they run.
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// Returns the names of the network's inputs, in order.
    pub fn inputs(&self) -> impl Iterator<Item = &str> {
        self.graph.input.iter().map(|value| value.name.as_str())
    }

    /// Returns the names of the network's outputs, in order.
    pub fn outputs(&self) -> impl Iterator<Item = &str> {
        self.graph.output.iter().map(|value| value.name.as_str())
    }

    pub(super) fn graph(&self) -> &GraphProto {
        &self.graph
    }

    pub(crate) fn nodes(&self) -> &[NodeProto] {
        &self.graph.node
    }

    /// Returns the layer of the node at index `node`. `None` if that node is not a layer.
    pub(crate) fn layer_of(&self, node: usize) -> Option<&Layer> {
        let found = self.layers.binary_search_by_key(&node, |layer| layer.node);
        found.ok().map(|index| &self.layers[index])
    }

    /// Returns the index of the node that writes `value`. `None` if `value` is an input or a
    /// constant of the network.
    pub(crate) fn producer(&self, value: &str) -> Option<usize> {
        self.producers.get(value).copied()
    }

    /// Returns the indices of the nodes that read `value`, in the order in which they run.
    pub(crate) fn consumers(&self, value: &str) -> &[usize] {
        self.consumers.get(value).map_or(&[], Vec::as_slice)
    }

    /// Returns whether the result of the hard sigmoid `gate` is multiplied by the operand of
    /// `gate`, which makes a hard swish.
    pub(crate) fn is_swish(&self, gate: &NodeProto) -> bool {
        let (Some(x), Some(gated)) = (gate.input.first(), gate.output.first()) else {
            return false;
        };
        let readers = self.consumers(gated).iter();
        let mut readers = readers.map(|index| &self.nodes()[*index]);
        readers.any(|node| node.op_type == "Mul" && node.input.contains(x))
    }

    pub(super) fn weight(&self, name: &str) -> Option<&WeightTensor> {
        self.weights.get(name)
    }

    /// Returns whether `value` is an input or a constant of the network, or the output of a node.
    pub(super) fn has(&self, value: &str) -> bool {
        self.is_constant(value)
            || self.producers.contains_key(value)
            || self.inputs().any(|input| input == value)
    }

    pub(super) fn is_constant(&self, value: &str) -> bool {
        self.constants.contains_key(value)
    }

    /// Returns the elements of the int64 initializer `name`. Empty if the network has no int64
    /// initializer of this name.
    pub(super) fn int64_values(&self, name: &str) -> Vec<i64> {
        let found = self.constants.get(name).copied();
        let found = found.and_then(|index| self.graph.initializer.get(index));
        let Some(tensor) = found.filter(|tensor| tensor.data_type == INT64) else {
            return Vec::new();
        };
        let (raw, _) = tensor.raw_data.as_chunks::<8>();
        let raw = raw.iter().map(|bytes| i64::from_le_bytes(*bytes));
        raw.chain(tensor.int64_data.iter().copied()).collect()
    }

    pub(super) fn is_output(&self, value: &str) -> bool {
        self.outputs.contains(value)
    }

    pub(super) fn opset(&self) -> i64 {
        opset(&self.envelope)
    }

    /// Returns the bytes of the ONNX file with `graph` in place of the network's own graph.
    pub(super) fn with_graph(&self, graph: GraphProto) -> Vec<u8> {
        let mut model = self.envelope.clone();
        model.graph = Some(graph);
        model.encode_to_vec()
    }
}

/// Returns the f32 initializers of `graph` by name.
fn float_tensors(graph: &GraphProto) -> Result<HashMap<String, WeightTensor>, QuantizeError> {
    let floats = graph
        .initializer
        .iter()
        .filter(|tensor| tensor.data_type == FLOAT);
    let read = floats.map(|tensor| {
        let mut tensor = tensor.clone();
        let mut raw_data = std::mem::take(&mut tensor.raw_data);
        if raw_data.is_empty() {
            let bytes = tensor.float_data.iter().flat_map(|v| v.to_le_bytes());
            raw_data = bytes.collect();
        }
        Ok((tensor.name.clone(), weight_tensor(tensor, &raw_data)?))
    });
    read.collect()
}

/// Returns the layer of the node at `index`. `None` if the node is neither a Conv over two spatial
/// axes nor a Gemm like torch's `Linear`, if its weight is not an f32 initializer with elements, or
/// if its bias is not an f32 initializer with one element per output channel.
fn layer(index: usize, node: &NodeProto, weights: &HashMap<String, WeightTensor>) -> Option<Layer> {
    let is_conv = match node.op_type.as_str() {
        "Conv" => true,
        "Gemm" if is_linear(node) => false,
        _ => return None,
    };
    let [input, weight, rest @ ..] = node.input.as_slice() else {
        return None;
    };
    let bias = rest.first().filter(|name| !name.is_empty()).cloned();
    let weight_tensor = weights.get(weight)?;
    let shape = &weight_tensor.shape;
    if weight_tensor.data.is_empty() || shape.len() != if is_conv { 4 } else { 2 } {
        return None;
    }
    // A Gemm may broadcast its bias, but only a bias of one element per output channel can be
    // quantized.
    let bias_fits = |bias| weights.get(bias).is_some_and(|b| b.shape == shape[..1]);
    if !bias.as_ref().is_none_or(bias_fits) {
        return None;
    }
    let group = node.attribute("group");
    let groups = group
        .and_then(|a| a.i)
        .and_then(|n| usize::try_from(n).ok());
    Some(Layer {
        name: node.name.clone(),
        is_conv,
        groups: groups.unwrap_or(1).max(1),
        input: input.clone(),
        output: node.output.first()?.clone(),
        multiplications: shape[1..].iter().map(|size| *size as usize).product(),
        weights: weight_tensor.data.len(),
        weight: weight.clone(),
        bias,
        node: index,
    })
}

/// Returns whether a Gemm computes `x * W^T + b` as in `torch.nn.Linear`, where `W` has one row per
/// output channel.
fn is_linear(node: &NodeProto) -> bool {
    node.attribute.iter().all(|attribute| {
        let AttributeProto { name, f, i, .. } = attribute;
        match name.as_str() {
            "transB" => *i == Some(1),
            "transA" => i.is_none_or(|i| i == 0),
            "alpha" | "beta" => f.is_none_or(|f| f == 1.0),
            _ => false,
        }
    }) && node
        .attribute
        .iter()
        .any(|attribute| attribute.name == "transB")
}
