//! Writes sums, products and means of networks with trained scales so that their int8 results equal
//! torch's.
//!
//! These operators compute in units of the result's scale: `DequantizeLinear` reads each operand
//! with the scale `operand scale / result scale`, and `QuantizeLinear` has scale 1. The file thus
//! holds the factor by which torch multiplies as one constant, and only the result is rounded.

use super::emit::{quantized, suffixed};
use super::rewrite::Rewriter;
use super::sums::sum_scales;
use super::{Affine, QuantizeError};
use crate::proto::NodeProto;

impl Rewriter<'_> {
    /// Returns whether an int8 node must be written by [`Rewriter::scaled`]: the scales are
    /// trained, the node sums, multiplies or averages, and every reader of the node's result also
    /// works with the result divided by its scale.
    pub(super) fn is_scaled(&self, node: &NodeProto) -> bool {
        let operator = matches!(
            node.op_type.as_str(),
            "Add" | "Mul" | "GlobalAveragePool" | "ReduceMean"
        );
        let output = &node.output[0];
        let mut readers = self.network.consumers(output).iter();
        let fit = readers.all(|reader| self.reads_scaled(output, &self.network.nodes()[*reader]));
        self.recipe.trained && operator && fit
    }

    /// Returns whether `reader` computes the same result if its operand `value` is divided by the
    /// scale of `value`.
    fn reads_scaled(&self, value: &str, reader: &NodeProto) -> bool {
        match reader.op_type.as_str() {
            "Relu" => reader.output.first().is_some_and(|output| {
                let scales = [output.as_str(), value].map(|value| self.affine(value).ok());
                scales[0] == scales[1]
            }),
            // A Clip would have to divide its limits by the scale, too.
            "Clip" => false,
            _ => true,
        }
    }

    /// Writes an int8 node whose result is divided by the result's scale already, so that
    /// `QuantizeLinear` only rounds it.
    pub(super) fn scaled(&mut self, node: &NodeProto) -> Result<(), QuantizeError> {
        let output = &node.output[0];
        let y = self.affine(output)?;
        let mut operands = Vec::with_capacity(2);
        for value in &node.input {
            if !value.is_empty() && !self.network.is_constant(value) {
                operands.push((value, self.operand(value)?.1));
            }
        }
        let (op, scales) = match (node.op_type.as_str(), operands.as_slice()) {
            // ONNX Runtime would fuse `Add` into an int8 kernel that rounds differently from torch;
            // it does not fuse `Sum`.
            ("Add", [(_, a), (_, b)]) => ("Sum", sum_scales(*a, *b, y).to_vec()),
            ("Mul", [(_, a), (_, b)]) => ("Mul", vec![product_scale(*a, *b, y), 1.0]),
            // A mean's sum of integers is exact, so the division is the only operation that rounds.
            (_, [(_, x)]) => ("GlobalAveragePool", vec![x.scale / y.scale]),
            _ => return self.arithmetic(node),
        };
        let mut inputs = Vec::with_capacity(operands.len());
        for (index, ((value, affine), scale)) in operands.into_iter().zip(scales).enumerate() {
            let read = suffixed(output, &format!("operand_{index}"));
            self.dequantize_as(&quantized(value), &read, Affine { scale, ..affine });
            inputs.push(read);
        }
        self.push(op, &node.name, &inputs, &self.written(output), None);
        self.scaled_values.insert(output.clone());
        Ok(())
    }

    /// Divides the network's input `value` by its scale and returns the name of the quotient. The
    /// division is written as a product with the inverse of the scale, as torch computes it: the
    /// division of `QuantizeLinear` has another result for about one element in 100,000.
    pub(super) fn scaled_input(&mut self, value: &str, affine: Affine) -> String {
        let (inverse, scaled) = (suffixed(value, "inverse"), suffixed(value, "steps"));
        self.float(&inverse, 1.0 / affine.scale);
        self.push("Mul", "", &[value.to_owned(), inverse], &scaled, None);
        self.scaled_values.insert(value.to_owned());
        scaled
    }
}

/// Returns the factor `scale a * scale b / scale y` of a product `y` of `a` and `b`, rounded in the
/// order in which torch rounds.
///
/// Source: torch's `qmul_kernel`.
fn product_scale(a: Affine, b: Affine, y: Affine) -> f32 {
    a.scale * b.scale * (1.0 / y.scale)
}
