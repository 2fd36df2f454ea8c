//! Operators that map every element of one operand, and means and sums over axes.

use super::super::{Attr, Attrs, Dim, Element, Graph, Output, Value};
use super::Nchw;
use crate::error::BuildError;
use crate::proto::{FLOAT, INT64};

impl Graph {
    /// Adds `Relu` of `x`, which may have any shape.
    pub fn relu(&mut self, x: Value) -> Value {
        self.elementwise("Relu", x, vec![])
    }

    /// Adds `Clip` of `x` to the range `low..=high`. `x` may have any shape.
    pub fn clip(&mut self, x: Value, low: f32, high: f32) -> Value {
        let bounds = [self.scalar(low), self.scalar(high)];
        let (scope, shape) = (self.scope_of(x), self.shape(x).to_vec());
        self.node("Clip", &scope, vec![x, bounds[0], bounds[1]], shape, vec![])
    }

    /// Adds `Sigmoid` of `x`, which may have any shape.
    pub fn sigmoid(&mut self, x: Value) -> Value {
        self.elementwise("Sigmoid", x, vec![])
    }

    /// Adds `HardSigmoid` of `x`, which may have any shape, with torch's slope:
    /// `clip(x / 6 + 1/2, 0, 1)`.
    pub fn hard_sigmoid(&mut self, x: Value) -> Value {
        let attrs = vec![
            ("alpha", Attr::Float(1.0 / 6.0)),
            ("beta", Attr::Float(0.5)),
        ];
        self.elementwise("HardSigmoid", x, attrs)
    }

    /// Adds `Exp`, the exponential function, of `x`, which may have any shape.
    pub fn exp(&mut self, x: Value) -> Value {
        self.elementwise("Exp", x, vec![])
    }

    /// Adds `Sqrt` of `x`, which may have any shape.
    pub fn sqrt(&mut self, x: Value) -> Value {
        self.elementwise("Sqrt", x, vec![])
    }

    /// Adds `Erf`, the Gauss error function, of `x`, which may have any shape.
    pub fn erf(&mut self, x: Value) -> Value {
        self.elementwise("Erf", x, vec![])
    }

    /// Adds `Softmax` over the last axis of `x`, which may have any shape.
    pub fn softmax(&mut self, x: Value) -> Value {
        self.elementwise("Softmax", x, vec![("axis", Attr::Int(-1))])
    }

    /// Adds `Cast` of `x` to f32. `x` may have any shape.
    pub fn to_f32(&mut self, x: Value) -> Value {
        self.cast(x, Element::F32, FLOAT)
    }

    /// Adds `Cast` of `x` to i64. `x` may have any shape.
    pub fn to_i64(&mut self, x: Value) -> Value {
        self.cast(x, Element::I64, INT64)
    }

    /// Adds `ReduceMean` of `x` `[N, C, H, W]` over the pixels, with output `[N, C, 1, 1]`.
    ///
    /// `GlobalAveragePool` would be less precise, because ONNX Runtime then sums the pixels one by
    /// one in a blocked layout. The gates of squeeze-and-excitation amplify these rounding errors
    /// until the logits of a MobileNetV3-Large differ from those of torch by 1.5e-4 of their
    /// standard deviation. With `ReduceMean`, which takes the same time, the logits differ by 5e-5.
    ///
    /// # Errors
    /// [`BuildError::Shape`] if `x` is not `[N, C, H, W]` with a fixed C.
    pub fn mean_pixels(&mut self, x: Value) -> Result<Value, BuildError> {
        let Nchw {
            batch, channels, ..
        } = self.nchw("ReduceMean", &self.scope_of(x), x)?;
        let one = Dim::Fixed(1);
        let shape = vec![batch, Dim::Fixed(channels), one, one];
        Ok(self.reduce_mean(x, &[2, 3], shape))
    }

    /// Adds `ReduceMean` over the last axis of `x`. The axis remains with size 1.
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

    /// Adds `ReduceSum` over the last axis of `x`. The axis is removed.
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
        // Up to opset 17, the axes of `ReduceMean` are an attribute; from opset 18 on, they are an
        // operand.
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
