//! Operators on single numbers, of shapes that broadcast.

use super::super::{Attr, Dim, Element, Graph, Shape, Value};
use crate::error::BuildError;
use crate::proto::{FLOAT, INT64};

impl Graph {
    /// `Add` of shapes that broadcast.
    ///
    /// # Errors
    /// [`BuildError::Shape`] if they do not.
    pub fn add_broadcast(&mut self, left: Value, right: Value) -> Result<Value, BuildError> {
        self.binary("Add", left, right)
    }

    /// `Sub` of shapes that broadcast.
    ///
    /// # Errors
    /// [`BuildError::Shape`] if they do not.
    pub fn sub(&mut self, left: Value, right: Value) -> Result<Value, BuildError> {
        self.binary("Sub", left, right)
    }

    /// `Mul` of shapes that broadcast.
    ///
    /// # Errors
    /// [`BuildError::Shape`] if they do not.
    pub fn mul_broadcast(&mut self, left: Value, right: Value) -> Result<Value, BuildError> {
        self.binary("Mul", left, right)
    }

    /// `Div` of shapes that broadcast; of whole numbers rounded towards zero.
    ///
    /// # Errors
    /// [`BuildError::Shape`] if they do not.
    pub fn div(&mut self, left: Value, right: Value) -> Result<Value, BuildError> {
        self.binary("Div", left, right)
    }

    /// `Mod` of whole numbers whose shapes broadcast.
    ///
    /// # Errors
    /// [`BuildError::Shape`] if they do not.
    pub fn modulo(&mut self, left: Value, right: Value) -> Result<Value, BuildError> {
        self.binary("Mod", left, right)
    }

    /// `Min` of shapes that broadcast.
    ///
    /// # Errors
    /// [`BuildError::Shape`] if they do not.
    pub fn min(&mut self, left: Value, right: Value) -> Result<Value, BuildError> {
        self.binary("Min", left, right)
    }

    /// `Max` of shapes that broadcast.
    ///
    /// # Errors
    /// [`BuildError::Shape`] if they do not.
    pub fn max(&mut self, left: Value, right: Value) -> Result<Value, BuildError> {
        self.binary("Max", left, right)
    }

    /// `Equal` of shapes that broadcast, to truth values.
    ///
    /// # Errors
    /// [`BuildError::Shape`] if they do not.
    pub fn equal(&mut self, left: Value, right: Value) -> Result<Value, BuildError> {
        self.compare("Equal", left, right)
    }

    /// `GreaterOrEqual` of shapes that broadcast, to truth values.
    ///
    /// # Errors
    /// [`BuildError::Shape`] if they do not.
    pub fn greater_or_equal(&mut self, left: Value, right: Value) -> Result<Value, BuildError> {
        self.compare("GreaterOrEqual", left, right)
    }

    /// `Where`: `yes` where the truth value holds, `no` elsewhere; shapes that broadcast.
    ///
    /// # Errors
    /// [`BuildError::Shape`] if they do not.
    pub fn choose(&mut self, truth: Value, yes: Value, no: Value) -> Result<Value, BuildError> {
        let scope = self.scope_of(yes);
        let both = self.broadcast("Where", &scope, self.shape(yes), no)?;
        let shape = self.broadcast("Where", &scope, &both, truth)?;
        let outputs = vec![(shape, self.info(yes).element)];
        Ok(self.node_of("Where", &scope, vec![truth, yes, no], outputs, vec![])[0])
    }

    /// `Exp`, any shape.
    pub fn exp(&mut self, x: Value) -> Value {
        self.elementwise("Exp", x, vec![])
    }

    /// `Sqrt`, any shape.
    pub fn sqrt(&mut self, x: Value) -> Value {
        self.elementwise("Sqrt", x, vec![])
    }

    /// `Cast` to f32, any shape.
    pub fn to_f32(&mut self, x: Value) -> Value {
        self.cast(x, Element::F32, FLOAT)
    }

    /// `Cast` to i64, any shape.
    pub fn to_i64(&mut self, x: Value) -> Value {
        self.cast(x, Element::I64, INT64)
    }

    /// `Softmax` over the last axis, any shape.
    pub fn softmax(&mut self, x: Value) -> Value {
        self.elementwise("Softmax", x, vec![("axis", Attr::Int(-1))])
    }

    /// `ReduceSum` over the last axis, which goes.
    ///
    /// # Errors
    /// [`BuildError::Shape`] for a scalar.
    pub fn sum_last(&mut self, x: Value) -> Result<Value, BuildError> {
        let scope = self.scope_of(x);
        let Some((_, rest)) = self.shape(x).split_last() else {
            return Err(self.shape_error("ReduceSum", &scope, x, "[..., n]".into()));
        };
        let outputs = vec![(rest.to_vec(), self.info(x).element)];
        let axes = self.list("axes", &[-1]);
        let attrs = vec![("keepdims", Attr::Int(0))];
        Ok(self.node_of("ReduceSum", &scope, vec![x, axes], outputs, attrs)[0])
    }

    fn cast(&mut self, x: Value, element: Element, to: i32) -> Value {
        let (scope, shape) = (self.scope_of(x), self.shape(x).to_vec());
        let attrs = vec![("to", Attr::Int(to.into()))];
        self.node_of("Cast", &scope, vec![x], vec![(shape, element)], attrs)[0]
    }

    fn binary(&mut self, op: &'static str, left: Value, right: Value) -> Result<Value, BuildError> {
        let scope = self.scope_of(left);
        let shape = self.broadcast(op, &scope, self.shape(left), right)?;
        let outputs = vec![(shape, self.info(left).element)];
        Ok(self.node_of(op, &scope, vec![left, right], outputs, vec![])[0])
    }

    fn compare(
        &mut self,
        op: &'static str,
        left: Value,
        right: Value,
    ) -> Result<Value, BuildError> {
        let scope = self.scope_of(left);
        let shape = self.broadcast(op, &scope, self.shape(left), right)?;
        let outputs = vec![(shape, Element::Bool)];
        Ok(self.node_of(op, &scope, vec![left, right], outputs, vec![])[0])
    }

    /// The shape of `left` and `right` together: axes from the last on are equal, or 1 on one side.
    fn broadcast(
        &self,
        op: &'static str,
        scope: &str,
        left: &[Dim],
        right: Value,
    ) -> Result<Shape, BuildError> {
        let rank = left.len().max(self.shape(right).len());
        let at = |shape: &[Dim], axis: usize| {
            let missing = rank - shape.len();
            axis.checked_sub(missing)
                .map_or(Dim::Fixed(1), |i| shape[i])
        };
        let axes = (0..rank).map(|axis| match (at(left, axis), at(self.shape(right), axis)) {
            (l, r) if l == r || r == Dim::Fixed(1) => Some(l),
            (Dim::Fixed(1), r) => Some(r),
            _ => None,
        });
        let shape: Option<Shape> = axes.collect();
        shape.ok_or_else(|| {
            let expected = format!("{} or 1s in its place", self.show_shape(left));
            self.shape_error(op, scope, right, expected)
        })
    }
}
