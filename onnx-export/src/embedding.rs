//! The pooled features of a classification network, which describe an image without regard to the classes, as an output
//! of the network.

use std::borrow::Cow;

use prost::Message;

use crate::node::Node;
use crate::proto::{GraphProto, ModelProto, NodeProto, ValueInfoProto};
use crate::wire::{Reader, Value};

/// Name of the output with the pooled features.
pub const EMBEDDING: &str = "embedding";

/// Maximum number of operators between the features and the logits, and of those that move the features.
const MAX_STEPS: usize = 64;
/// Maximum number of fields of the graph and of its nodes: each step reads all of them again.
const MAX_FIELDS: usize = 1 << 20;
/// Operators that reduce a feature map to the features.
const POOLS: [&[u8]; 5] = [
    b"AveragePool",
    b"GlobalAveragePool",
    b"GlobalMaxPool",
    b"MaxPool",
    b"ReduceMean",
];
/// Operators that move, copy or convert the features.
const MOVES: [&[u8]; 9] = [
    b"Cast",
    b"DequantizeLinear",
    b"Dropout",
    b"Flatten",
    b"Identity",
    b"QuantizeLinear",
    b"Reshape",
    b"Squeeze",
    b"Unsqueeze",
];

/// Returns the classification network `model` with its pooled features as the output [`EMBEDDING`]. `model` is an ONNX
/// file of any origin.
///
/// The features are the value `embedding` of the graph, if it has one. Else they are the value that the classifier
/// reads: its operators are followed backwards from the first output, or from the output `logits`, to the operator that
/// pools. `None` if the graph has no pooling before a classifier, as a vision transformer, or cannot be read.
///
/// The data type and the shape of the features are not checked.
pub fn with_embedding(model: &[u8]) -> Option<Cow<'_, [u8]>> {
    let reader = Reader::new(model);
    if is_too_long(reader) {
        return None;
    }
    let name = EMBEDDING.as_bytes();
    let mut graph = GraphProto::default();
    if outputs(reader).any(|output| output == name) {
        return Some(Cow::Borrowed(model));
    }
    if producer(reader, name).is_none() {
        let features = std::str::from_utf8(features(reader)?).ok()?.to_owned();
        graph.node.push(NodeProto {
            op_type: "Identity".to_owned(),
            name: EMBEDDING.to_owned(),
            input: vec![features],
            output: vec![EMBEDDING.to_owned()],
            ..NodeProto::default()
        });
    }
    // ONNX Runtime infers the type.
    graph.output.push(ValueInfoProto {
        name: EMBEDDING.to_owned(),
        ..ValueInfoProto::default()
    });
    let addition = ModelProto {
        graph: Some(graph),
        ..ModelProto::default()
    };
    // Protobuf merges a second graph into the first, so the file is not written again.
    let mut extended = Vec::with_capacity(model.len() + addition.encoded_len());
    extended.extend_from_slice(model);
    extended.extend(addition.encode_to_vec());
    Some(Cow::Owned(extended))
}

/// Returns whether the graph has so many fields that it is not searched.
fn is_too_long(model: Reader<'_>) -> bool {
    let inner = |message: Reader<'_>| 1 + message.fields().take(MAX_FIELDS).count();
    let mut fields = 0;
    for graph in model.messages(7) {
        for (number, value) in graph.fields() {
            fields += match (number, value) {
                (1 | 12, Value::Bytes(message)) => inner(message),
                _ => 1,
            };
            if fields > MAX_FIELDS {
                return true;
            }
        }
    }
    false
}

/// Returns the name of the value that the classifier reads.
fn features(model: Reader<'_>) -> Option<&[u8]> {
    let mut value = outputs(model)
        .find(|output| *output == b"logits")
        .or_else(|| outputs(model).next())?;
    let mut read = None;
    for _ in 0..MAX_STEPS {
        let node = Node::read(producer(model, value)?);
        let operator = node.own_operator()?;
        if POOLS.contains(&operator) {
            return read;
        }
        if !MOVES.contains(&operator) {
            read = Some(node.input);
        }
        value = node.input;
    }
    None
}

/// Returns the names of the outputs of the graph.
fn outputs(model: Reader<'_>) -> impl Iterator<Item = &[u8]> {
    let outputs = model.messages(7).flat_map(|graph| graph.messages(12));
    outputs.filter_map(|output| output.messages(1).last().map(|name| name.rest()))
}

/// Returns the encoded node that computes `value`. `None` if `value` is an input or an initializer.
fn producer<'a>(model: Reader<'a>, value: &[u8]) -> Option<Reader<'a>> {
    let mut nodes = model.messages(7).flat_map(|graph| graph.messages(1));
    nodes.find(|node| node.messages(2).any(|output| output.rest() == value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(operator: &str, input: &str, output: &str) -> NodeProto {
        NodeProto {
            op_type: operator.to_owned(),
            input: vec![input.to_owned(), "weights".to_owned()],
            output: vec![output.to_owned()],
            ..NodeProto::default()
        }
    }

    /// Returns a file of the operators `chain`, each of which reads the value of the one before: `0`, `1` and so on. The
    /// last value is the output.
    fn model(chain: &[&str]) -> Vec<u8> {
        let nodes = chain.iter().enumerate();
        let node = |(index, operator): (usize, &&str)| {
            node(operator, &index.to_string(), &(index + 1).to_string())
        };
        file(nodes.map(node).collect(), &[&chain.len().to_string()])
    }

    fn file(node: Vec<NodeProto>, outputs: &[&str]) -> Vec<u8> {
        let output = |name: &&str| ValueInfoProto {
            name: (*name).to_owned(),
            ..ValueInfoProto::default()
        };
        let graph = GraphProto {
            node,
            output: outputs.iter().map(output).collect(),
            ..GraphProto::default()
        };
        let model = ModelProto {
            ir_version: 10,
            graph: Some(graph),
            ..ModelProto::default()
        };
        model.encode_to_vec()
    }

    /// Returns the names of the outputs, and the value that the added node copies.
    fn extended(model: &[u8]) -> Option<(Vec<String>, Option<String>)> {
        let extended = ModelProto::decode(&*with_embedding(model)?).unwrap();
        assert_eq!(extended.ir_version, 10);
        let graph = extended.graph.unwrap();
        let outputs = graph.output.into_iter().map(|output| output.name).collect();
        let added = graph
            .node
            .into_iter()
            .find(|node| node.op_type == "Identity");
        Some((outputs, added.map(|node| node.input[0].clone())))
    }

    #[test]
    fn the_embedding_is_what_the_classifier_reads() {
        let cases: [(&[&str], Option<&str>); 9] = [
            (&["Conv", "GlobalAveragePool", "Flatten", "Gemm"], Some("3")),
            (
                &[
                    "Conv",
                    "ReduceMean",
                    "Flatten",
                    "Gemm",
                    "HardSwish",
                    "Gemm",
                    "Softmax",
                ],
                Some("3"),
            ),
            (
                &[
                    "ReduceMean",
                    "QuantizeLinear",
                    "DequantizeLinear",
                    "Flatten",
                    "QuantizeLinear",
                    "DequantizeLinear",
                    "Gemm",
                ],
                Some("6"),
            ),
            (
                &["MaxPool", "Flatten", "Gemm", "Relu", "Dropout", "Gemm"],
                Some("2"),
            ),
            // The classes are pooled, and nothing reads features.
            (&["Conv", "GlobalAveragePool", "Flatten"], None),
            // A vision transformer.
            (
                &["Conv", "Add", "LayerNormalization", "Gather", "Gemm"],
                None,
            ),
            (&["Gemm"], None),
            (&["GlobalAveragePool", "Own", "Gemm"], Some("1")),
            (&[], None),
        ];
        for (chain, expected) in cases {
            let found = extended(&model(chain));
            let last = chain.len().to_string();
            let expected =
                expected.map(|value| (vec![last, EMBEDDING.to_owned()], Some(value.to_owned())));
            assert_eq!(found, expected, "{chain:?}");
        }
    }

    #[test]
    fn a_value_with_the_name_is_the_embedding() {
        let nodes = || {
            vec![
                node("Relu", "x", EMBEDDING),
                node("Gemm", EMBEDDING, "logits"),
            ]
        };
        let outputs = vec!["logits".to_owned(), EMBEDDING.to_owned()];
        let hidden = file(nodes(), &["logits"]);
        assert_eq!(extended(&hidden), Some((outputs.clone(), None)));
        let shown = file(nodes(), &["logits", EMBEDDING]);
        assert_eq!(extended(&shown), Some((outputs, None)));
        assert!(matches!(with_embedding(&shown), Some(Cow::Borrowed(_))));
    }

    #[test]
    fn hostile_files_have_no_embedding() {
        let endless = file(vec![node("Relu", "x", "x")], &["x"]);
        let mut own = node("GlobalAveragePool", "x", "y");
        own.domain = "com.example".to_owned();
        let own = file(vec![own, node("Gemm", "y", "z")], &["z"]);
        let long = file(vec![NodeProto::default(); MAX_FIELDS], &["x"]);
        for model in [&b"no protobuf"[..], b"", &endless, &own, &long] {
            assert!(with_embedding(model).is_none());
        }
    }
}
