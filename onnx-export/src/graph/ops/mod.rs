//! One method per ONNX operator, named as ONNX names it, each with its shape rule.
//!
//! Source: the operators' specifications in the ONNX documentation (opset 13 to 21).

mod arithmetic;
mod layout;
mod reshape;
mod roi;
mod select;
mod window;

pub use roi::{Regions, RoiAlign};
pub use select::NonMaxSuppression;
pub use window::{Conv, ConvWeights, Padding};

use super::{Attr, Dim, Graph, Shape, Value};
use crate::error::BuildError;

impl Graph {
    /// `Relu`, any shape.
    pub fn relu(&mut self, x: Value) -> Value {
        self.elementwise("Relu", x, vec![])
    }

    /// `Clip` to `low..=high`, any shape.
    pub fn clip(&mut self, x: Value, low: f32, high: f32) -> Value {
        let bounds = [self.scalar(low), self.scalar(high)];
        let (scope, shape) = (self.scope_of(x), self.shape(x).to_vec());
        self.node("Clip", &scope, vec![x, bounds[0], bounds[1]], shape, vec![])
    }

    /// `Sigmoid`, any shape.
    pub fn sigmoid(&mut self, x: Value) -> Value {
        self.elementwise("Sigmoid", x, vec![])
    }

    /// `HardSigmoid` with torch's slope: `clip(x / 6 + 1/2, 0, 1)`, any shape.
    pub fn hard_sigmoid(&mut self, x: Value) -> Value {
        let attrs = vec![
            ("alpha", Attr::Float(1.0 / 6.0)),
            ("beta", Attr::Float(0.5)),
        ];
        self.elementwise("HardSigmoid", x, attrs)
    }

    /// `Add` of equal shapes.
    ///
    /// # Errors
    /// [`BuildError::Shape`] if the shapes differ.
    pub fn add(&mut self, left: Value, right: Value) -> Result<Value, BuildError> {
        if self.shape(left) != self.shape(right) {
            let expected = self.show_shape(self.shape(left));
            return Err(self.shape_error("Add", &self.scope_of(left), right, expected));
        }
        let (scope, shape) = (self.scope_of(left), self.shape(left).to_vec());
        Ok(self.node("Add", &scope, vec![left, right], shape, vec![]))
    }

    /// `Mul` of equal shapes, or of `[N, C, H, W]` with a per-channel factor `[N, C, 1, 1]`.
    ///
    /// # Errors
    /// [`BuildError::Shape`] if the factor has another shape.
    pub fn mul(&mut self, x: Value, factor: Value) -> Result<Value, BuildError> {
        let (left, right) = (self.shape(x), self.shape(factor));
        let broadcasts = left.len() == right.len()
            && left
                .iter()
                .zip(right)
                .all(|(l, r)| l == r || *r == Dim::Fixed(1));
        if !broadcasts {
            let expected = format!("{} or 1s in its place", self.show_shape(left));
            return Err(self.shape_error("Mul", &self.scope_of(x), factor, expected));
        }
        let (scope, shape) = (self.scope_of(x), left.to_vec());
        Ok(self.node("Mul", &scope, vec![x, factor], shape, vec![]))
    }

    /// `ReduceMean` of `[N, C, H, W]` over the pixels, to `[N, C, 1, 1]`.
    ///
    /// ONNX Runtime's `GlobalAveragePool` adds the pixels of a blocked layout one by one; the gates
    /// of squeeze-and-excitation amplify that rounding until a MobileNetV3-Large misses torch's
    /// logits by 1.5e-4 of their spread. `ReduceMean` takes the same time and misses by 5e-5.
    ///
    /// # Errors
    /// [`BuildError::Shape`] if `x` is not `[N, C, H, W]`.
    pub fn mean_pixels(&mut self, x: Value) -> Result<Value, BuildError> {
        let scope = self.scope_of(x);
        let (channels, [batch, ..]) = self.picture("ReduceMean", &scope, x)?;
        let shape = vec![batch, Dim::Fixed(channels), Dim::Fixed(1), Dim::Fixed(1)];
        let mut attrs = vec![("keepdims", Attr::Int(1))];
        let mut inputs = vec![x];
        // The axes became an operand in opset 18.
        if self.opset < 18 {
            attrs.push(("axes", Attr::Ints(vec![2, 3])));
        } else {
            inputs.push(self.list("axes", &[2, 3]));
        }
        Ok(self.node("ReduceMean", &scope, inputs, shape, attrs))
    }

    /// The channel count of a `[N, C, H, W]` value.
    ///
    /// # Errors
    /// [`BuildError::Shape`] if `x` has another rank or dynamic channels.
    pub fn channels(&self, x: Value) -> Result<usize, BuildError> {
        Ok(self.picture("Conv", &self.scope_of(x), x)?.0)
    }

    fn elementwise(
        &mut self,
        op: &'static str,
        x: Value,
        attrs: Vec<(&'static str, Attr)>,
    ) -> Value {
        let (scope, shape): (String, Shape) = (self.scope_of(x), self.shape(x).to_vec());
        self.node(op, &scope, vec![x], shape, attrs)
    }

    /// Channels, and [batch, height, width], of a `[N, C, H, W]` value.
    fn picture(
        &self,
        op: &'static str,
        scope: &str,
        x: Value,
    ) -> Result<(usize, [Dim; 3]), BuildError> {
        match *self.shape(x) {
            [batch, Dim::Fixed(channels), height, width] => Ok((channels, [batch, height, width])),
            _ => Err(self.shape_error(op, scope, x, "[N, C, H, W]".into())),
        }
    }

    fn shape_error(&self, op: &'static str, scope: &str, x: Value, expected: String) -> BuildError {
        let got = self.show_shape(self.shape(x));
        BuildError::Shape {
            op,
            scope: scope.to_owned(),
            operand: "input",
            expected,
            got,
        }
    }
}
