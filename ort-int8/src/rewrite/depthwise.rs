//! Replaces depthwise int8 convolutions of a graph with this crate's operator [`DEPTHWISE`].

use std::ops::RangeInclusive;

use onnx_export::graph::Attr;
use onnx_export::proto::{AttributeProto, NodeProto};

use super::conv::{self, Conv};
use super::editor::GraphEditor;
use super::quantized::add_multipliers;
use super::{DEPTHWISE, Operators};

/// A convolution is replaced only if its channel count is a multiple of this number.
///
/// The operator computes vectors of 64 elements and repeats the constants of all channels (biases,
/// multipliers and weights) until they fill whole vectors. For a multiple of 8, eight repetitions
/// are enough.
const CHANNEL_MULTIPLE: i64 = 8;

/// Replaces every supported depthwise `QLinearConv` with a [`DEPTHWISE`] node.
///
/// If a [`LOOKUP`](super::LOOKUP) is the only reader of the convolution's output, the lookup is
/// removed and its table becomes an input of the new node.
pub(super) fn replace(editor: &mut GraphEditor, operators: Operators) {
    for index in 0..editor.len() {
        let Some((mut node, multipliers)) = replacement(editor, index, operators) else {
            continue;
        };
        let output = node.output.concat();
        let multipliers = add_multipliers(editor, &output, &multipliers);
        node.input.push(multipliers);
        if let Some(table) = conv::take_lookup(editor, &output) {
            node.input.push(table.table);
            node.output = vec![table.output];
        }
        editor.replace(index, node);
    }
}

/// Returns the replacement of node `index`, whose multipliers input is missing, and the multipliers.
///
/// `None` if the node is not a depthwise convolution that [`Conv::read`] accepts, if its channel
/// count is not a multiple of [`CHANNEL_MULTIPLE`], or if the kernel size, stride, dilation or
/// padding is not supported.
fn replacement(
    editor: &GraphEditor,
    index: usize,
    operators: Operators,
) -> Option<(NodeProto, Vec<f32>)> {
    let conv = Conv::read(editor, index, operators)?;
    let [outputs, 1, height, width] = conv.weight_shape else {
        return None;
    };
    if outputs != conv.groups() || outputs % CHANNEL_MULTIPLE != 0 {
        return None;
    }
    let mut attributes = window_attributes(conv.node, &[height, width])?;
    attributes.extend(conv.zero_points());
    let node = NodeProto {
        op_type: DEPTHWISE.to_owned(),
        name: conv.node.name.clone(),
        input: conv.operands.map(Clone::clone).to_vec(),
        output: conv.node.output.clone(),
        attribute: attributes,
        ..NodeProto::default()
    };
    Some((node, conv.multipliers))
}

/// Returns the attributes of [`DEPTHWISE`] for the kernel size, strides, dilations and padding of
/// `conv`.
///
/// `None` if one of these values is outside the limits in this function, which cover common
/// networks. The limits bound memory, because the operator keeps all input rows that the kernel
/// spans.
fn window_attributes(conv: &NodeProto, kernel: &[i64]) -> Option<Vec<AttributeProto>> {
    let padding = conv.attribute("auto_pad").and_then(|a| a.s.as_deref());
    let same_upper = match padding {
        None | Some(b"NOTSET") => false,
        Some(b"SAME_UPPER") => true,
        Some(_) => return None,
    };
    let cases: [(&str, &[i64], RangeInclusive<i64>); 4] = [
        ("kernel_shape", kernel, 1..=7),
        ("strides", &[1; 2], 1..=4),
        ("dilations", &[1; 2], 1..=4),
        ("pads", &[0; 4], 0..=32),
    ];
    let mut attributes = Vec::with_capacity(cases.len() + 3);
    for (name, default, limits) in cases {
        let given = conv
            .attribute(name)
            .map(|attribute| attribute.ints.as_slice());
        let values = given.unwrap_or(default);
        if values.len() != default.len() || !values.iter().all(|n| limits.contains(n)) {
            return None;
        }
        attributes.push(AttributeProto::new(name, &Attr::Ints(values.to_vec())));
    }
    if attributes[0].ints != kernel {
        return None;
    }
    let same_upper = Attr::Int(same_upper.into());
    attributes.push(AttributeProto::new("same_upper", &same_upper));
    Some(attributes)
}
