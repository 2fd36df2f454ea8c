//! Additions of int8 tensors: their layout, and the parameters with which a convolution adds a
//! residual.

use onnx_export::graph::Attr;
use onnx_export::proto::{AttributeProto, NodeProto};

use super::editor::GraphEditor;
use super::{CHANNELS_FIRST, CHANNELS_LAST};

/// A `QLinearAdd` that was removed from the graph, because the convolution that writes one of its
/// operands performs the addition.
pub(super) struct TakenAddition {
    /// Index of the removed node.
    pub(super) index: usize,
    /// Name of the other operand.
    pub(super) residual: String,
    /// Name of the sum.
    pub(super) output: String,
    /// Parameters of the addition: the fields of [`Addition`](crate::kernels::Addition).
    pub(super) attributes: Vec<AttributeProto>,
}

/// Removes the `QLinearAdd` that reads `value` and returns it. `None` if no `QLinearAdd` with constant
/// scales and zero points reads `value`, if it adds `value` to itself, if another node reads `value`,
/// too, or if `value` is an output of the graph.
pub(super) fn take(editor: &mut GraphEditor, value: &str) -> Option<TakenAddition> {
    let index = editor.sole_reader(value)?;
    let node = editor.node(index)?;
    let [a, a_scale, a_zero, b, b_scale, b_zero, scale, zero] = operands(node)?;
    if a == b {
        return None;
    }
    let (first, second) = (
        editor.affine(a_scale, a_zero)?,
        editor.affine(b_scale, b_zero)?,
    );
    let sum = editor.affine(scale, zero)?;
    let ratios = [first, second].map(|affine| affine.scale / sum.scale);
    let zeros = [first, second].map(|affine| f32::from(affine.zero_point));
    // ONNX Runtime's compiler contracts the first product and the sum to one rounding.
    let products = ratios[0].mul_add(zeros[0], ratios[1] * zeros[1]);
    let offset = f32::from(sum.zero_point) - products;
    let residual_first = b == value;
    let (residual, [ratio, residual_ratio]) = if residual_first {
        (a.clone(), [ratios[1], ratios[0]])
    } else {
        (b.clone(), ratios)
    };
    let attributes = vec![
        AttributeProto::new("ratio", &Attr::Float(ratio)),
        AttributeProto::new("residual_ratio", &Attr::Float(residual_ratio)),
        AttributeProto::new("offset", &Attr::Float(offset)),
        AttributeProto::new("residual_first", &Attr::Int(residual_first.into())),
    ];
    let output = node.output.first()?.clone();
    editor.remove(index);
    Some(TakenAddition {
        index,
        residual,
        output,
        attributes,
    })
}

/// Makes additions read and write channels-last tensors, if all operands exist in this layout and
/// the sum is only read in this layout. This removes the `Transpose` nodes around the addition.
pub(super) fn move_transposes(editor: &mut GraphEditor) {
    for index in 0..editor.len() {
        let Some(replacement) = channels_last(editor, index) else {
            continue;
        };
        let Some(addition) = editor.remove(index) else {
            continue;
        };
        editor.replace_standard(replacement.transpose, replacement.addition);
        for name in [&addition.input[0], &addition.input[3]] {
            if let Some((transpose, _)) = editor.producer(name, "Transpose") {
                editor.remove_if_unread(transpose);
            }
        }
    }
}

/// A `QLinearAdd` of channels-last tensors.
struct Replacement {
    /// Index of the `Transpose` that reads the sum, which the addition replaces.
    transpose: usize,
    addition: NodeProto,
}

/// Returns the channels-last form of node `index`. `None` if the node is not a `QLinearAdd`, if an
/// operand does not exist channels-last, or if the sum is not only read by a `Transpose` to channels
/// last.
fn channels_last(editor: &GraphEditor, index: usize) -> Option<Replacement> {
    let node = editor.node(index)?;
    let [a, _, _, b, ..] = operands(node)?;
    let transpose = editor.sole_reader(node.output.first()?)?;
    let reader = editor.node(transpose)?;
    if !is_transpose(reader, CHANNELS_LAST) {
        return None;
    }
    let mut addition = node.clone();
    addition.input[0] = operand_channels_last(editor, a)?;
    addition.input[3] = operand_channels_last(editor, b)?;
    addition.output.clone_from(&reader.output);
    Some(Replacement {
        transpose,
        addition,
    })
}

/// Returns the name of the value that is the channels-first `value` in channels-last layout. `None`
/// if the graph does not contain it.
fn operand_channels_last(editor: &GraphEditor, value: &str) -> Option<String> {
    if let Some((_, node)) = editor.producer(value, "Transpose") {
        let source = node.input.first();
        return source
            .filter(|_| is_transpose(node, CHANNELS_FIRST))
            .cloned();
    }
    let reader = editor.reader(value, |node| is_transpose(node, CHANNELS_LAST))?;
    reader.output.first().cloned()
}

fn is_transpose(node: &NodeProto, order: [i64; 4]) -> bool {
    let perm = node.attribute("perm");
    node.op_type == "Transpose" && perm.is_some_and(|perm| perm.ints == order)
}

/// Returns the inputs of a `QLinearAdd`: `[a, a scale, a zero point, b, b scale, b zero point, scale,
/// zero point]`. `None` if `node` is another operator.
fn operands(node: &NodeProto) -> Option<&[String; 8]> {
    if node.domain != "com.microsoft" || node.op_type != "QLinearAdd" {
        return None;
    }
    node.input.as_slice().try_into().ok()
}
