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

/// Of the number 1: a half.
const HALF: Affine = Affine {
    scale: 0.5,
    zero_point: 0,
};

impl Rewriter<'_> {
    /// A hard sigmoid of a convolution's result.
    ///
    /// Between -3 and the largest result there are 255 steps from `q = 0`. Read with a sixth of the step
    /// and without zero point the same bytes stand for `(x + 3) / 6`, and 8 bits that end at 1 saturate as
    /// the hard sigmoid does. A `Concat` of one operand in between makes ONNX Runtime compile that
    /// change of scale into one table.
    pub(super) fn gate(&mut self, node: &NodeProto) -> Result<(), QuantizeError> {
        if self.recipe.trained {
            return self.trained_gate(node);
        }
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

    /// A hard sigmoid between trained ranges: an addition that saturates, of a sixth of the operand, which is
    /// its bytes read with a sixth of their step, and a half.
    fn trained_gate(&mut self, node: &NodeProto) -> Result<(), QuantizeError> {
        let (x, y) = (&node.input[0], &node.output[0]);
        let (_, affine) = self.operand(x)?;
        let scale = affine.scale / 6.0;
        let sixth = suffixed(y, "sixth");
        self.reading(&quantized(x), &sixth, Affine { scale, ..affine });
        let (one, half) = (self.byte(1), suffixed(y, "half"));
        self.reading(&one, &half, HALF);
        self.push("Add", &node.name, &[sixth, half], y, None);
        let range = self.range(y)?;
        self.pair(y, y, Affine::covering(range));
        Ok(())
    }

    /// What 8-bit numbers stand for, once more and otherwise: `name` becomes `(q - zero_point) * scale`.
    fn reading(&mut self, quantized: &str, name: &str, affine: Affine) {
        let scale = scale_of(name);
        let zero_point = self.scalars(&scale, affine);
        let inputs = [quantized.to_owned(), scale, zero_point];
        self.push("DequantizeLinear", "", &inputs, name, None);
    }
}
