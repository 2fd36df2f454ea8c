//! Chooses which nodes compute in int8, and how. The int8 nodes are the layers that are not kept in
//! fp32, and nodes between these layers.

use std::collections::BTreeSet;

use super::{Network, Recipe};
use crate::proto::NodeProto;

/// How a node of the fp32 network is written in the quantized network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// A node that computes in fp32.
    Float,
    /// A Conv or Gemm in int8.
    Layer,
    /// A Relu or Clip that is the only reader of an int8 node's result. Quantizing the output of
    /// the Relu or Clip clips as the node does, since the quantized range ends at the node's
    /// limits.
    Limit,
    /// A hard sigmoid of an int8 value, written as a requantization that saturates as the hard
    /// sigmoid does.
    Gate,
    /// The hard sigmoid inside a hard swish of a network with trained scales. Only the result of
    /// the hard swish is rounded, so the hard sigmoid is written together with the product.
    Step,
    /// An int8 node that moves or selects elements, so that its output has the scale of its input.
    Rearrange,
    /// An int8 node of any other operator, such as a sum, a product or a mean.
    Arithmetic,
}

/// Returns the role of every node of `network` when it is quantized by `recipe`.
pub(super) fn roles(network: &Network, recipe: &Recipe) -> Vec<Role> {
    let mut roles = Vec::with_capacity(network.nodes().len());
    // Nodes are in topological order, so the roles of the nodes that compute an operand are known.
    for (index, node) in network.nodes().iter().enumerate() {
        let role = match network.layer_of(index) {
            Some(layer) if !recipe.float_layers.contains(&layer.name) => Role::Layer,
            Some(_) => Role::Float,
            None => between(network, node, &roles, recipe.trained),
        };
        roles.push(role);
    }
    roles
}

/// Returns the role of a node between layers, which depends on whether int8 nodes compute its
/// operands. `roles` are those of the nodes before it; `trained` is [`Recipe::trained`].
fn between(network: &Network, node: &NodeProto, roles: &[Role], trained: bool) -> Role {
    let operands = node.input.iter().filter(|name| !name.is_empty());
    let (constants, values): (Vec<&String>, Vec<&String>) =
        operands.partition(|name| network.is_constant(name));
    let is_int8 = |value: &&String| {
        network
            .producer(value)
            .is_some_and(|node| roles[node] != Role::Float)
    };
    // An fp32 value that an earlier int8 layer reads is quantized for that layer, so a sum can read
    // the quantized form, too. An example is the residual after an fp32 stem.
    let is_quantized = |value: &&String| {
        let mut readers = network.consumers(value).iter();
        is_int8(value) || readers.any(|reader| roles.get(*reader) == Some(&Role::Layer))
    };
    let is_sum = node.op_type == "Add" && values.iter().any(is_int8);
    let ready = values.iter().all(is_int8) || (is_sum && values.iter().all(is_quantized));
    // A node with several outputs stays fp32, since ONNX Runtime's integer kernels have one output.
    if values.is_empty() || !ready || node.output.len() != 1 {
        return Role::Float;
    }
    let alone = values
        .first()
        .is_some_and(|x| network.consumers(x).len() == 1);
    match node.op_type.as_str() {
        "Relu" | "Clip" if alone && !network.is_output(values[0]) => Role::Limit,
        "HardSigmoid" if trained => trained_gate(network, node),
        "HardSigmoid" if is_torch_gate(node) && only_swish_reads(network, node) => Role::Gate,
        "Flatten" | "MaxPool" => Role::Rearrange,
        // Scores with steps of 1/256 would lose what tells the small ones apart.
        "Sigmoid" if network.is_output(&node.output[0]) => Role::Float,
        "Add" | "Mul" | "Concat" | "GlobalAveragePool" | "Sigmoid" if constants.is_empty() => {
            Role::Arithmetic
        }
        "ReduceMean" if averages_pixels(network, node) => Role::Arithmetic,
        _ => Role::Float,
    }
}

/// Returns whether a `HardSigmoid` computes `clip(x / 6 + 1/2, 0, 1)`, as torch's hard sigmoid
/// does.
fn is_torch_gate(node: &NodeProto) -> bool {
    let float = |name: &str| node.attribute(name).and_then(|attribute| attribute.f);
    float("alpha").is_some_and(|alpha| (alpha - 1.0 / 6.0).abs() < 1e-6)
        && float("beta").is_none_or(|beta| beta == 0.5)
}

/// Returns whether the operand of the hard sigmoid `gate` is read only by `gate` and by products
/// with the result of `gate`, so that elements of the operand below -3 may be clipped. `false` if
/// the operand or the result is an output of the network, which must not be clipped.
fn only_swish_reads(network: &Network, gate: &NodeProto) -> bool {
    let (x, gated) = (&gate.input[0], &gate.output[0]);
    let reads = |index: &usize| {
        let node = &network.nodes()[*index];
        node.name == gate.name || (node.op_type == "Mul" && node.input.contains(gated))
    };
    let outputs = [x, gated].map(|value| network.is_output(value));
    outputs == [false; 2] && network.consumers(x).iter().all(reads)
}

/// Returns the role of the hard sigmoid `gate` in a network with trained scales. A hard sigmoid
/// inside a hard swish is not quantized, since torch rounds only the result of the hard swish.
fn trained_gate(network: &Network, gate: &NodeProto) -> Role {
    let gated = &gate.output[0];
    let alone = network.consumers(gated).len() == 1 && !network.is_output(gated);
    match network.is_swish(gate) {
        false => Role::Arithmetic,
        true if alone && is_torch_gate(gate) => Role::Step,
        true => Role::Float,
    }
}

/// Returns whether a `ReduceMean` is a global average pooling: a mean over height and width that
/// keeps both axes with size 1.
fn averages_pixels(network: &Network, node: &NodeProto) -> bool {
    let kept = node.attribute("keepdims").and_then(|a| a.i).unwrap_or(1) == 1;
    let axes = match (node.attribute("axes"), node.input.get(1)) {
        (Some(axes), _) => axes.ints.clone(),
        (None, Some(axes)) => network.int64_values(axes),
        (None, None) => Vec::new(),
    };
    kept && matches!(axes.as_slice(), [2, 3] | [-2, -1])
}

/// Returns the names of all values that are quantized for at least one choice of the layers kept in
/// fp32.
pub(super) fn quantizable_values(network: &Network) -> BTreeSet<String> {
    let roles = roles(network, &Recipe::default());
    let mut values = BTreeSet::new();
    let inputs = network.layers().iter().map(|layer| layer.input.clone());
    values.extend(inputs);
    for (node, role) in network.nodes().iter().zip(roles) {
        if role != Role::Float {
            values.extend(node.output.iter().cloned());
        }
    }
    values
}
