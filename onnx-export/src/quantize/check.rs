//! Checks that an ONNX file can be rewritten to int8 without losing or misreading any of its
//! content.

use std::collections::{HashMap, HashSet};

use super::QuantizeError;
use crate::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto,
};

/// Operators that mark a network as quantized already.
const QUANTIZED: &[&str] = &[
    "ConvInteger",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "MatMulInteger",
    "QLinearConv",
    "QLinearMatMul",
    "QuantizeLinear",
];
/// First opset whose `DequantizeLinear` takes one scale per channel.
const MIN_OPSET: i64 = 13;
/// Maximum number of nodes. The rewriting compares nodes that read the same value with each other,
/// so its time may grow with the square of their number. Networks of torchvision have up to 2000.
const MAX_NODES: usize = 1 << 15;

/// Returns whether `domain` is the domain of ONNX's standard operators.
fn is_standard(domain: &str) -> bool {
    matches!(domain, "" | "ai.onnx")
}

/// Returns the opset of the file, which is the version of ONNX's standard operators; 1 if the file
/// does not state it.
pub(super) fn opset(envelope: &ModelProto) -> i64 {
    let sets = &envelope.opset_import;
    let own = sets.iter().find(|set| is_standard(&set.domain));
    own.map_or(1, |set| set.version)
}

/// Renames nodes so that every node has a unique name, since recipes refer to nodes by name. ONNX
/// allows nodes without a name and nodes with equal names.
pub(super) fn name_nodes(graph: &mut GraphProto) {
    let mut taken: HashSet<String> = HashSet::new();
    let given: HashSet<String> = graph.node.iter().map(|node| node.name.clone()).collect();
    for (index, node) in graph.node.iter_mut().enumerate() {
        if node.name.is_empty() || taken.contains(&node.name) {
            node.name = format!("{}_{index}", node.op_type);
            while given.contains(&node.name) || taken.contains(&node.name) {
                node.name.push('_');
            }
        }
        taken.insert(node.name.clone());
    }
}

/// Rejects a file with content that the rewriting to int8 would lose or misread.
///
/// # Errors
/// [`QuantizeError::Quantized`] if the network is quantized already, [`QuantizeError::Unsupported`]
/// for any other content that cannot be rewritten.
pub(super) fn check(envelope: &ModelProto, graph: &GraphProto) -> Result<(), QuantizeError> {
    if graph.node.len() > MAX_NODES {
        let found = format!("has {} nodes", graph.node.len());
        return unsupported("the file", found, "at most 32768 nodes");
    }
    for node in &graph.node {
        check_node(node)?;
    }
    if !envelope.functions.is_empty() {
        let found = "defines functions";
        return unsupported("the file", found, "a file without functions");
    }
    if !envelope.training_info.is_empty() {
        let found = "holds training information";
        return unsupported("the file", found, "a file for inference");
    }
    if !graph.sparse_initializer.is_empty() {
        let found = "holds sparse initializers";
        return unsupported("the file", found, "dense initializers");
    }
    if !graph.quantization_annotation.is_empty() {
        let found = "holds quantization annotations";
        return unsupported("the file", found, "an fp32 network");
    }
    let opset = opset(envelope);
    if opset < MIN_OPSET {
        let found = format!("uses opset {opset}");
        return unsupported(
            "the file",
            found,
            "opset 13 or later, where DequantizeLinear takes one scale per channel",
        );
    }
    for tensor in &graph.initializer {
        check_tensor(&format!("initializer `{}`", tensor.name), tensor)?;
    }
    for value in graph.input.iter().chain(&graph.output) {
        check_type(value)?;
    }
    check_order(graph)
}

fn check_node(node: &NodeProto) -> Result<(), QuantizeError> {
    let NodeProto {
        name, op_type: op, ..
    } = node;
    if QUANTIZED.contains(&op.as_str()) {
        let (node, op) = (name.clone(), op.clone());
        return Err(QuantizeError::Quantized { node, op });
    }
    let item = format!("node `{name}`");
    if !is_standard(&node.domain) {
        let found = format!("is a {}::{op}", node.domain);
        return unsupported(item, found, "an operator of ONNX's standard domain");
    }
    if !node.device_configurations.is_empty() {
        let found = "is divided among devices";
        return unsupported(item, found, "a network for one device");
    }
    for attribute in &node.attribute {
        check_attribute(&item, attribute)?;
    }
    Ok(())
}

/// Rejects attributes whose content the rewriting does not read: subgraphs, lists of tensors,
/// sparse tensors, types, and references to the attributes of a function.
fn check_attribute(node: &str, attribute: &AttributeProto) -> Result<(), QuantizeError> {
    let item = format!("{node}: attribute `{}`", attribute.name);
    if attribute.g.is_some() || !attribute.graphs.is_empty() {
        return unsupported(item, "holds a subgraph", "a network without subgraphs");
    }
    let held = [
        (!attribute.tensors.is_empty(), "a list of tensors"),
        (attribute.sparse_tensor.is_some(), "a sparse tensor"),
        (!attribute.sparse_tensors.is_empty(), "sparse tensors"),
        (attribute.tp.is_some(), "a type"),
        (!attribute.type_protos.is_empty(), "types"),
        (
            !attribute.ref_attr_name.is_empty(),
            "a reference to a function's attribute",
        ),
    ];
    if let Some((_, held)) = held.into_iter().find(|(is_held, _)| *is_held) {
        let expected = "integers, floats, strings or one dense tensor";
        return unsupported(item, format!("holds {held}"), expected);
    }
    match &attribute.t {
        Some(tensor) => check_tensor(&item, tensor),
        None => Ok(()),
    }
}

/// Rejects tensors whose elements are in a segment, or in a field other than `raw_data`,
/// `float_data`, `int32_data` and `int64_data`. `item` is the tensor's name in the error.
/// `Network::read` has rejected tensors whose elements are in another file.
fn check_tensor(item: &str, tensor: &TensorProto) -> Result<(), QuantizeError> {
    let fields = [
        (!tensor.double_data.is_empty(), "double_data"),
        (!tensor.uint64_data.is_empty(), "uint64_data"),
        (!tensor.string_data.is_empty(), "string_data"),
        (tensor.segment.is_some(), "segment"),
    ];
    if let Some((_, field)) = fields.into_iter().find(|(is_used, _)| *is_used) {
        let expected = "`raw_data`, `float_data`, `int32_data` or `int64_data`";
        return unsupported(item, format!("has its elements in `{field}`"), expected);
    }
    Ok(())
}

/// Rejects an input or output of the network that is not a dense tensor.
fn check_type(value: &ValueInfoProto) -> Result<(), QuantizeError> {
    let Some(kind) = &value.r#type else {
        return Ok(());
    };
    let types = [
        (kind.sequence_type.is_some(), "a sequence"),
        (kind.map_type.is_some(), "a map"),
        (kind.sparse_tensor_type.is_some(), "a sparse tensor"),
        (kind.optional_type.is_some(), "an optional value"),
        (kind.opaque_type.is_some(), "an opaque value"),
    ];
    if let Some((_, found)) = types.into_iter().find(|(is_used, _)| *is_used) {
        let item = format!("value `{}`", value.name);
        return unsupported(item, format!("is {found}"), "a dense tensor");
    }
    Ok(())
}

/// Checks that every value of the graph is written only once, and before any node reads it. An
/// initializer may have the name of an input, whose default it then is.
///
/// # Errors
/// [`QuantizeError::Unsupported`] names the first initializer or value that is written twice, or
/// the first node that reads a value too early.
pub(super) fn check_order(graph: &GraphProto) -> Result<(), QuantizeError> {
    const EXPECTED: &str = "every value written once, before it is read";
    let mut writers = HashMap::new();
    for tensor in &graph.initializer {
        if writers.insert(tensor.name.as_str(), 0).is_some() {
            let item = format!("initializer `{}`", tensor.name);
            return unsupported(item, "has the name of another initializer", EXPECTED);
        }
    }
    for input in &graph.input {
        writers.entry(&input.name).or_insert(0);
    }
    for (index, node) in graph.node.iter().enumerate() {
        for output in node.output.iter().filter(|name| !name.is_empty()) {
            if writers.insert(output, index + 1).is_some() {
                let item = format!("value `{output}`");
                return unsupported(item, "is written twice", EXPECTED);
            }
        }
    }
    for (index, node) in graph.node.iter().enumerate() {
        let is_late = |input: &&String| {
            let writer = writers.get(input.as_str());
            writer.is_some_and(|writer| *writer > index)
        };
        if let Some(input) = node.input.iter().find(is_late) {
            let item = format!("node `{}`", node.name);
            let found = format!("reads `{input}` before it is written");
            return unsupported(item, found, EXPECTED);
        }
    }
    Ok(())
}

fn unsupported<T>(
    item: impl Into<String>,
    found: impl Into<String>,
    expected: &'static str,
) -> Result<T, QuantizeError> {
    Err(QuantizeError::Unsupported {
        item: item.into(),
        found: found.into(),
        expected,
    })
}
