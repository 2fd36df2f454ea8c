//! Operators that reorder, reshape or slice a value.

use std::ops::Range;

use super::super::{Attr, Dim, Graph, Output, Shape, Value};
use crate::error::BuildError;

impl Graph {
    /// Adds `Flatten` of `x` `[N, ...]` to `[N, C]`, where C is the product of the sizes after the
    /// first.
    ///
    /// # Errors
    /// [`BuildError::Shape`] if `x` is a scalar or an axis after the first is dynamic.
    pub fn flatten(&mut self, x: Value) -> Result<Value, BuildError> {
        let scope = self.scope_of(x);
        let sizes = self.shape(x).split_first();
        let Some((batch, Some(size))) = sizes.map(|(batch, rest)| (*batch, product(rest))) else {
            let expected = "[N, ...] with a fixed size on every axis after N";
            return Err(self.shape_error("Flatten", &scope, x, expected));
        };
        let output = Output::new(vec![batch, Dim::Fixed(size)], self.info(x).element);
        let attrs = vec![("axis", Attr::Int(1))];
        Ok(self.node_of("Flatten", &scope, vec![x], vec![output], attrs)[0])
    }

    /// Adds `Reshape` of `x` to `sizes`. A size of 0 means the size of the same axis of `x`. One
    /// size may be -1, which means that it follows from the element count; if it is dynamic, it is
    /// called `rest`.
    ///
    /// # Errors
    /// [`BuildError::Shape`] if the element counts of `x` and `sizes` are known and cannot be
    /// equal, or if `sizes` contains -1 twice, another negative size, or a 0 for an axis that `x`
    /// does not have.
    pub fn reshape(&mut self, x: Value, sizes: &[i64], rest: &str) -> Result<Value, BuildError> {
        let scope = self.scope_of(x);
        let own = self.shape(x).to_vec();
        let Some(mut shape) = reshaped(&own, sizes) else {
            return Err(self.shape_error("Reshape", &scope, x, format!("reshapable to {sizes:?}")));
        };
        if let Some(open) = sizes.iter().position(|size| *size == -1) {
            shape[open] = match (product(&own), product(&shape)) {
                (Some(total), Some(part)) if part > 0 => Dim::Fixed(total / part),
                _ => self.axis(rest),
            };
        }
        let wanted = self.list("shape", sizes);
        let output = Output::new(shape, self.info(x).element);
        Ok(self.node_of("Reshape", &scope, vec![x, wanted], vec![output], vec![])[0])
    }

    /// Adds `Transpose` of `x`: axis `i` of the result is axis `order[i]` of `x`.
    ///
    /// # Errors
    /// [`BuildError::Shape`] if `order` does not contain every axis of `x` exactly once.
    pub fn transpose(&mut self, x: Value, order: &[usize]) -> Result<Value, BuildError> {
        let scope = self.scope_of(x);
        let own = self.shape(x);
        if order.len() != own.len() || (0..own.len()).any(|axis| !order.contains(&axis)) {
            let expected = format!("one whose axes are {order:?} in any order");
            return Err(self.shape_error("Transpose", &scope, x, expected));
        }
        let shape = order.iter().map(|axis| own[*axis]).collect();
        let order = order.iter().map(|axis| *axis as i64).collect();
        let output = Output::new(shape, self.info(x).element);
        let attrs = vec![("perm", Attr::Ints(order))];
        Ok(self.node_of("Transpose", &scope, vec![x], vec![output], attrs)[0])
    }

    /// Adds `Slice` of `x` along `axis`, whose size must be fixed. The result contains the elements
    /// whose index on this axis is in `range`.
    ///
    /// # Errors
    /// [`BuildError::Shape`] if the axis does not exist, is dynamic, or is shorter than
    /// `range.end`, or if `range` ends before it starts.
    pub fn slice(
        &mut self,
        x: Value,
        axis: usize,
        range: Range<usize>,
    ) -> Result<Value, BuildError> {
        let scope = self.scope_of(x);
        let mut shape = self.shape(x).to_vec();
        match shape.get_mut(axis) {
            Some(Dim::Fixed(size)) if range.start <= range.end && range.end <= *size => {
                *size = range.len();
            }
            _ => {
                let expected = format!("fixed and at least {} on axis {axis}", range.end);
                return Err(self.shape_error("Slice", &scope, x, expected));
            }
        }
        let [from, to, axis] =
            [range.start, range.end, axis].map(|index| self.list("index", &[index as i64]));
        let output = Output::new(shape, self.info(x).element);
        let inputs = vec![x, from, to, axis];
        Ok(self.node_of("Slice", &scope, inputs, vec![output], vec![])[0])
    }
}

/// Returns the product of the sizes in `shape`. `None` if a size is dynamic or the product
/// overflows.
fn product(shape: &[Dim]) -> Option<usize> {
    shape.iter().try_fold(1_usize, |n, dim| match dim {
        Dim::Fixed(size) => n.checked_mul(*size),
        Dim::Dynamic(_) => None,
    })
}

/// Returns the shape that results when a value of shape `own` is reshaped to `sizes`, with 1 in
/// place of -1. `None` if the element counts cannot be equal or if `sizes` is invalid.
fn reshaped(own: &[Dim], sizes: &[i64]) -> Option<Shape> {
    let kept = |(axis, size): (usize, &i64)| match size {
        0 => own.get(axis).copied(),
        -1 => Some(Dim::Fixed(1)),
        size => usize::try_from(*size).ok().map(Dim::Fixed),
    };
    let shape: Shape = sizes.iter().enumerate().map(kept).collect::<Option<_>>()?;
    let open = sizes.iter().filter(|size| **size == -1).count();
    let fits = match (product(own), product(&shape)) {
        (Some(total), Some(0)) => total == 0,
        (Some(total), Some(part)) if open == 1 => total.is_multiple_of(part),
        (Some(total), Some(part)) => total == part,
        _ => true,
    };
    (fits && open <= 1).then_some(shape)
}
