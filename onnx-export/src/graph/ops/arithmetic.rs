//! Operators on two operands whose shapes broadcast as in `NumPy`: shapes are aligned at the last
//! axis, and on each axis the sizes are equal or one of them is 1.

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
    /// [`BuildError::Shape`] if the shapes do not broadcast, [`BuildError::Type`] if the data types
    /// of `left` and `right` differ.
    pub fn sub(&mut self, left: Value, right: Value) -> Result<Value, BuildError> {
        self.binary("Sub", left, right)
    }

    /// Adds `Mul` of operands whose shapes broadcast.
    ///
    /// # Errors
    /// [`BuildError::Shape`] if the shapes do not broadcast, [`BuildError::Type`] if the data types
    /// of `left` and `right` differ.
    pub fn mul(&mut self, left: Value, right: Value) -> Result<Value, BuildError> {
        self.binary("Mul", left, right)
    }

    /// Adds `Div` of `left` by `right`, whose shapes broadcast. Quotients of i64 operands are
    /// rounded towards zero.
    ///
    /// # Errors
    /// [`BuildError::Shape`] if the shapes do not broadcast, [`BuildError::Type`] if the data types
    /// of `left` and `right` differ.
    pub fn div(&mut self, left: Value, right: Value) -> Result<Value, BuildError> {
        self.binary("Div", left, right)
    }

    /// Adds `Mod` (remainder of `left` by `right`) of i64 operands whose shapes broadcast.
    ///
    /// # Errors
    /// [`BuildError::Shape`] if the shapes do not broadcast, [`BuildError::Type`] if an operand is
    /// not i64.
    pub fn modulo(&mut self, left: Value, right: Value) -> Result<Value, BuildError> {
        self.require_type("Mod", left, Element::I64)?;
        self.binary("Mod", left, right)
    }

    /// Adds `Min` of operands whose shapes broadcast.
    ///
    /// # Errors
    /// [`BuildError::Shape`] if the shapes do not broadcast, [`BuildError::Type`] if the data types
    /// of `left` and `right` differ.
    pub fn min(&mut self, left: Value, right: Value) -> Result<Value, BuildError> {
        self.binary("Min", left, right)
    }

    /// Adds `Max` of operands whose shapes broadcast.
    ///
    /// # Errors
    /// [`BuildError::Shape`] if the shapes do not broadcast, [`BuildError::Type`] if the data types
    /// of `left` and `right` differ.
    pub fn max(&mut self, left: Value, right: Value) -> Result<Value, BuildError> {
        self.binary("Max", left, right)
    }

    /// Adds `Equal` of operands whose shapes broadcast. The result has the data type bool.
    ///
    /// # Errors
    /// [`BuildError::Shape`] if the shapes do not broadcast, [`BuildError::Type`] if the data types
    /// of `left` and `right` differ.
    pub fn equal(&mut self, left: Value, right: Value) -> Result<Value, BuildError> {
        self.compare("Equal", left, right)
    }

    /// Adds `GreaterOrEqual` (`left >= right`) of operands whose shapes broadcast. The result has
    /// the data type bool.
    ///
    /// # Errors
    /// [`BuildError::Shape`] if the shapes do not broadcast, [`BuildError::Type`] if the data types
    /// of `left` and `right` differ.
    pub fn greater_or_equal(&mut self, left: Value, right: Value) -> Result<Value, BuildError> {
        self.compare("GreaterOrEqual", left, right)
    }

    /// Adds `Where`, which selects elements of `yes` where `condition` is true, and of `no` where
    /// it is false. The three shapes must broadcast.
    ///
    /// # Errors
    /// [`BuildError::Shape`] if the three shapes do not broadcast, [`BuildError::Type`] if the data
    /// types of `yes` and `no` differ or `condition` is not bool.
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

    /// Returns the shape of the result of `op` in module `scope`, whose operands are a value of
    /// shape `left` and the value `right`. Returns an error about `right` if the shapes do not
    /// broadcast.
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
            let expected = format!("broadcastable with {}", self.show_shape(left));
            self.shape_error(op, scope, right, expected)
        })
    }
}
