//! Replacement of hard swishes by lookup tables.

use onnx_export::proto::{NodeProto, UINT8};
use onnx_export::quantize::Affine;

use super::LOOKUP;
use super::editor::GraphEditor;

/// A function that nodes compute for each element of a value on its own.
struct Function {
    /// Name of the value that the function is applied to.
    operand: String,
    /// Results of the function for the elements 0 to 255.
    table: [u8; 256],
    /// Indices of the nodes that compute the function, without the last one, in the order in which they can be removed.
    inner: Vec<usize>,
}

/// Replaces the nodes of every hard swish by a [`LOOKUP`].
pub(super) fn replace(editor: &mut GraphEditor) {
    for index in 0..editor.len() {
        let found = integer_swish(editor, index).or_else(|| float_swish(editor, index));
        let Some(function) = found else { continue };
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

/// Returns the hard swish whose product is node `index`: a `QLinearMul` of a value and its gate, which is the value
/// requantized by a `QLinearConcat` of one operand. `None` for any other node.
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

/// Returns the hard swish whose `QuantizeLinear` is node `index`: `DequantizeLinear`, `HardSigmoid`, `Mul` and
/// `QuantizeLinear`, as networks with trained scales have it. `None` for any other node.
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

/// A uint8 element `q` with the scale and zero point that give it its value.
#[derive(Clone, Copy)]
struct Quantized {
    q: u8,
    affine: Affine,
}

/// Returns the element with the value of `x` in another scale and zero point, rounded like `QLinearConcat` in ONNX
/// Runtime.
fn requantize(x: Quantized, to: Affine) -> u8 {
    round(dequantize_one(x) / to.scale, to)
}

/// Returns the product of two elements, rounded like `QLinearMul` in ONNX Runtime.
fn multiply(a: Quantized, b: Quantized, to: Affine) -> u8 {
    let centered = |x: Quantized| f32::from(x.q) - f32::from(x.affine.zero_point);
    let product = centered(a) * centered(b);
    round(product * (a.affine.scale * b.affine.scale / to.scale), to)
}

/// Returns the value of an element, `(q - zero_point) * scale`.
fn dequantize_one(x: Quantized) -> f32 {
    x.affine.scale * (f32::from(x.q) - f32::from(x.affine.zero_point))
}

/// Rounds a value, given as a multiple of the scale, to the nearest element, ties to even, saturated to 0..=255.
fn round(multiple: f32, to: Affine) -> u8 {
    // The conversion to u8 saturates.
    (multiple.round_ties_even() + f32::from(to.zero_point)) as u8
}
