//! Operators that select elements by their index, by their value or by a condition, and suppression
//! of boxes.

use super::super::{Attr, Dim, Element, Graph, Output, Value};
use crate::error::BuildError;

/// Limits and thresholds of `NonMaxSuppression`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NonMaxSuppression {
    /// Maximum number of boxes that are kept for each class of each image.
    pub most: usize,
    /// Maximum overlap: a box is suppressed if its `IoU` with a kept box of the same class is above
    /// this.
    pub iou_threshold: f32,
    /// Minimum score, exclusive: a box is kept only if its score is above this.
    pub score_threshold: f32,
}

impl Graph {
    /// Adds `Gather` along the first axis of `x` `[N, rest]`: the result `[..., rest]` contains the
    /// row of `x` for each index in `indices` `[...] i64`.
    ///
    /// # Errors
    /// [`BuildError::Shape`] if `x` is a scalar, [`BuildError::Type`] if `indices` is not i64.
    pub fn gather(&mut self, x: Value, indices: Value) -> Result<Value, BuildError> {
        let scope = self.scope_of(x);
        self.require_type("Gather", indices, Element::I64)?;
        let Some((_, rest)) = self.shape(x).split_first() else {
            return Err(self.shape_error("Gather", &scope, x, "[N, ...]"));
        };
        let shape = [self.shape(indices), rest].concat();
        let output = Output::new(shape, self.info(x).element);
        let attrs = vec![("axis", Attr::Int(0))];
        Ok(self.node_of("Gather", &scope, vec![x, indices], vec![output], attrs)[0])
    }

    /// Adds `GatherND`: each row of `indices` `[S, r] i64` selects one index on each of the first r
    /// axes of `x`. The result is `[S, rest]`, where `rest` are the other axes of `x`.
    ///
    /// # Errors
    /// [`BuildError::Shape`] if `indices` is not `[S, r]` with a fixed r of at most the rank of
    /// `x`, [`BuildError::Type`] if `indices` is not i64.
    pub fn gather_nd(&mut self, x: Value, indices: Value) -> Result<Value, BuildError> {
        let scope = self.scope_of(x);
        self.require_type("GatherND", indices, Element::I64)?;
        let own = self.shape(x);
        let shape = match *self.shape(indices) {
            [rows, Dim::Fixed(depth)] if depth <= own.len() => [&[rows], &own[depth..]].concat(),
            _ => {
                let expected = format!("[S, r] with a fixed r of at most {}", own.len());
                return Err(self.shape_error("GatherND", &scope, indices, expected));
            }
        };
        let output = Output::new(shape, self.info(x).element);
        Ok(self.node_of("GatherND", &scope, vec![x, indices], vec![output], vec![])[0])
    }

    /// Adds `TopK` over the last axis of `x`. Returns the `k` largest f32 elements in descending
    /// order and their i64 indices, or all elements if there are fewer than `k`. If the last axis
    /// of `x` is dynamic, the last axis of both results is the dynamic size called `count`.
    ///
    /// # Errors
    /// [`BuildError::Shape`] if `x` is a scalar, [`BuildError::Type`] if `x` is not f32.
    pub fn top_k(&mut self, x: Value, k: usize, count: &str) -> Result<[Value; 2], BuildError> {
        let scope = self.scope_of(x);
        self.require_type("TopK", x, Element::F32)?;
        let mut shape = self.shape(x).to_vec();
        let rank = shape.len();
        let wanted = |g: &mut Self, k: usize| g.list("count", &[k as i64]);
        let (size, limit) = match shape.last() {
            Some(Dim::Fixed(size)) => {
                let k = k.min(*size);
                (Dim::Fixed(k), wanted(self, k))
            }
            Some(Dim::Dynamic(_)) => {
                let (all, k) = (self.shape_slice(&scope, x, rank - 1..rank), wanted(self, k));
                (self.axis(count), self.min(all, k)?)
            }
            None => return Err(self.shape_error("TopK", &scope, x, "[..., n]")),
        };
        if let Some(last) = shape.last_mut() {
            *last = size;
        }
        let outputs =
            [Element::F32, Element::I64].map(|element| Output::new(shape.clone(), element));
        let outputs = outputs.to_vec();
        let outputs = self.node_of("TopK", &scope, vec![x, limit], outputs, vec![]);
        Ok([outputs[0], outputs[1]])
    }

    /// Adds `NonMaxSuppression` of `boxes` `[B, N, 4]` with `scores` `[B, C, N]`, separately for
    /// each class of each batch element. Returns the kept boxes as rows `[S, 3] i64` of batch,
    /// class and box index, highest score first within a class. S is the dynamic size called
    /// `count`.
    ///
    /// # Errors
    /// [`BuildError::Shape`] unless `boxes` is `[B, N, 4]` and `scores` is `[B, C, N]` with the same B and N.
    pub fn non_max_suppression(
        &mut self,
        boxes: Value,
        scores: Value,
        config: NonMaxSuppression,
        count: &str,
    ) -> Result<Value, BuildError> {
        let scope = self.scope_of(boxes);
        let fits = match (self.shape(boxes), self.shape(scores)) {
            ([b, n, Dim::Fixed(4)], [batch, _, boxes]) => b == batch && n == boxes,
            _ => false,
        };
        if !fits {
            let shown = self.show_shape(self.shape(boxes));
            let expected = format!("[B, C, N] for boxes of shape [B, N, 4], here {shown}");
            return Err(self.shape_error("NonMaxSuppression", &scope, scores, expected));
        }
        let most = self.list("count", &[config.most as i64]);
        let [iou, score] = [config.iou_threshold, config.score_threshold].map(|t| self.scalar(t));
        let output = Output::new(vec![self.axis(count), Dim::Fixed(3)], Element::I64);
        let inputs = vec![boxes, scores, most, iou, score];
        Ok(self.node_of("NonMaxSuppression", &scope, inputs, vec![output], vec![])[0])
    }

    /// Adds `NonZero` of `x` `[N]`. Returns the indices `[1, M] i64` of the elements that are true
    /// or not zero. M is the dynamic size called `count`.
    ///
    /// # Errors
    /// [`BuildError::Shape`] if `x` is not `[N]`.
    pub fn non_zero(&mut self, x: Value, count: &str) -> Result<Value, BuildError> {
        let scope = self.scope_of(x);
        if self.shape(x).len() != 1 {
            return Err(self.shape_error("NonZero", &scope, x, "[N]"));
        }
        let output = Output::new(vec![Dim::Fixed(1), self.axis(count)], Element::I64);
        Ok(self.node_of("NonZero", &scope, vec![x], vec![output], vec![])[0])
    }
}
