//! Hard swishes as tables.

use super::LOOKUP;
use super::nodes::{Nodes, Steps};
use crate::proto::{NodeProto, UINT8};

/// Replaces `x * gate(x)`, where the gate is a `QLinearConcat` of one operand.
pub(super) fn replace(nodes: &mut Nodes) {
    for index in 0..nodes.nodes.len() {
        if let Some((gate, table, node)) = hard_swish(nodes, index) {
            // Another product may be gated by it too.
            if nodes.sole_reader(&node.input[1]).is_some() {
                nodes.take(gate);
            }
            let product = &node.output[0];
            let table = nodes.constant(&format!("{product}_table"), UINT8, table.to_vec());
            let input = vec![node.input[0].clone(), table];
            nodes.put(index, NodeProto { input, ..node });
        }
    }
}

/// The index of the gate, the table, and the node with operand and gate as its inputs.
fn hard_swish(nodes: &Nodes, index: usize) -> Option<(usize, [u8; 256], NodeProto)> {
    let product = nodes.nodes[index].as_ref()?;
    let [a, a_scale, a_zero, b, b_scale, b_zero, scale, zero] = product.input.as_slice() else {
        return None;
    };
    if product.op_type != "QLinearMul" {
        return None;
    }
    let operands = [(a, a_scale, a_zero), (b, b_scale, b_zero)];
    let [first, second] = operands.map(|(value, scale, zero)| (value, nodes.steps(scale, zero)));
    let found = [(first, second), (second, first)].into_iter();
    let mut found = found.filter_map(|((x, x_steps), (gate, gate_steps))| {
        let (index, node) = nodes.producer(gate, "QLinearConcat")?;
        let [scale, zero, operand, read_scale, read_zero] = node.input.as_slice() else {
            return None;
        };
        if operand != x {
            return None;
        }
        let change = [
            nodes.steps(read_scale, read_zero)?,
            nodes.steps(scale, zero)?,
        ];
        Some((x, gate, index, x_steps?, gate_steps?, change))
    });
    let (x, gate, gate_index, x_steps, gate_steps, change) = found.next()?;
    let result = nodes.steps(scale, zero)?;
    let table = std::array::from_fn(|number| {
        let number = number as u8;
        let gated = rescaled(number, change);
        multiplied((number, x_steps), (gated, gate_steps), result)
    });
    let node = NodeProto {
        op_type: LOOKUP.to_owned(),
        name: product.name.clone(),
        input: vec![x.clone(), gate.clone()],
        output: product.output.clone(),
        ..NodeProto::default()
    };
    Some((gate_index, table, node))
}

/// A number in other steps, as ONNX Runtime computes it.
fn rescaled(number: u8, [from, to]: [Steps; 2]) -> u8 {
    let value = from.scale * (f32::from(number) - f32::from(from.zero));
    rounded(value / to.scale, to.zero)
}

/// A product, as ONNX Runtime computes it.
fn multiplied((a, a_steps): (u8, Steps), (b, b_steps): (u8, Steps), to: Steps) -> u8 {
    let centred = |number: u8, steps: Steps| f32::from(number) - f32::from(steps.zero);
    let product = centred(a, a_steps) * centred(b, b_steps);
    rounded(
        product * (a_steps.scale * b_steps.scale / to.scale),
        to.zero,
    )
}

fn rounded(steps: f32, zero: u8) -> u8 {
    // Conversions saturate.
    (steps.round_ties_even() + f32::from(zero)) as u8
}
