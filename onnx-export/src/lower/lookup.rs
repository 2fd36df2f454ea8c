//! Hard swishes as tables.

use super::LOOKUP;
use super::graph::Lowering;
use crate::proto::{NodeProto, UINT8};
use crate::quantize::Affine;

/// A function of the numbers of one value, and the nodes that compute it.
struct Function {
    /// The value.
    operand: String,
    table: [u8; 256],
    /// The nodes before the last one, from the end.
    inner: Vec<usize>,
}

/// Replaces the nodes of hard swishes.
pub(super) fn replace(nodes: &mut Lowering) {
    for index in 0..nodes.nodes.len() {
        let found = gated(nodes, index).or_else(|| in_floats(nodes, index));
        let Some(function) = found else { continue };
        let Some(last) = nodes.take(index) else {
            continue;
        };
        // After its one output.
        let name = format!("{}_table", last.output.concat());
        let table = nodes.add(&name, UINT8, function.table.to_vec());
        let node = NodeProto {
            op_type: LOOKUP.to_owned(),
            name: last.name,
            input: vec![function.operand, table],
            output: last.output,
            ..NodeProto::default()
        };
        nodes.put(index, node);
        for inner in function.inner {
            nodes.take_unread(inner);
        }
    }
}

/// A product of 8-bit numbers, one of them gated by the other: the gate is a `QLinearConcat` of one operand.
fn gated(nodes: &Lowering, index: usize) -> Option<Function> {
    let product = nodes.nodes[index].as_ref()?;
    let [a, a_scale, a_zero, b, b_scale, b_zero, scale, zero] = product.input.as_slice() else {
        return None;
    };
    if product.op_type != "QLinearMul" {
        return None;
    }
    let first = (a, nodes.affine(a_scale, a_zero)?);
    let second = (b, nodes.affine(b_scale, b_zero)?);
    let result = nodes.affine(scale, zero)?;
    let mut orders = [(first, second), (second, first)].into_iter();
    orders.find_map(|((x, x_steps), (gate, gate_steps))| {
        let (concat, node) = nodes.producer(gate, "QLinearConcat")?;
        let [scale, zero, operand, read_scale, read_zero] = node.input.as_slice() else {
            return None;
        };
        let change = [
            nodes.affine(read_scale, read_zero)?,
            nodes.affine(scale, zero)?,
        ];
        let table = std::array::from_fn(|number| {
            let gated = rescaled(number as u8, change);
            multiplied((number as u8, x_steps), (gated, gate_steps), result)
        });
        (operand == x).then(|| Function {
            operand: x.clone(),
            table,
            inner: vec![concat],
        })
    })
}

/// `DequantizeLinear -> HardSigmoid, Mul -> QuantizeLinear`: that of trained networks, rounded once.
fn in_floats(nodes: &Lowering, index: usize) -> Option<Function> {
    let quantize = nodes.nodes[index].as_ref()?;
    let [product, scale, zero] = quantize.input.as_slice() else {
        return None;
    };
    if quantize.op_type != "QuantizeLinear" {
        return None;
    }
    let to = nodes.affine(scale, zero)?;
    let (product, node) = nodes.producer(product, "Mul")?;
    let [a, b] = node.input.as_slice() else {
        return None;
    };
    let mut orders = [(a, b), (b, a)].into_iter();
    let (x, gate, node) = orders.find_map(|(x, gated)| {
        let (gate, node) = nodes.producer(gated, "HardSigmoid")?;
        (node.input.first() == Some(x)).then_some((x, gate, node))
    })?;
    let float = |name: &str| node.attribute(name)?.f;
    let (alpha, beta) = (float("alpha")?, float("beta")?);
    let (dequantize, node) = nodes.producer(x, "DequantizeLinear")?;
    let [operand, scale, zero] = node.input.as_slice() else {
        return None;
    };
    let from = nodes.affine(scale, zero)?;
    let table = std::array::from_fn(|number| {
        let x = value(number as u8, from);
        rounded(x * (alpha * x + beta).clamp(0.0, 1.0) / to.scale, to)
    });
    Some(Function {
        operand: operand.clone(),
        table,
        inner: vec![product, gate, dequantize],
    })
}

/// A number in other steps, as ONNX Runtime computes it.
fn rescaled(number: u8, [from, to]: [Affine; 2]) -> u8 {
    rounded(value(number, from) / to.scale, to)
}

/// A product, as ONNX Runtime computes it.
fn multiplied((a, a_steps): (u8, Affine), (b, b_steps): (u8, Affine), to: Affine) -> u8 {
    let centred = |number: u8, affine: Affine| f32::from(number) - f32::from(affine.zero_point);
    let product = centred(a, a_steps) * centred(b, b_steps);
    rounded(product * (a_steps.scale * b_steps.scale / to.scale), to)
}

/// What a number stands for.
fn value(number: u8, affine: Affine) -> f32 {
    affine.scale * (f32::from(number) - f32::from(affine.zero_point))
}

/// The number that is nearest to so many steps.
fn rounded(steps: f32, to: Affine) -> u8 {
    // Conversions saturate.
    (steps.round_ties_even() + f32::from(to.zero_point)) as u8
}
