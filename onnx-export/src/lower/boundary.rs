//! Where floats become 8-bit numbers: from ONNX Runtime's blocked layout to channels-last ones.

use super::QUANTIZE;
use super::graph::Lowering;
use crate::graph::Attr;
use crate::proto::{AttributeProto, NodeProto};
use crate::quantize::Affine;

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
    if reorder.op_type != "ReorderOutput" || reorder.attribute("channels_last")?.i != Some(0) {
        return None;
    }
    let next = |node: &NodeProto, op: &str| {
        let index = nodes.sole_reader(node.output.first()?)?;
        let node = nodes.nodes[index].as_ref()?;
        (node.op_type == op && node.domain.is_empty()).then_some((index, node))
    };
    let (quantize, node) = next(reorder, "QuantizeLinear")?;
    let Affine { scale, zero_point } = nodes.affine(node.input.get(1)?, node.input.get(2)?)?;
    let (transpose, node) = next(node, "Transpose")?;
    if node.attribute("perm")?.ints != LAST {
        return None;
    }
    let node = NodeProto {
        op_type: QUANTIZE.to_owned(),
        name: node.name.clone(),
        input: reorder.input.clone(),
        output: node.output.clone(),
        attribute: vec![
            reorder.attribute("channels")?.clone(),
            AttributeProto::from(&("zero", Attr::Int(zero_point.into()))),
            AttributeProto::from(&("scale", Attr::Float(scale))),
        ],
        ..NodeProto::default()
    };
    Some((quantize, transpose, node))
}
