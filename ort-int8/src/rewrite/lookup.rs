//! Replaces hard swish activations and requantizations of a graph with table lookups ([`LOOKUP`]).

use onnx_export::proto::{NodeProto, UINT8};
use onnx_export::quantize::Affine;

use super::LOOKUP;
use super::editor::GraphEditor;

/// An element-wise function of a uint8 tensor that several nodes of the graph compute together.
struct Function {
    /// Name of the uint8 tensor that the function is applied to.
    operand: String,
    /// Result of the function for each possible element, 0 to 255.
    table: [u8; 256],
    /// Indices of the nodes that compute the function, except the last node, which the [`LOOKUP`]
    /// replaces. A node comes after the nodes that read its output, so that each can be removed in
    /// turn.
    inner: Vec<usize>,
}

/// Replaces the nodes of every hard swish with a [`LOOKUP`], and then every other requantization.
pub(super) fn replace(editor: &mut GraphEditor) {
    replace_each(editor, |editor, index| {
        integer_swish(editor, index).or_else(|| float_swish(editor, index))
    });
    replace_each(editor, requantization);
}

/// Replaces the nodes of every function that `find` returns for the index of its last node.
fn replace_each(editor: &mut GraphEditor, find: impl Fn(&GraphEditor, usize) -> Option<Function>) {
    for index in 0..editor.len() {
        let Some(function) = find(editor, index) else {
            continue;
        };
        let Some(last) = editor.remove(index) else {
            continue;
        };
        // The output's name is unique in the graph, so the table's name is, too.
        let name = format!("{}_table", last.output.concat());
        let table = editor.add_initializer(&name, UINT8, function.table.to_vec());
        let node = NodeProto {
            op_type: LOOKUP.to_owned(),
            name: last.name,
            input: vec![function.operand, table],
            output: last.output,
            ..NodeProto::default()
        };
        editor.replace(index, node);
        for inner in function.inner {
            editor.remove_if_unread(inner);
        }
    }
}

/// Returns the requantization of node `index`, a `QLinearConcat` of one operand. `None` if the node is
/// another one.
fn requantization(editor: &GraphEditor, index: usize) -> Option<Function> {
    let node = editor.node(index)?;
    let [scale, zero, operand, read_scale, read_zero] = node.input.as_slice() else {
        return None;
    };
    if node.op_type != "QLinearConcat" {
        return None;
    }
    let affine = editor.affine(read_scale, read_zero)?;
    let written = editor.affine(scale, zero)?;
    let table = std::array::from_fn(|q| {
        let q = q as u8;
        requantize(Quantized { q, affine }, written)
    });
    Some(Function {
        operand: operand.clone(),
        table,
        inner: Vec::new(),
    })
}

/// Returns the int8 hard swish whose last node has this `index`. `None` if this node does not end
/// an int8 hard swish.
///
/// Its nodes are a `QLinearConcat` of one operand, which requantizes a tensor to the gate, and a
/// `QLinearMul` of the tensor and the gate. The saturation to uint8 clamps the gate to 0..=1.
fn integer_swish(editor: &GraphEditor, index: usize) -> Option<Function> {
    let product = editor.node(index)?;
    let [a, a_scale, a_zero, b, b_scale, b_zero, scale, zero] = product.input.as_slice() else {
        return None;
    };
    if product.op_type != "QLinearMul" {
        return None;
    }
    let first = (a, editor.affine(a_scale, a_zero)?);
    let second = (b, editor.affine(b_scale, b_zero)?);
    let result = editor.affine(scale, zero)?;
    let mut orders = [(first, second), (second, first)].into_iter();
    orders.find_map(|((x, x_affine), (gate, gate_affine))| {
        let (concat, node) = editor.producer(gate, "QLinearConcat")?;
        let [scale, zero, operand, read_scale, read_zero] = node.input.as_slice() else {
            return None;
        };
        let read = editor.affine(read_scale, read_zero)?;
        let written = editor.affine(scale, zero)?;
        let table = std::array::from_fn(|q| {
            let q = q as u8;
            let gate = Quantized {
                q: requantize(Quantized { q, affine: read }, written),
                affine: gate_affine,
            };
            let x = Quantized {
                q,
                affine: x_affine,
            };
            multiply(x, gate, result)
        });
        (operand == x).then(|| Function {
            operand: x.clone(),
            table,
            inner: vec![concat],
        })
    })
}

/// Returns the fp32 hard swish whose last node has this `index`. `None` if this node does not end
/// an fp32 hard swish between int8 tensors.
///
/// Its nodes are `DequantizeLinear`, `HardSigmoid`, `Mul` and `QuantizeLinear`, the form of a hard
/// swish in networks with trained scales.
fn float_swish(editor: &GraphEditor, index: usize) -> Option<Function> {
    let quantize = editor.node(index)?;
    let [product, scale, zero] = quantize.input.as_slice() else {
        return None;
    };
    if quantize.op_type != "QuantizeLinear" {
        return None;
    }
    let to = editor.affine(scale, zero)?;
    let (product, node) = editor.producer(product, "Mul")?;
    let [a, b] = node.input.as_slice() else {
        return None;
    };
    let mut orders = [(a, b), (b, a)].into_iter();
    let (x, gate, node) = orders.find_map(|(x, gated)| {
        let (gate, node) = editor.producer(gated, "HardSigmoid")?;
        (node.input.first() == Some(x)).then_some((x, gate, node))
    })?;
    let float = |name: &str| node.attribute(name)?.f;
    let (alpha, beta) = (float("alpha")?, float("beta")?);
    let (dequantize, node) = editor.producer(x, "DequantizeLinear")?;
    let [operand, scale, zero] = node.input.as_slice() else {
        return None;
    };
    let affine = editor.affine(scale, zero)?;
    let table = std::array::from_fn(|q| {
        let x = dequantize_one(Quantized { q: q as u8, affine });
        round(x * (alpha * x + beta).clamp(0.0, 1.0) / to.scale, to)
    });
    Some(Function {
        operand: operand.clone(),
        table,
        inner: vec![product, gate, dequantize],
    })
}

/// A uint8 element with the scale and zero point of its tensor; it stands for
/// `(q - zero_point) * scale`.
#[derive(Clone, Copy)]
struct Quantized {
    q: u8,
    affine: Affine,
}

/// Returns the element that stands for the value of `x` with the scale and zero point `to`, rounded
/// like ONNX Runtime's `QLinearConcat`.
fn requantize(x: Quantized, to: Affine) -> u8 {
    round(dequantize_one(x) / to.scale, to)
}

/// Returns the product of the values of `a` and `b`, quantized with the scale and zero point `to`
/// and rounded like ONNX Runtime's `QLinearMul`.
fn multiply(a: Quantized, b: Quantized, to: Affine) -> u8 {
    let centered = |x: Quantized| f32::from(x.q) - f32::from(x.affine.zero_point);
    let product = centered(a) * centered(b);
    round(product * (a.affine.scale * b.affine.scale / to.scale), to)
}

/// Returns the value that the element `x` stands for, `(q - zero_point) * scale`.
fn dequantize_one(x: Quantized) -> f32 {
    x.affine.scale * (f32::from(x.q) - f32::from(x.affine.zero_point))
}

/// Quantizes `multiple`, a value divided by the scale of `to`: rounds it to the nearest integer,
/// ties to even, adds the zero point of `to`, and saturates the sum to 0..=255.
fn round(multiple: f32, to: Affine) -> u8 {
    // The conversion to u8 saturates.
    (multiple.round_ties_even() + f32::from(to.zero_point)) as u8
}
