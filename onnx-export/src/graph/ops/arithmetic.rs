//! Operators on two operands whose shapes broadcast as in `NumPy`: shapes are aligned at the last axis, and
//! sizes are equal or 1 on one side.

use super::super::{Dim, Element, Graph, Output, Shape, Value};
use crate::error::BuildError;

impl Graph {
    /// Adds `Add` of operands whose shapes broadcast.
    ///
    /// # Errors
    /// [`BuildError::Shape`] if the shapes do not broadcast, [`BuildError::Type`] if the data types
    /// differ.
    pub fn add(&mut self, left: Value, right: Value) -> Result<Value, BuildError> {
        self.binary("Add", left, right)
    }

    /// Adds `Sub` of operands whose shapes broadcast.
    ///
    /// # Errors
    /// As [`Graph::add`].
    pub fn sub(&mut self, left: Value, right: Value) -> Result<Value, BuildError> {
        self.binary("Sub", left, right)
    }

    /// Adds `Mul` of operands whose shapes broadcast.
    ///
    /// # Errors
    /// As [`Graph::add`].
    pub fn mul(&mut self, left: Value, right: Value) -> Result<Value, BuildError> {
        self.binary("Mul", left, right)
    }

    /// Adds `Div` of operands whose shapes broadcast; i64 quotients are rounded towards zero.
    ///
    /// # Errors
    /// As [`Graph::add`].
    pub fn div(&mut self, left: Value, right: Value) -> Result<Value, BuildError> {
        self.binary("Div", left, right)
    }

    /// Adds `Mod` of i64 operands whose shapes broadcast.
    ///
    /// # Errors
    /// As [`Graph::add`], and [`BuildError::Type`] for operands of another data type than i64.
    pub fn modulo(&mut self, left: Value, right: Value) -> Result<Value, BuildError> {
        self.require_type("Mod", left, Element::I64)?;
        self.binary("Mod", left, right)
    }

    /// Adds `Min` of operands whose shapes broadcast.
    ///
    /// # Errors
    /// As [`Graph::add`].
    pub fn min(&mut self, left: Value, right: Value) -> Result<Value, BuildError> {
        self.binary("Min", left, right)
    }

    /// Adds `Max` of operands whose shapes broadcast.
    ///
    /// # Errors
    /// As [`Graph::add`].
    pub fn max(&mut self, left: Value, right: Value) -> Result<Value, BuildError> {
        self.binary("Max", left, right)
    }

    /// Adds `Equal` of operands whose shapes broadcast, with output of data type bool.
    ///
    /// # Errors
    /// As [`Graph::add`].
    pub fn equal(&mut self, left: Value, right: Value) -> Result<Value, BuildError> {
        self.compare("Equal", left, right)
    }

    /// Adds `GreaterOrEqual` of operands whose shapes broadcast, with output of data type bool.
    ///
    /// # Errors
    /// As [`Graph::add`].
    pub fn greater_or_equal(&mut self, left: Value, right: Value) -> Result<Value, BuildError> {
        self.compare("GreaterOrEqual", left, right)
    }

    /// Adds `Where`: takes elements of `yes` where the bool `condition` is true and of `no` where it is
    /// false. The three shapes must broadcast.
    ///
    /// # Errors
    /// As [`Graph::add`], and [`BuildError::Type`] for a condition of another data type than bool.
    pub fn choose(&mut self, condition: Value, yes: Value, no: Value) -> Result<Value, BuildError> {
        let (scope, element) = (self.scope_of(yes), self.info(yes).element);
        self.require_type("Where", condition, Element::Bool)?;
        self.require_type("Where", no, element)?;
        let both = self.broadcast("Where", &scope, self.shape(yes), no)?;
        let shape = self.broadcast("Where", &scope, &both, condition)?;
        let output = Output::new(shape, element);
        let inputs = vec![condition, yes, no];
        Ok(self.node_of("Where", &scope, inputs, vec![output], vec![])[0])
    }

    fn binary(&mut self, op: &'static str, left: Value, right: Value) -> Result<Value, BuildError> {
        let element = self.info(left).element;
        self.pairwise(op, left, right, element)
    }

    fn compare(
        &mut self,
        op: &'static str,
        left: Value,
        right: Value,
    ) -> Result<Value, BuildError> {
        self.pairwise(op, left, right, Element::Bool)
    }

    fn pairwise(
        &mut self,
        op: &'static str,
        left: Value,
        right: Value,
        output: Element,
    ) -> Result<Value, BuildError> {
        let scope = self.scope_of(left);
        self.require_type(op, right, self.info(left).element)?;
        let shape = self.broadcast(op, &scope, self.shape(left), right)?;
        let output = Output::new(shape, output);
        Ok(self.node_of(op, &scope, vec![left, right], vec![output], vec![])[0])
    }

    /// Returns the shape of the result of `op` in module `scope` on an operand of shape `left` and the
    /// operand `right`, or an error if the shapes do not broadcast.
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
            let expected = format!("a shape that broadcasts with {}", self.show_shape(left));
            self.shape_error(op, scope, right, expected)
        })
    }
}
