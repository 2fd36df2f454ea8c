//! A method of [`Graph`] for each ONNX operator, named after the operator, with its shape rule.
//!
//! A method returns an error that names the operator and the module if an operand has a wrong shape or
//! data type, or if an attribute is out of range. It never adds a node that contradicts its operands.
//!
//! Source: the operators' specifications in the ONNX documentation (opset 13 to 21).

mod arithmetic;
mod conv;
mod elementwise;
mod join;
mod linear;
mod pool;
mod reshape;
mod resize;
mod roi;
mod select;

pub use conv::{Conv, ConvData, ConvWeights, Padding};
pub use pool::MaxPool;
pub use roi::{Regions, RoiAlign};
pub use select::NonMaxSuppression;

use super::{Dim, Element, Graph, Value};
use crate::error::BuildError;

/// Largest kernel, stride, dilation or padding, so that sizes computed from them do not overflow.
const MAX_EXTENT: usize = 1 << 16;

/// Sizes of a value `[N, C, H, W]` with a fixed channel count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Nchw {
    batch: Dim,
    channels: usize,
    height: Dim,
    width: Dim,
}

impl Graph {
    /// Returns the channel count of a value `[N, C, H, W]`.
    ///
    /// # Errors
    /// [`BuildError::Shape`] if `x` has another rank or dynamic channels.
    pub fn channels(&self, x: Value) -> Result<usize, BuildError> {
        Ok(self.nchw("Conv", &self.scope_of(x), x)?.channels)
    }

    /// Returns the sizes of `x`, an operand of `op` in module `scope`, or an error if `x` is not
    /// `[N, C, H, W]` with a fixed C.
    fn nchw(&self, op: &'static str, scope: &str, x: Value) -> Result<Nchw, BuildError> {
        match *self.shape(x) {
            [batch, Dim::Fixed(channels), height, width] => Ok(Nchw {
                batch,
                channels,
                height,
                width,
            }),
            _ => Err(self.shape_error(op, scope, x, "[N, C, H, W]")),
        }
    }

    /// Returns the error for the operand `x` of `op`, whose shape is not `expected`.
    pub(crate) fn shape_error(
        &self,
        op: &'static str,
        scope: &str,
        x: Value,
        expected: impl Into<String>,
    ) -> BuildError {
        BuildError::Shape {
            op,
            scope: scope.to_owned(),
            operand: self.info(x).name.clone(),
            expected: expected.into(),
            got: self.show_shape(self.shape(x)),
        }
    }

    /// Checks that `x`, an operand of `op`, has the data type `expected`.
    fn require_type(
        &self,
        op: &'static str,
        x: Value,
        expected: Element,
    ) -> Result<(), BuildError> {
        let got = self.info(x).element;
        if got == expected {
            return Ok(());
        }
        Err(BuildError::Type {
            op,
            scope: self.scope_of(x),
            operand: self.info(x).name.clone(),
            expected: expected.as_str(),
            got: got.as_str(),
        })
    }
}

/// A numeric attribute of a node that is about to be added.
#[derive(Debug, Clone, Copy)]
struct Extent {
    name: &'static str,
    value: usize,
}

impl Extent {
    fn new(name: &'static str, value: usize) -> Self {
        Self { name, value }
    }

    /// Checks that the attribute is at least 1 and at most [`MAX_EXTENT`].
    fn check(self, op: &'static str, scope: &str) -> Result<(), BuildError> {
        if (1..=MAX_EXTENT).contains(&self.value) {
            return Ok(());
        }
        let expected = format!("1 to {MAX_EXTENT}");
        Err(attribute_error(op, scope, self, expected))
    }
}

/// Returns the error for an attribute of `op` whose value is not `expected`.
fn attribute_error(
    op: &'static str,
    scope: &str,
    attribute: Extent,
    expected: impl Into<String>,
) -> BuildError {
    BuildError::Attribute {
        op,
        scope: scope.to_owned(),
        attribute: attribute.name,
        expected: expected.into(),
        got: attribute.value.to_string(),
    }
}

#[cfg(test)]
mod tests;
