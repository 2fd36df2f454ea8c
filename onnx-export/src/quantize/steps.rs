//! Writes operators of networks with trained scales so that their int8 results equal torch's.
//!
//! They compute in units of the result's scale: `DequantizeLinear` reads each operand with the scale
//! `operand scale / result scale`, and `QuantizeLinear` has scale 1. So the file contains the factor that torch
//! multiplies by as one constant, and no other rounding happens on the way.

use super::emit::{quantized, suffixed};
use super::rewrite::Rewriter;
use super::sums::sum_scales;
use super::{Affine, QuantizeError};
use crate::proto::NodeProto;

impl Rewriter<'_> {
    /// Returns whether an int8 node must be written by [`Rewriter::scaled`]: the scales are trained, its operator
    /// sums, multiplies or averages, and no reader of its result needs other units.
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

    /// Returns whether `reader` computes the same if its operand `value` is divided by the scale of `value`.
    fn reads_scaled(&self, value: &str, reader: &NodeProto) -> bool {
        match reader.op_type.as_str() {
            "Relu" => self.affine(&reader.output[0]).ok() == self.affine(value).ok(),
            // The limits of a Clip are not divided by the scale.
            "Clip" => false,
            _ => true,
        }
    }

    /// Writes an int8 node whose result is in units of its scale, so that quantization only rounds it.
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
            // ONNX Runtime would fuse `Add` into an int8 kernel with another rounding; it leaves `Sum` alone.
            ("Add", [(_, a), (_, b)]) => ("Sum", sum_scales(*a, *b, y).to_vec()),
            ("Mul", [(_, a), (_, b)]) => ("Mul", vec![product_scale(*a, *b, y), 1.0]),
            // The sum of integers is exact, so only the division of the mean rounds.
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

    /// Divides an input of the network by its scale; returns the name of the result. Writes a product with the
    /// inverse of the scale, as torch computes: the division of `QuantizeLinear` differs for about one element in
    /// 100,000.
    pub(super) fn scaled_input(&mut self, value: &str, affine: Affine) -> String {
        let (inverse, scaled) = (suffixed(value, "inverse"), suffixed(value, "steps"));
        self.float(&inverse, 1.0 / affine.scale);
        self.push("Mul", "", &[value.to_owned(), inverse], &scaled, None);
        self.scaled_values.insert(value.to_owned());
        scaled
    }
}

/// Returns `scale a * scale b / scale y`, in torch's order of rounding.
///
/// Source: torch's `qmul_kernel`.
fn product_scale(a: Affine, b: Affine, y: Affine) -> f32 {
    a.scale * b.scale * (1.0 / y.scale)
}
