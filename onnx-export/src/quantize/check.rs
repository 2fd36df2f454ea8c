//! What a file must be to be taken apart and put together again.

use std::collections::{HashMap, HashSet};

use super::QuantizeError;
use crate::proto::{GraphProto, ModelProto, NodeProto};

/// Operators of networks that are in int8 already.
const QUANTIZED: &[&str] = &[
    "ConvInteger",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "MatMulInteger",
    "QLinearConv",
    "QLinearMatMul",
    "QuantizeLinear",
];
/// The first opset with one scale a channel.
const MIN_OPSET: i64 = 13;

/// Names of ONNX's own operators.
fn is_standard(domain: &str) -> bool {
    matches!(domain, "" | "ai.onnx")
}

/// The version of ONNX's own operators.
pub(super) fn opset(envelope: &ModelProto) -> i64 {
    let sets = &envelope.opset_import;
    let own = sets.iter().find(|set| is_standard(&set.domain));
    own.map_or(1, |set| set.version)
}

/// Recipes name layers, so every node needs a name of its own; files need not give one.
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

/// Refuses what would be lost or wrong in another file.
pub(super) fn check(envelope: &ModelProto, graph: &GraphProto) -> Result<(), QuantizeError> {
    for node in &graph.node {
        let NodeProto {
            name, op_type: op, ..
        } = node;
        if QUANTIZED.contains(&op.as_str()) {
            let (node, op) = (name.clone(), op.clone());
            return Err(QuantizeError::Quantized { node, op });
        }
        if !is_standard(&node.domain) {
            return unsupported(format!("node `{name}`, {}::{op},", node.domain));
        }
        if node.attribute.iter().any(|attribute| attribute.g.is_some()) {
            return unsupported(format!("node `{name}`, {op} with a graph inside,"));
        }
    }
    if !envelope.functions.is_empty() {
        return unsupported("a file with functions".to_owned());
    }
    if !graph.sparse_initializer.is_empty() {
        return unsupported("a file with sparse tensors".to_owned());
    }
    if opset(envelope) < MIN_OPSET {
        return unsupported("an opset before 13, which has no scales for each channel,".to_owned());
    }
    let outside = graph
        .initializer
        .iter()
        .find(|tensor| tensor.data_location != 0);
    if let Some(tensor) = outside {
        return unsupported(format!("tensor `{}`, kept in another file,", tensor.name));
    }
    check_order(graph)
}

/// Every value is written once, and before it is read.
pub(super) fn check_order(graph: &GraphProto) -> Result<(), QuantizeError> {
    let mut writers = HashMap::new();
    for tensor in &graph.initializer {
        if writers.insert(tensor.name.as_str(), 0).is_some() {
            return unsupported(format!("tensor `{}`, which is there twice,", tensor.name));
        }
    }
    for (index, node) in graph.node.iter().enumerate() {
        for output in node.output.iter().filter(|name| !name.is_empty()) {
            if writers.insert(output, index + 1).is_some() {
                return unsupported(format!("value `{output}`, which is written twice,"));
            }
        }
    }
    for (index, node) in graph.node.iter().enumerate() {
        let late = |input: &&String| {
            let writer = writers.get(input.as_str());
            writer.is_some_and(|writer| *writer > index)
        };
        if let Some(input) = node.input.iter().find(late) {
            let name = &node.name;
            return unsupported(format!(
                "node `{name}`, which reads `{input}` before it is written,"
            ));
        }
    }
    Ok(())
}

fn unsupported<T>(what: String) -> Result<T, QuantizeError> {
    Err(QuantizeError::Unsupported { what })
}
