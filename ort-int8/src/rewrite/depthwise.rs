//! Replaces depthwise int8 convolutions of a graph with this crate's operator [`DEPTHWISE`].

use std::ops::RangeInclusive;

use onnx_export::graph::Attr;
use onnx_export::proto::{AttributeProto, FLOAT, INT8, NodeProto};
use onnx_export::quantize::Affine;

use super::editor::GraphEditor;
use super::{DEPTHWISE, DOMAIN, LOOKUP};

/// A convolution is replaced only if its channel count is a multiple of this number.
///
/// The operator computes vectors of 64 elements and repeats the constants of all channels (biases,
/// multipliers and weights) until they fill whole vectors. For a multiple of 8, eight repetitions
/// are enough.
const CHANNEL_MULTIPLE: i64 = 8;

/// A [`DEPTHWISE`] node that replaces a depthwise `QLinearConv`, and the node's multipliers.
struct Replacement {
    /// The new node. Its multipliers input is missing until `multipliers` is an initializer.
    node: NodeProto,
    /// Requantization factors `[C]`: `input scale * weight scale / output scale`.
    multipliers: Vec<f32>,
}

/// Replaces every supported depthwise `QLinearConv` with a [`DEPTHWISE`] node.
///
/// If a [`LOOKUP`] is the only reader of the convolution's output, the `LOOKUP` is removed and its
/// table becomes an input of the new node.
pub(super) fn replace(editor: &mut GraphEditor) {
    for index in 0..editor.len() {
        let Some(Replacement {
            mut node,
            multipliers,
        }) = replacement(editor, index)
        else {
            continue;
        };
        // The output's name is unique in the graph, so the initializer's name is unique, too.
        let output = node.output.concat();
        let bytes = multipliers.iter().flat_map(|value| value.to_le_bytes());
        let name = format!("{output}_multipliers");
        let multipliers = editor.add_initializer(&name, FLOAT, bytes.collect());
        node.input.push(multipliers);
        if let Some(table) = lookup_behind(editor, &output) {
            let table = editor.remove(table).unwrap_or_default();
            node.input.extend(table.input.get(1).cloned());
            node.output = table.output;
        }
        editor.replace(index, node);
    }
}

/// Returns the index of the [`LOOKUP`] node that reads `value`. `None` if no `LOOKUP` reads
/// `value`, if another node reads `value`, too, or if `value` is an output of the graph.
fn lookup_behind(editor: &GraphEditor, value: &str) -> Option<usize> {
    let index = editor.sole_reader(value)?;
    let node = editor.node(index)?;
    (node.domain == DOMAIN && node.op_type == LOOKUP).then_some(index)
}

/// Returns the replacement of node `index`.
///
/// `None` if the node is not a depthwise `QLinearConv` with a bias and constant weights, scales and
/// zero points, if a weight zero point is not 0, if the kernel size, stride, dilation or padding is
/// not supported, or if a sum of products might exceed int32.
fn replacement(editor: &GraphEditor, index: usize) -> Option<Replacement> {
    let conv = editor.node(index)?;
    // A `QLinearConv` has nine inputs with a bias and eight without one.
    let inputs: &[String; 9] = conv.input.as_slice().try_into().ok()?;
    let [
        x,
        x_scale,
        x_zero,
        weight,
        scales,
        zeros,
        y_scale,
        y_zero,
        bias,
    ] = inputs;
    let kernel = kernel_shape(editor, conv, weight)?;
    if editor.bytes(zeros, INT8)?.iter().any(|zero| *zero != 0) {
        return None;
    }
    let input = editor.affine(x_scale, x_zero)?;
    let output = editor.affine(y_scale, y_zero)?;
    let bias_values = editor.i32_values(bias)?;
    let scales = editor.f32_values(scales)?;
    if scales.len() != 1 && scales.len() != bias_values.len() {
        return None;
    }
    let scales = scales.iter().cycle().take(bias_values.len());
    let multipliers: Vec<f32> = scales
        .map(|scale| input.scale * scale / output.scale)
        .collect();
    if !stays_in_range(editor.bytes(weight, INT8)?, &bias_values, &multipliers) {
        return None;
    }
    let mut attributes = window_attributes(conv, kernel)?;
    attributes.push(zero_point("input_zero_point", input));
    attributes.push(zero_point("output_zero_point", output));
    let node = NodeProto {
        op_type: DEPTHWISE.to_owned(),
        name: conv.name.clone(),
        input: [x, weight, bias].map(Clone::clone).to_vec(),
        output: conv.output.clone(),
        attribute: attributes,
        ..NodeProto::default()
    };
    Some(Replacement { node, multipliers })
}

/// Returns `[height, width]` of the kernel of `conv`, whose weights are the initializer `weight`.
///
/// `None` if `conv` is not a channels-last `com.microsoft` `QLinearConv` with one group per
/// channel, or if its channel count is not a multiple of [`CHANNEL_MULTIPLE`].
fn kernel_shape<'a>(editor: &'a GraphEditor, conv: &NodeProto, weight: &str) -> Option<&'a [i64]> {
    let int = |name: &str| conv.attribute(name)?.i;
    let channels = int("group")?;
    let &[outputs, 1, ref kernel @ ..] = editor.shape(weight, INT8)? else {
        return None;
    };
    let is_depthwise = conv.domain == "com.microsoft"
        && conv.op_type == "QLinearConv"
        && int("channels_last") == Some(1)
        && outputs == channels
        && kernel.len() == 2
        && channels % CHANNEL_MULTIPLE == 0;
    is_depthwise.then_some(kernel)
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

fn zero_point(name: &str, affine: Affine) -> AttributeProto {
    AttributeProto::new(name, &Attr::Int(affine.zero_point.into()))
}

/// Returns whether the convolution's int32 sums cannot overflow, whatever the input: neither the
/// sums of input elements times `weights` plus `bias`, nor these sums times `multipliers`.
///
/// Also returns `false` if a multiplier is not positive, or if `weights` (bytes of `i8`), `bias`
/// and `multipliers` have different channel counts.
fn stays_in_range(weights: &[u8], bias: &[i32], multipliers: &[f32]) -> bool {
    const LARGEST: f64 = i32::MAX as f64;
    if bias.len() != multipliers.len()
        || bias.is_empty()
        || !weights.len().is_multiple_of(bias.len())
    {
        return false;
    }
    let channels = weights.chunks_exact(weights.len() / bias.len());
    let mut constants = channels.zip(bias).zip(multipliers);
    constants.all(|((weights, bias), multiplier)| {
        let weights = weights.iter().map(|w| f64::from(w.cast_signed()).abs());
        // The operator multiplies weights with input elements, and subtracts the input's zero point
        // times the weights in the bias. Elements and zero point are at most 255, hence 2 * 255.
        let sum = 2.0 * 255.0 * weights.sum::<f64>() + f64::from(*bias).abs();
        *multiplier > 0.0 && sum < LARGEST && sum * f64::from(*multiplier) < LARGEST
    })
}
