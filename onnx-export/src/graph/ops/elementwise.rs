//! Operators that map every element of one operand, and means and sums over axes.

use super::super::{Attr, Attrs, Dim, Element, Graph, Output, Value};
use super::Nchw;
use crate::error::BuildError;
use crate::proto::{FLOAT, INT64};

impl Graph {
    /// Adds `Relu`, any shape.
    pub fn relu(&mut self, x: Value) -> Value {
        self.elementwise("Relu", x, vec![])
    }

    /// Adds `Clip` to `low..=high`, any shape.
    pub fn clip(&mut self, x: Value, low: f32, high: f32) -> Value {
        let bounds = [self.scalar(low), self.scalar(high)];
        let (scope, shape) = (self.scope_of(x), self.shape(x).to_vec());
        self.node("Clip", &scope, vec![x, bounds[0], bounds[1]], shape, vec![])
    }

    /// Adds `Sigmoid`, any shape.
    pub fn sigmoid(&mut self, x: Value) -> Value {
        self.elementwise("Sigmoid", x, vec![])
    }

    /// Adds `HardSigmoid` with torch's slope, `clip(x / 6 + 1/2, 0, 1)`, any shape.
    pub fn hard_sigmoid(&mut self, x: Value) -> Value {
        let attrs = vec![
            ("alpha", Attr::Float(1.0 / 6.0)),
            ("beta", Attr::Float(0.5)),
        ];
        self.elementwise("HardSigmoid", x, attrs)
    }

    /// Adds `Exp`, any shape.
    pub fn exp(&mut self, x: Value) -> Value {
        self.elementwise("Exp", x, vec![])
    }

    /// Adds `Sqrt`, any shape.
    pub fn sqrt(&mut self, x: Value) -> Value {
        self.elementwise("Sqrt", x, vec![])
    }

    /// Adds `Erf`, the Gauss error function, any shape.
    pub fn erf(&mut self, x: Value) -> Value {
        self.elementwise("Erf", x, vec![])
    }

    /// Adds `Softmax` over the last axis, any shape.
    pub fn softmax(&mut self, x: Value) -> Value {
        self.elementwise("Softmax", x, vec![("axis", Attr::Int(-1))])
    }

    /// Adds `Cast` to f32, any shape.
    pub fn to_f32(&mut self, x: Value) -> Value {
        self.cast(x, Element::F32, FLOAT)
    }

    /// Adds `Cast` to i64, any shape.
    pub fn to_i64(&mut self, x: Value) -> Value {
        self.cast(x, Element::I64, INT64)
    }

    /// Adds `ReduceMean` of `[N, C, H, W]` over the pixels, with output `[N, C, 1, 1]`.
    ///
    /// `GlobalAveragePool` is not used: ONNX Runtime sums its pixels one by one in a blocked layout. The
    /// gates of squeeze-and-excitation amplify the rounding errors until the logits of a MobileNetV3-Large
    /// differ from torch's by 1.5e-4 of their standard deviation. `ReduceMean` takes the same time and
    /// differs by 5e-5.
    ///
    /// # Errors
    /// [`BuildError::Shape`] if `x` is not `[N, C, H, W]`.
    pub fn mean_pixels(&mut self, x: Value) -> Result<Value, BuildError> {
        let Nchw {
            batch, channels, ..
        } = self.nchw("ReduceMean", &self.scope_of(x), x)?;
        let one = Dim::Fixed(1);
        let shape = vec![batch, Dim::Fixed(channels), one, one];
        Ok(self.reduce_mean(x, &[2, 3], shape))
    }

    /// Adds `ReduceMean` over the last axis, whose size becomes 1.
    ///
    /// # Errors
    /// [`BuildError::Shape`] if `x` is a scalar.
    pub fn mean_last(&mut self, x: Value) -> Result<Value, BuildError> {
        let mut shape = self.shape(x).to_vec();
        let Some(last) = shape.last_mut() else {
            return Err(self.shape_error("ReduceMean", &self.scope_of(x), x, "[..., n]"));
        };
        *last = Dim::Fixed(1);
        Ok(self.reduce_mean(x, &[-1], shape))
    }

    /// Adds `ReduceSum` over the last axis, which is removed.
    ///
    /// # Errors
    /// [`BuildError::Shape`] if `x` is a scalar.
    pub fn sum_last(&mut self, x: Value) -> Result<Value, BuildError> {
        let scope = self.scope_of(x);
        let Some((_, rest)) = self.shape(x).split_last() else {
            return Err(self.shape_error("ReduceSum", &scope, x, "[..., n]"));
        };
        let output = Output::new(rest.to_vec(), self.info(x).element);
        let axes = self.list("axes", &[-1]);
        let attrs = vec![("keepdims", Attr::Int(0))];
        Ok(self.node_of("ReduceSum", &scope, vec![x, axes], vec![output], attrs)[0])
    }

    fn reduce_mean(&mut self, x: Value, axes: &[i64], shape: Vec<Dim>) -> Value {
        let scope = self.scope_of(x);
        let mut attrs = vec![("keepdims", Attr::Int(1))];
        let mut inputs = vec![x];
        // The axes became an operand in opset 18.
        if self.opset < 18 {
            attrs.push(("axes", Attr::Ints(axes.to_vec())));
        } else {
            inputs.push(self.list("axes", axes));
        }
        self.node("ReduceMean", &scope, inputs, shape, attrs)
    }

    fn elementwise(&mut self, op: &'static str, x: Value, attrs: Attrs) -> Value {
        let scope = self.scope_of(x);
        let output = Output::new(self.shape(x).to_vec(), self.info(x).element);
        self.node_of(op, &scope, vec![x], vec![output], attrs)[0]
    }

    fn cast(&mut self, x: Value, element: Element, to: i32) -> Value {
        let (scope, shape) = (self.scope_of(x), self.shape(x).to_vec());
        let attrs = vec![("to", Attr::Int(to.into()))];
        let output = Output::new(shape, element);
        self.node_of("Cast", &scope, vec![x], vec![output], attrs)[0]
    }
}
