//! Where floats become 8-bit numbers: from ONNX Runtime's blocked layout to channels-last ones.

use super::graph::{Lowering, Steps};
use super::{QUANTIZE, attribute, number};
use crate::proto::NodeProto;

/// The permutation to channels-last.
const LAST: [i64; 4] = [0, 2, 3, 1];

/// Replaces `ReorderOutput -> QuantizeLinear -> Transpose`, which goes through `[N, C, H, W] f32`.
pub(super) fn replace(nodes: &mut Lowering) {
    for index in 0..nodes.nodes.len() {
        let Some((quantize, transpose, node)) = chain(nodes, index) else {
            continue;
        };
        nodes.take(quantize);
        nodes.take(transpose);
        nodes.put(index, node);
    }
}

/// The indices of the two nodes behind a `ReorderOutput`, and the node for all three.
fn chain(nodes: &Lowering, index: usize) -> Option<(usize, usize, NodeProto)> {
    let reorder = nodes.nodes[index].as_ref()?;
    if reorder.op_type != "ReorderOutput" || attribute(reorder, "channels_last")?.i != Some(0) {
        return None;
    }
    let next = |node: &NodeProto, op: &str| {
        let index = nodes.sole_reader(node.output.first()?)?;
        let node = nodes.nodes[index].as_ref()?;
        (node.op_type == op && node.domain.is_empty()).then_some((index, node))
    };
    let (quantize, node) = next(reorder, "QuantizeLinear")?;
    let Steps { scale, zero } = nodes.steps(node.input.get(1)?, node.input.get(2)?)?;
    let (transpose, node) = next(node, "Transpose")?;
    if attribute(node, "perm")?.ints != LAST {
        return None;
    }
    let node = NodeProto {
        op_type: QUANTIZE.to_owned(),
        name: node.name.clone(),
        input: reorder.input.clone(),
        output: node.output.clone(),
        attribute: vec![
            attribute(reorder, "channels")?.clone(),
            number("zero", i64::from(zero)),
            super::real("scale", scale),
        ],
        ..NodeProto::default()
    };
    Some((quantize, transpose, node))
}
