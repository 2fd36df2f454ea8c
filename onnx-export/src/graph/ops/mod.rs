//! Methods of [`Graph`], each of which adds the node of one ONNX operator and computes the shape of
//! its output.
//!
//! A method returns an error that names the operator and the module if it finds an operand with a
//! wrong shape or data type, or an attribute that is out of range. No method adds a node whose
//! operands have shapes that the operator does not accept.
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

/// Maximum kernel, stride, dilation or padding in elements. It prevents overflow of the sizes that
/// are computed from them.
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
    /// [`BuildError::Shape`] if `x` has another rank than 4 or a dynamic channel count.
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
            _ => Err(self.shape_error(op, scope, x, "[N, C, H, W] with a fixed C")),
        }
    }

    /// Returns the error that the shape of `x`, an operand of `op` in module `scope`, is not
    /// `expected`.
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

/// Name and value of a numeric attribute of a node that is about to be added.
#[derive(Debug, Clone, Copy)]
struct Extent {
    name: &'static str,
    value: usize,
}

impl Extent {
    fn new(name: &'static str, value: usize) -> Self {
        Self { name, value }
    }

    /// Checks that the value of the attribute is 1 to [`MAX_EXTENT`].
    fn check(self, op: &'static str, scope: &str) -> Result<(), BuildError> {
        if (1..=MAX_EXTENT).contains(&self.value) {
            return Ok(());
        }
        let expected = format!("1 to {MAX_EXTENT}");
        Err(attribute_error(op, scope, self, expected))
    }
}

/// Returns the error that the value of `attribute`, an attribute of `op` in module `scope`, is not
/// `expected`.
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
