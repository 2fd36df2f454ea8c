//! Activations, built from the operators that ONNX Runtime fuses into one operator.

use crate::error::BuildError;
use crate::graph::{Graph, Value};

/// An activation: a function of `x` that is applied to every element of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Activation {
    /// `x`, unchanged.
    Identity,
    /// `max(x, 0)`.
    Relu,
    /// `clip(x, 0, 6)`.
    Relu6,
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
    /// `clip(x / 6 + 1/2, 0, 1)`.
    HardSigmoid,
    /// `x * hard_sigmoid(x)`, the h-swish of the MobileNetV3 paper.
    HardSwish,
    /// `x * sigmoid(x)`, also called swish.
    Silu,
    /// `x / 2 * (1 + erf(x / sqrt(2)))`, without the tanh approximation.
    Gelu,
}

impl Activation {
    /// Adds the activation of the value `x`, which may have any shape, and returns the result.
    ///
    /// # Errors
    /// [`BuildError::Type`] if `x` is not f32 and the activation is [`Self::HardSwish`],
    /// [`Self::Silu`] or [`Self::Gelu`]. The other activations do not check the data type.
    pub fn apply(self, g: &mut Graph, x: Value) -> Result<Value, BuildError> {
        Ok(match self {
            Self::Identity => x,
            Self::Relu => g.relu(x),
            Self::Relu6 => g.clip(x, 0.0, 6.0),
            Self::Sigmoid => g.sigmoid(x),
            Self::HardSigmoid => g.hard_sigmoid(x),
            Self::HardSwish => {
                let gate = g.hard_sigmoid(x);
                g.mul(x, gate)?
            }
            Self::Silu => {
                let gate = g.sigmoid(x);
                g.mul(x, gate)?
            }
            Self::Gelu => gelu(g, x)?,
        })
    }
}

/// Adds GELU in the order of operations that ONNX Runtime fuses into one operator.
fn gelu(g: &mut Graph, x: Value) -> Result<Value, BuildError> {
    let root = g.scalar(std::f32::consts::SQRT_2);
    let scaled = g.div(x, root)?;
    let erf = g.erf(scaled);
    let one = g.scalar(1.0);
    let sum = g.add(erf, one)?;
    let product = g.mul(x, sum)?;
    let half = g.scalar(0.5);
    g.mul(product, half)
}
