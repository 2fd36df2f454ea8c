//! Hard sigmoids in 8-bit numbers.

use super::emit::{quantized, scale_of, suffixed};
use super::rewrite::Rewriter;
use super::{Affine, QuantizeError};
use crate::proto::NodeProto;

/// The result of a hard sigmoid: 255 is 1.
const GATE: Affine = Affine {
    scale: 1.0 / 255.0,
    zero_point: 0,
};

/// The first opset with that operator.
const HARD_SWISH: i64 = 14;

impl Rewriter<'_> {
    /// A hard sigmoid of a convolution's result.
    ///
    /// Between -3 and the largest result there are 255 steps from `q = 0`. Read with a sixth of the step
    /// and without zero point the same bytes stand for `(x + 3) / 6`, and 8 bits that end at 1 saturate as
    /// the hard sigmoid does. A `Concat` of one operand in between makes ONNX Runtime compile that
    /// change of scale into one table.
    pub(super) fn gate(&mut self, node: &NodeProto) -> Result<(), QuantizeError> {
        let (x, y) = (&node.input[0], &node.output[0]);
        let affine = Affine::from_minus_three(self.range(x)?.max);
        self.pair(x, x, affine);
        let read = suffixed(y, "read");
        let sixth = Affine {
            scale: affine.scale / 6.0,
            zero_point: 0,
        };
        self.reading(&quantized(x), &read, sixth);
        self.push("Concat", &node.name, &[read], y, Some(("axis", 1)));
        self.pair(y, y, GATE);
        Ok(())
    }

    /// A hard swish that is rounded once: the hard sigmoid and its product in floats.
    ///
    /// As one operator it has one `DequantizeLinear`. ONNX Runtime, which makes two nodes of it again, would
    /// give each of them one of its own.
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

    /// What 8-bit numbers stand for, once more and otherwise: `name` becomes `(q - zero_point) * scale`.
    pub(super) fn reading(&mut self, quantized: &str, name: &str, affine: Affine) {
        let scale = scale_of(name);
        let zero_point = self.scalars(&scale, affine);
        let inputs = [quantized.to_owned(), scale, zero_point];
        self.push("DequantizeLinear", "", &inputs, name, None);
    }
}
