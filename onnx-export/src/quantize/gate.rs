//! Writes hard sigmoids and hard swishes of int8 networks.

use super::emit::{quantized, scale_of, suffixed};
use super::rewrite::Rewriter;
use super::{Affine, QuantizeError};
use crate::proto::NodeProto;

/// Scale and zero point of a hard sigmoid's result: the quantized value 255 stands for 1.
const GATE: Affine = Affine {
    scale: 1.0 / 255.0,
    zero_point: 0,
};

/// First opset with the operator `HardSwish`.
const HARD_SWISH: i64 = 14;

impl Rewriter<'_> {
    /// Writes a hard sigmoid of an int8 node's result as a requantization.
    ///
    /// The quantized range of the operand `x` begins at exactly -3. If the bytes of `x` are
    /// dequantized with a sixth of the scale of `x` and zero point 0, they stand for `(x + 3) / 6`.
    /// Quantizing this value to a range that ends at 1 saturates as the hard sigmoid does. A
    /// `Concat` of one operand before that quantization makes ONNX Runtime compile the
    /// requantization into one lookup table.
    pub(super) fn gate(&mut self, node: &NodeProto) -> Result<(), QuantizeError> {
        let (x, y) = (&node.input[0], &node.output[0]);
        let affine = Affine::from_minus_three(self.range(x)?.max);
        self.pair(x, x, affine);
        let read = suffixed(y, "read");
        let sixth = Affine {
            scale: affine.scale / 6.0,
            zero_point: 0,
        };
        self.dequantize_as(&quantized(x), &read, sixth);
        self.push("Concat", &node.name, &[read], y, Some(("axis", 1)));
        self.pair(y, y, GATE);
        Ok(())
    }

    /// Writes the hard swish whose last node is `product` as fp32 operators, so that only the
    /// result of the hard swish is rounded.
    ///
    /// From opset 14 on, the hard swish is written as one `HardSwish`. For opset 13, it is a
    /// `HardSigmoid` and a product that read the same `DequantizeLinear`, which ONNX Runtime
    /// duplicates.
    pub(super) fn swish(&mut self, product: &NodeProto) -> Result<(), QuantizeError> {
        let Some(gate) = self.step(product) else {
            return Ok(());
        };
        let (read, _) = self.operand(&gate.input[0])?;
        let (gated, output) = (&gate.output[0], self.written(&product.output[0]));
        if self.network.opset() >= HARD_SWISH {
            self.push("HardSwish", &product.name, &[read], &output, None);
            return Ok(());
        }
        self.nodes.push(NodeProto {
            input: vec![read.clone()],
            ..gate.clone()
        });
        self.push("Mul", &product.name, &[read, gated.clone()], &output, None);
        Ok(())
    }

    /// Writes a `DequantizeLinear` that reads the integer tensor `quantized` and writes `name`. It
    /// uses `affine` in place of the scale and zero point with which `quantized` was quantized.
    pub(super) fn dequantize_as(&mut self, quantized: &str, name: &str, affine: Affine) {
        let scale = scale_of(name);
        let zero_point = self.scalars(&scale, affine);
        let inputs = [quantized.to_owned(), scale, zero_point];
        self.push("DequantizeLinear", "", &inputs, name, None);
    }
}
