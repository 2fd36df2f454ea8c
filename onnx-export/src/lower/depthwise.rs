//! Depthwise convolutions.

use std::ops::RangeInclusive;

use super::graph::Lowering;
use super::{DEPTHWISE, DOMAIN, LOOKUP};
use crate::graph::Attr;
use crate::proto::{AttributeProto, FLOAT, INT8, NodeProto};
use crate::quantize::Affine;

/// Vectors have 64 numbers; constants are repeated until both fit, eight times at most.
const CHANNELS_OF: i64 = 8;

/// Replaces convolutions with as many groups as channels, and takes tables behind them along.
pub(super) fn replace(nodes: &mut Lowering) {
    for index in 0..nodes.nodes.len() {
        let Some((mut node, multipliers)) = depthwise(nodes, index) else {
            continue;
        };
        // The name of its one output.
        let own = node.output.concat();
        let bytes = multipliers.iter().flat_map(|number| number.to_le_bytes());
        let name = format!("{own}_multipliers");
        node.input.push(nodes.add(&name, FLOAT, bytes.collect()));
        if let Some(table) = table_behind(nodes, &own) {
            let table = nodes.take(table).unwrap_or_default();
            node.input.extend(table.input.get(1).cloned());
            node.output = table.output;
        }
        nodes.put(index, node);
    }
}

/// The index of the table that alone reads a value.
fn table_behind(nodes: &Lowering, value: &str) -> Option<usize> {
    let index = nodes.sole_reader(value)?;
    let node = nodes.nodes[index].as_ref()?;
    (node.domain == DOMAIN && node.op_type == LOOKUP).then_some(index)
}

/// The new node, without what each channel is multiplied with, and that.
fn depthwise(nodes: &Lowering, index: usize) -> Option<(NodeProto, Vec<f32>)> {
    let conv = nodes.nodes[index].as_ref()?;
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
    let kernel = depthwise_kernel(nodes, conv, (weight, zeros))?;
    let (input, output) = (
        nodes.affine(x_scale, x_zero)?,
        nodes.affine(y_scale, y_zero)?,
    );
    let (weights, bias_steps) = (nodes.bytes(weight, INT8)?, nodes.whole_numbers(bias)?);
    let scales = nodes.floats(scales)?;
    if scales.len() != 1 && scales.len() != bias_steps.len() {
        return None;
    }
    let scales = scales.iter().cycle().take(bias_steps.len());
    let multipliers: Vec<f32> = scales
        .map(|scale| input.scale * scale / output.scale)
        .collect();
    if !stays_in_range(weights, &bias_steps, &multipliers) {
        return None;
    }
    let mut attributes = window(conv, kernel)?;
    attributes.push(zero_point("input_zero", input));
    attributes.push(zero_point("output_zero", output));
    let node = NodeProto {
        op_type: DEPTHWISE.to_owned(),
        name: conv.name.clone(),
        input: [x, weight, bias].map(Clone::clone).to_vec(),
        output: conv.output.clone(),
        attribute: attributes,
        ..NodeProto::default()
    };
    Some((node, multipliers))
}

/// Height and width of the window, if `conv` is a channels-last convolution of its own for each channel, whose
/// weights have no zero points.
fn depthwise_kernel<'a>(
    nodes: &'a Lowering,
    conv: &NodeProto,
    (weight, zeros): (&str, &str),
) -> Option<&'a [i64]> {
    let whole = |name: &str| conv.attribute(name)?.i;
    let channels = whole("group")?;
    let &[outputs, 1, ref kernel @ ..] = nodes.shape(weight, INT8)? else {
        return None;
    };
    let fits = conv.domain == "com.microsoft"
        && conv.op_type == "QLinearConv"
        && whole("channels_last") == Some(1)
        && outputs == channels
        && kernel.len() == 2
        && channels % CHANNELS_OF == 0
        && nodes.bytes(zeros, INT8)?.iter().all(|zero| *zero == 0);
    fits.then_some(kernel)
}

/// The attributes of a window, if it is such as networks have: a kernel keeps as many rows as it spans.
fn window(conv: &NodeProto, kernel: &[i64]) -> Option<Vec<AttributeProto>> {
    let padding = conv.attribute("auto_pad").and_then(|a| a.s.as_deref());
    let same_upper = match padding {
        None | Some(b"NOTSET") => false,
        Some(b"SAME_UPPER") => true,
        Some(_) => return None,
    };
    let cases: [(&'static str, &[i64], RangeInclusive<i64>); 4] = [
        ("kernel_shape", kernel, 1..=7),
        ("strides", &[1; 2], 1..=4),
        ("dilations", &[1; 2], 1..=4),
        ("pads", &[0; 4], 0..=32),
    ];
    let mut attributes = vec![AttributeProto::from(&(
        "same_upper",
        Attr::Int(same_upper.into()),
    ))];
    for (name, default, limits) in cases {
        let given = conv
            .attribute(name)
            .map(|attribute| attribute.ints.as_slice());
        let given = given.unwrap_or(default);
        if given.len() != default.len() || !given.iter().all(|n| limits.contains(n)) {
            return None;
        }
        attributes.push(AttributeProto::from(&(name, Attr::Ints(given.to_vec()))));
    }
    (attributes[1].ints == kernel).then_some(attributes)
}

fn zero_point(name: &'static str, affine: Affine) -> AttributeProto {
    AttributeProto::from(&(name, Attr::Int(affine.zero_point.into())))
}

/// Whether no sum leaves 32 bits, before and after it is changed to the output's steps; and whether there are
/// as many numbers as channels of each.
fn stays_in_range(weights: &[u8], bias: &[i32], multipliers: &[f32]) -> bool {
    const MOST: f64 = i32::MAX as f64;
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
        // Of numbers and of their zero point.
        let sum = 2.0 * 255.0 * weights.sum::<f64>() + f64::from(*bias).abs();
        *multiplier > 0.0 && sum < MOST && sum * f64::from(*multiplier) < MOST
    })
}
