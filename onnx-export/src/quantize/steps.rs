//! Operators between trained ranges, which come to torch's integers.
//!
//! They count in steps of their result: `DequantizeLinear` reads each operand with the scale that says how many
//! steps of the result one of its own is, and `QuantizeLinear` has scale 1. So the factor that torch rounds with
//! is in the file as one number, and no other scale is rounded on the way.

use super::emit::{quantized, suffixed};
use super::rewrite::Rewriter;
use super::sums::sum_scales;
use super::{Affine, QuantizeError};
use crate::proto::NodeProto;

impl Rewriter<'_> {
    /// Whether an operator of 8-bit numbers is one of these.
    pub(super) fn counts_steps(&self, node: &NodeProto) -> bool {
        let operator = matches!(
            node.op_type.as_str(),
            "Add" | "Mul" | "GlobalAveragePool" | "ReduceMean"
        );
        let output = &node.output[0];
        let mut readers = self.network.consumers(output).iter();
        let fit = readers.all(|reader| self.takes_steps(output, &self.network.nodes()[*reader]));
        self.recipe.trained && operator && fit
    }

    /// Whether what may be written between `value` and its `QuantizeLinear` is the same in steps.
    fn takes_steps(&self, value: &str, reader: &NodeProto) -> bool {
        match reader.op_type.as_str() {
            "Relu" => self.affine(&reader.output[0]).ok() == self.affine(value).ok(),
            // Its limits are not.
            "Clip" => false,
            _ => true,
        }
    }

    /// Writes it.
    pub(super) fn in_steps(&mut self, node: &NodeProto) -> Result<(), QuantizeError> {
        let output = &node.output[0];
        let y = self.affine(output)?;
        let mut operands = Vec::with_capacity(2);
        for value in &node.input {
            if !value.is_empty() && !self.network.is_constant(value) {
                operands.push((value, self.operand(value)?.1));
            }
        }
        let (op, scales) = match (node.op_type.as_str(), operands.as_slice()) {
            // ONNX Runtime's kernel of 8-bit additions rounds otherwise; a `Sum` is none to it.
            ("Add", [(_, a), (_, b)]) => ("Sum", sum_scales(*a, *b, y).to_vec()),
            ("Mul", [(_, a), (_, b)]) => ("Mul", vec![product_scale(*a, *b, y), 1.0]),
            // A whole number, until it is divided.
            (_, [(_, x)]) => ("GlobalAveragePool", vec![x.scale / y.scale]),
            _ => return self.arithmetic(node),
        };
        let mut inputs = Vec::with_capacity(operands.len());
        for (index, ((value, affine), scale)) in operands.into_iter().zip(scales).enumerate() {
            let read = suffixed(output, &format!("operand_{index}"));
            self.reading(&quantized(value), &read, Affine { scale, ..affine });
            inputs.push(read);
        }
        self.push(op, &node.name, &inputs, &self.written(output), None);
        self.counted.insert(output.clone());
        Ok(())
    }

    /// An input of the network in steps: torch multiplies by what `QuantizeLinear` divides by, which differs
    /// once in some 100,000 numbers.
    pub(super) fn input_in_steps(&mut self, value: &str, affine: Affine) -> String {
        let (inverse, steps) = (suffixed(value, "inverse"), suffixed(value, "steps"));
        self.number(&inverse, 1.0 / affine.scale);
        self.push("Mul", "", &[value.to_owned(), inverse], &steps, None);
        self.counted.insert(value.to_owned());
        steps
    }
}

/// Steps of a product for each product of its operands' steps, in torch's order of rounding.
///
/// Source: torch's `qmul_kernel`.
fn product_scale(a: Affine, b: Affine, y: Affine) -> f32 {
    a.scale * b.scale * (1.0 / y.scale)
}
