//! The nodes of the main graph: how often each operator occurs, and which operators compute the
//! outputs.

use std::collections::BTreeMap;

use super::{Summary, name};
use crate::node::Node;
use crate::wire::{Reader, Value};

/// Maximum number of operators that [`Summary::operators`] counts separately.
pub const MAX_OPERATORS: usize = 1000;
/// Maximum number of outputs whose operators are searched for.
const TRACED: usize = 4;
/// Maximum number of fields of the model, the graph and all nodes, plus one per node, for which trails
/// are searched: each step of a trail reads all of them again.
const MAX_FIELDS: usize = 4 << 20;
/// Maximum number of operators in the trail of an output.
const MAX_TRAIL: usize = 16;
/// Operators that move, copy or convert elements, so that what matters is the operator before them.
const MOVES: [&str; 10] = [
    "Cast",
    "DequantizeLinear",
    "Dropout",
    "Flatten",
    "Identity",
    "QuantizeLinear",
    "Reshape",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
];

impl Node<'_> {
    /// Returns the operator, after its domain unless that is ONNX's own.
    fn shown(&self) -> String {
        let text = |bytes: &[u8]| name(Reader::new(bytes));
        match self.own_operator() {
            Some(operator) => text(operator),
            None => format!("{}.{}", text(self.domain), text(self.operator)),
        }
    }
}

impl Summary {
    /// Counts the nodes by operator, and finds the operators that compute the first outputs.
    pub(super) fn read_nodes(&mut self, model: Reader<'_>) {
        let mut operators: BTreeMap<(&[u8], &[u8]), u64> = BTreeMap::new();
        let mut fields = fields_around_nodes(model);
        for node in nodes(model) {
            self.nodes += 1;
            if fields <= MAX_FIELDS {
                fields += 1 + count(node);
            }
            let node = Node::read(node);
            let key = (node.domain, node.operator);
            if operators.len() < MAX_OPERATORS || operators.contains_key(&key) {
                *operators.entry(key).or_default() += 1;
            }
        }
        for ((domain, operator), count) in operators {
            let node = Node {
                operator,
                domain,
                input: &[],
            };
            *self.operators.entry(node.shown()).or_default() += count;
        }
        if fields > MAX_FIELDS {
            return;
        }
        let outputs = model.messages(7).flat_map(|graph| graph.messages(12));
        for (port, output) in self.outputs.iter_mut().zip(outputs).take(TRACED) {
            let output = output.messages(1).last().map(|text| text.rest());
            port.trail = trail(model, output.unwrap_or_default());
        }
    }
}

/// Returns the number of fields of the model and of the graph, each up to a little above [`MAX_FIELDS`].
fn fields_around_nodes(model: Reader<'_>) -> usize {
    let mut fields = count(model);
    for graph in model.messages(7) {
        if fields > MAX_FIELDS {
            break;
        }
        fields += count(graph);
    }
    fields
}

/// Returns the number of fields of `message`, at most one more than [`MAX_FIELDS`].
fn count(message: Reader<'_>) -> usize {
    message.fields().take(MAX_FIELDS + 1).count()
}

/// Returns the encoded nodes of the main graph, in the order of the file.
fn nodes(model: Reader<'_>) -> impl Iterator<Item = Reader<'_>> {
    model.messages(7).flat_map(|graph| graph.messages(1))
}

/// Returns the operators that compute `value`, from the last one backwards to the first that is not
/// one of [`MOVES`].
///
/// Each step reads all nodes again instead of keeping them: a hostile file can have one node per two
/// bytes.
fn trail(model: Reader<'_>, value: &[u8]) -> Vec<String> {
    let mut trail = Vec::new();
    let mut value = value;
    while trail.len() < MAX_TRAIL && !value.is_empty() {
        let Some(node) = nodes(model).find(|node| computes(*node, value)) else {
            break;
        };
        let node = Node::read(node);
        let operator = node.shown();
        let moves = MOVES.contains(&operator.as_str());
        trail.push(operator);
        if !moves {
            break;
        }
        value = node.input;
    }
    trail
}

/// Returns whether `value` is an output of the encoded `node`.
fn computes(node: Reader<'_>, value: &[u8]) -> bool {
    node.fields()
        .any(|field| matches!(field, (2, Value::Bytes(name)) if name.rest() == value))
}
