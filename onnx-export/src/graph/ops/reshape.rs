//! Operators that give numbers another order or shape.

use super::super::{Attr, Dim, Graph, Shape, Value};
use crate::error::BuildError;

impl Graph {
    /// `Reshape` to `sizes`, where 0 keeps an axis and -1 is what remains: the size `rest` where that
    /// is only known when the graph runs.
    ///
    /// # Errors
    /// [`BuildError::Shape`] if the numbers do not fit, as far as sizes are known.
    pub fn reshape(&mut self, x: Value, sizes: &[i64], rest: &str) -> Result<Value, BuildError> {
        let scope = self.scope_of(x);
        let fixed = |dims: &[Dim]| -> Option<usize> {
            let sizes = dims.iter().map(|dim| match dim {
                Dim::Fixed(size) => Some(*size),
                Dim::Dynamic(_) => None,
            });
            sizes.product()
        };
        let own = self.shape(x).to_vec();
        let kept = |(axis, size): (usize, &i64)| match size {
            0 => own.get(axis).copied(),
            -1 => Some(Dim::Fixed(1)),
            size => usize::try_from(*size).ok().map(Dim::Fixed),
        };
        let shape: Option<Shape> = sizes.iter().enumerate().map(kept).collect();
        let fits = |shape: &Shape| match (fixed(&own), fixed(shape)) {
            (Some(total), Some(0)) => total == 0,
            (Some(total), Some(part)) if sizes.contains(&-1) => total.is_multiple_of(part),
            (Some(total), Some(part)) => total == part,
            _ => true,
        };
        let Some(mut shape) = shape.filter(fits) else {
            return Err(self.shape_error("Reshape", &scope, x, format!("to fit {sizes:?}")));
        };
        if let Some(open) = sizes.iter().position(|size| *size == -1) {
            shape[open] = match (fixed(&own), fixed(&shape)) {
                (Some(total), Some(part)) if part > 0 => Dim::Fixed(total / part),
                _ => self.axis(rest),
            };
        }
        let wanted = self.list("shape", sizes);
        let outputs = vec![(shape, self.info(x).element)];
        Ok(self.node_of("Reshape", &scope, vec![x, wanted], outputs, vec![])[0])
    }

    /// `Transpose`: axis `i` of the result is axis `order[i]` of `x`.
    ///
    /// # Errors
    /// [`BuildError::Shape`] if `order` does not name every axis.
    pub fn transpose(&mut self, x: Value, order: &[usize]) -> Result<Value, BuildError> {
        let scope = self.scope_of(x);
        let own = self.shape(x);
        if order.len() != own.len() || (0..own.len()).any(|axis| !order.contains(&axis)) {
            return Err(self.shape_error("Transpose", &scope, x, format!("axes {order:?}")));
        }
        let shape = order.iter().map(|axis| own[*axis]).collect();
        let order = order.iter().map(|axis| *axis as i64).collect();
        let outputs = vec![(shape, self.info(x).element)];
        let attrs = vec![("perm", Attr::Ints(order))];
        Ok(self.node_of("Transpose", &scope, vec![x], outputs, attrs)[0])
    }

    /// `Slice` of one axis, of a fixed size.
    ///
    /// # Errors
    /// [`BuildError::Shape`] if the axis has not as many.
    pub fn slice(
        &mut self,
        x: Value,
        axis: usize,
        range: std::ops::Range<usize>,
    ) -> Result<Value, BuildError> {
        let scope = self.scope_of(x);
        let mut shape = self.shape(x).to_vec();
        match shape.get_mut(axis) {
            Some(Dim::Fixed(size)) if range.start <= range.end && range.end <= *size => {
                *size = range.len();
            }
            _ => {
                let expected = format!("at least {} along axis {axis}", range.end);
                return Err(self.shape_error("Slice", &scope, x, expected));
            }
        }
        let [from, to, axis] =
            [range.start, range.end, axis].map(|number| self.list("index", &[number as i64]));
        let outputs = vec![(shape, self.info(x).element)];
        Ok(self.node_of("Slice", &scope, vec![x, from, to, axis], outputs, vec![])[0])
    }

    /// `Concat` of two values of equal shape but for the last axis, whose sizes are fixed.
    ///
    /// # Errors
    /// [`BuildError::Shape`] if they differ.
    pub fn concat_last(&mut self, left: Value, right: Value) -> Result<Value, BuildError> {
        let scope = self.scope_of(left);
        let split = |shape: &[Dim]| match shape.split_last() {
            Some((Dim::Fixed(size), rest)) => Some((*size, rest.to_vec())),
            _ => None,
        };
        let total = match (split(self.shape(left)), split(self.shape(right))) {
            (Some((l, rest)), Some((r, others))) if rest == others => l + r,
            _ => {
                let expected = self.show_shape(self.shape(left));
                return Err(self.shape_error("Concat", &scope, right, expected));
            }
        };
        let mut shape = self.shape(left).to_vec();
        if let Some(last) = shape.last_mut() {
            *last = Dim::Fixed(total);
        }
        let attrs = vec![("axis", Attr::Int(-1))];
        let outputs = vec![(shape, self.info(left).element)];
        Ok(self.node_of("Concat", &scope, vec![left, right], outputs, attrs)[0])
    }
}
