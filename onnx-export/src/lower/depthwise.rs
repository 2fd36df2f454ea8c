//! Depthwise convolutions.

use std::ops::RangeInclusive;

use super::nodes::{Nodes, Steps};
use super::{DEPTHWISE, DOMAIN, LOOKUP, attribute, number};
use crate::proto::{AttributeProto, FLOAT, INT8, NodeProto};

/// Attributes of `Conv` that the new operator has too.
const KEPT: [&str; 4] = ["kernel_shape", "strides", "pads", "dilations"];
/// Vectors have 64 numbers; constants are repeated until both fit, eight times at most.
const CHANNELS_OF: i64 = 8;

/// Replaces convolutions with as many groups as channels, and takes tables behind them along.
pub(super) fn replace(nodes: &mut Nodes) {
    for index in 0..nodes.nodes.len() {
        let Some((mut node, multipliers)) = depthwise(nodes, index) else {
            continue;
        };
        let own = node.output[0].clone();
        let bytes = multipliers.iter().flat_map(|number| number.to_le_bytes());
        let name = format!("{own}_multipliers");
        node.input
            .push(nodes.constant(&name, FLOAT, bytes.collect()));
        if let Some(table) = table_behind(nodes, &own) {
            let table = nodes.take(table).unwrap_or_default();
            node.input.extend(table.input.get(1).cloned());
            node.output = table.output;
        }
        nodes.put(index, node);
    }
}

/// The index of the table that alone reads a value.
fn table_behind(nodes: &Nodes, value: &str) -> Option<usize> {
    let index = nodes.sole_reader(value)?;
    let node = nodes.nodes[index].as_ref()?;
    (node.domain == DOMAIN && node.op_type == LOOKUP).then_some(index)
}

/// The new node, without what each channel is multiplied with, and that.
fn depthwise(nodes: &Nodes, index: usize) -> Option<(NodeProto, Vec<f32>)> {
    let conv = nodes.nodes[index].as_ref()?;
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
    ] = conv.input.as_slice()
    else {
        return None;
    };
    let whole = |name: &str| attribute(conv, name)?.i;
    let channels = whole("group")?;
    let padding = attribute(conv, "auto_pad").and_then(|a| a.s.as_deref());
    let shape = nodes.shape(weight, INT8)?;
    let fits = conv.domain == "com.microsoft"
        && conv.op_type == "QLinearConv"
        && whole("channels_last") == Some(1)
        && padding.is_none_or(|padding| padding == b"NOTSET")
        && shape.len() == 4
        && shape[..2] == [channels, 1]
        && channels % CHANNELS_OF == 0
        && nodes.is_zero(zeros)
        && has_usual_window(conv, &shape[2..]);
    let (input, output) = (nodes.steps(x_scale, x_zero)?, nodes.steps(y_scale, y_zero)?);
    let scales = nodes.floats(scales)?;
    if !fits || !(scales.len() == 1 || scales.len() as i64 == channels) {
        return None;
    }
    let scales = scales.iter().cycle().take(channels as usize);
    let multipliers = scales.map(|scale| input.scale * scale / output.scale);
    let multipliers: Vec<f32> = multipliers.collect();
    if !stays_in_range(
        nodes.bytes(weight, INT8)?,
        &nodes.whole_numbers(bias)?,
        &multipliers,
    ) {
        return None;
    }
    let node = NodeProto {
        op_type: DEPTHWISE.to_owned(),
        name: conv.name.clone(),
        input: [x, weight, bias].map(Clone::clone).to_vec(),
        output: conv.output.clone(),
        attribute: attributes(conv, input, output)?,
        ..NodeProto::default()
    };
    Some((node, multipliers))
}

/// Whether the window is such as networks have, and the weights' own.
fn has_usual_window(conv: &NodeProto, kernel: &[i64]) -> bool {
    let within = |name: &str, count: usize, limits: RangeInclusive<i64>| {
        attribute(conv, name).is_some_and(|attribute| {
            attribute.ints.len() == count && attribute.ints.iter().all(|n| limits.contains(n))
        })
    };
    within("kernel_shape", 2, 1..=15)
        && within("strides", 2, 1..=8)
        && within("dilations", 2, 1..=64)
        && within("pads", 4, 0..=1024)
        && attribute(conv, "kernel_shape").is_some_and(|shape| shape.ints == kernel)
}

/// Whether no sum leaves 32 bits, before and after it is changed to the output's steps; and whether there are
/// as many numbers as channels of each.
fn stays_in_range(weights: &[u8], bias: &[i32], multipliers: &[f32]) -> bool {
    const MOST: f64 = (1_u32 << 30) as f64;
    if bias.len() != multipliers.len() || bias.is_empty() || weights.len() % bias.len() != 0 {
        return false;
    }
    let channels = weights.chunks_exact(weights.len() / bias.len());
    let mut constants = channels.zip(bias).zip(multipliers);
    constants.all(|((weights, bias), multiplier)| {
        let weights = weights.iter().map(|w| f64::from(w.cast_signed()).abs());
        // Of numbers and of their zero point.
        let sum = 2.0 * 255.0 * weights.sum::<f64>() + f64::from(*bias).abs();
        sum < MOST && sum * f64::from(*multiplier) < MOST
    })
}

fn attributes(conv: &NodeProto, input: Steps, output: Steps) -> Option<Vec<AttributeProto>> {
    let kept = KEPT.iter().map(|name| attribute(conv, name).cloned());
    let mut attributes: Vec<AttributeProto> = kept.collect::<Option<_>>()?;
    attributes.push(number("input_zero", i64::from(input.zero)));
    attributes.push(number("output_zero", i64::from(output.zero)));
    Some(attributes)
}
