//! Replaces the product of squeeze-and-excitation with this crate's operator [`GATE`].

use onnx_export::graph::Attr;
use onnx_export::proto::{AttributeProto, NodeProto};

use super::editor::GraphEditor;
use super::{DOMAIN, GATE, LOOKUP};

/// Maximum number of nodes between the pooled image and the gate.
const MAX_DEPTH: usize = 8;

/// Replaces every `QLinearMul` of an image with a gate that was computed from the mean of its pixels.
pub(super) fn replace(editor: &mut GraphEditor) {
    for index in 0..editor.len() {
        if let Some(node) = replacement(editor, index) {
            editor.replace(index, node);
        }
    }
}

/// Returns the replacement of node `index`.
///
/// `None` if the node is not a `QLinearMul` with constant scales and zero points, if neither operand is
/// a gate of the other one, or if a product might exceed int32.
fn replacement(editor: &GraphEditor, index: usize) -> Option<NodeProto> {
    let node = editor.node(index)?;
    let [a, a_scale, a_zero, b, b_scale, b_zero, scale, zero] = node.input.as_slice() else {
        return None;
    };
    if node.op_type != "QLinearMul" {
        return None;
    }
    let first = (a, editor.affine(a_scale, a_zero)?);
    let second = (b, editor.affine(b_scale, b_zero)?);
    let product = editor.affine(scale, zero)?;
    let mut orders = [(first, second), (second, first)].into_iter();
    let ((x, input), (gate, factor)) =
        orders.find(|((x, _), (gate, _))| is_gate(editor, gate, x))?;
    let scale = first.1.scale * second.1.scale / product.scale;
    if !(scale > 0.0 && 255.0 * 255.0 * scale < i32::MAX as f32) {
        return None;
    }
    let zero_points = [
        ("input_zero_point", input),
        ("gate_zero_point", factor),
        ("output_zero_point", product),
    ];
    let attributes = zero_points
        .map(|(name, affine)| AttributeProto::new(name, &Attr::Int(affine.zero_point.into())));
    let scale = AttributeProto::new("scale", &Attr::Float(scale));
    Some(NodeProto {
        op_type: GATE.to_owned(),
        name: node.name.clone(),
        input: vec![x.clone(), gate.clone()],
        output: node.output.clone(),
        attribute: attributes.into_iter().chain([scale]).collect(),
        ..NodeProto::default()
    })
}

/// Returns whether convolutions and lookups compute `gate` from the global average pool of `image`, both
/// channels last.
fn is_gate(editor: &GraphEditor, gate: &str, image: &str) -> bool {
    let mut value = gate;
    for _ in 0..MAX_DEPTH {
        let Some(node) = editor.writer(value) else {
            return false;
        };
        let is_lookup = node.domain == DOMAIN && node.op_type == LOOKUP;
        let is_last = |node: &NodeProto| {
            let attribute = node.attribute("channels_last");
            attribute.and_then(|attribute| attribute.i) == Some(1)
        };
        let Some(input) = node.input.first() else {
            return false;
        };
        match node.op_type.as_str() {
            "QLinearGlobalAveragePool" => return is_last(node) && input == image,
            "QLinearConv" if is_last(node) => value = input,
            _ if is_lookup => value = input,
            _ => return false,
        }
    }
    false
}
