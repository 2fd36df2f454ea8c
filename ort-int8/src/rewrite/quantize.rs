//! Replaces the three nodes that quantize the output of an fp32 layer with one [`QUANTIZE`] node.

use onnx_export::graph::Attr;
use onnx_export::proto::{AttributeProto, NodeProto};
use onnx_export::quantize::Affine;

use super::editor::GraphEditor;
use super::{CHANNELS_LAST, QUANTIZE};

/// A `ReorderOutput` whose output is read by a `QuantizeLinear`, whose output is read by a
/// `Transpose`, with the indices of the latter two nodes.
struct Chain {
    /// Index of a `Max` without effect between `ReorderOutput` and `QuantizeLinear`.
    max: Option<usize>,
    quantize: usize,
    transpose: usize,
    /// The [`QUANTIZE`] node that replaces the `ReorderOutput`, `QuantizeLinear` and `Transpose`.
    replacement: NodeProto,
}

/// Replaces every chain `ReorderOutput -> QuantizeLinear -> Transpose` with a [`QUANTIZE`], which
/// avoids the chain's intermediate `[N, C, H, W] f32` tensor. A `Max` in the chain is removed if it
/// clips only elements that quantization clips, too: int8 files have one behind a layer that must
/// stay in fp32. `block` is the number of channels in a
/// block of the layout that `ReorderOutput` reads.
pub(super) fn replace(editor: &mut GraphEditor, block: usize) {
    for index in 0..editor.len() {
        if let Some(chain) = find_chain(editor, index, block) {
            for inner in [chain.max, Some(chain.quantize)].into_iter().flatten() {
                editor.remove(inner);
            }
            editor.remove(chain.transpose);
            editor.replace(index, chain.replacement);
        }
    }
}

/// Returns the chain that begins with node `index`.
///
/// `None` if node `index` is not a `ReorderOutput` to channels first, if its output is not read by
/// a `QuantizeLinear` followed by a `Transpose`, or if another node reads an intermediate value.
fn find_chain(editor: &GraphEditor, index: usize, block: usize) -> Option<Chain> {
    let reorder = editor.node(index)?;
    if reorder.op_type != "ReorderOutput" || reorder.attribute("channels_last")?.i != Some(0) {
        return None;
    }
    let next = |node: &NodeProto, op: &str| {
        let index = editor.sole_reader(node.output.first()?)?;
        let node = editor.node(index)?;
        (node.op_type == op && node.domain.is_empty()).then_some((index, node))
    };
    let max = next(reorder, "Max");
    let (quantize, node) = next(max.map_or(reorder, |(_, node)| node), "QuantizeLinear")?;
    let Affine { scale, zero_point } = editor.affine(node.input.get(1)?, node.input.get(2)?)?;
    let least = -f32::from(zero_point) * scale;
    if max.is_some_and(|(_, max)| lower_bound(editor, max).is_none_or(|bound| bound > least)) {
        return None;
    }
    let (transpose, node) = next(node, "Transpose")?;
    if node.attribute("perm")?.ints != CHANNELS_LAST {
        return None;
    }
    let replacement = NodeProto {
        op_type: QUANTIZE.to_owned(),
        name: node.name.clone(),
        input: reorder.input.clone(),
        output: node.output.clone(),
        attribute: vec![
            reorder.attribute("channels")?.clone(),
            AttributeProto::new("block", &Attr::Int(block as i64)),
            AttributeProto::new("zero_point", &Attr::Int(zero_point.into())),
            AttributeProto::new("scale", &Attr::Float(scale)),
        ],
        ..NodeProto::default()
    };
    Some(Chain {
        max: max.map(|(index, _)| index),
        quantize,
        transpose,
        replacement,
    })
}

/// Returns the constant operand of a `Max` of two operands. `None` if there is no constant operand of
/// one f32 element.
fn lower_bound(editor: &GraphEditor, max: &NodeProto) -> Option<f32> {
    let [a, b] = max.input.as_slice() else {
        return None;
    };
    [a, b]
        .into_iter()
        .find_map(|name| match editor.f32_values(name)?.as_slice() {
            &[bound] => Some(bound),
            _ => None,
        })
}
