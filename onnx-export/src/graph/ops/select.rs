//! Operators that pick numbers by place, by size or by truth, and suppression of boxes.

use super::super::{Attr, Dim, Element, Graph, Value};
use crate::error::BuildError;

/// Attributes of `NonMaxSuppression`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NonMaxSuppression {
    /// Most boxes of a class that stay.
    pub most: usize,
    /// Of two boxes that overlap more than this, the better one stays.
    pub iou_threshold: f32,
    /// Boxes score more than this.
    pub score_threshold: f32,
}

impl Graph {
    /// `Gather` of the first axis by whole numbers `[...]`: `[N, rest]` to `[..., rest]`.
    ///
    /// # Errors
    /// [`BuildError::Shape`] for a scalar.
    pub fn gather(&mut self, x: Value, indices: Value) -> Result<Value, BuildError> {
        let scope = self.scope_of(x);
        let Some((_, rest)) = self.shape(x).split_first() else {
            return Err(self.shape_error("Gather", &scope, x, "[N, ...]".into()));
        };
        let shape = [self.shape(indices), rest].concat();
        let outputs = vec![(shape, self.info(x).element)];
        let attrs = vec![("axis", Attr::Int(0))];
        Ok(self.node_of("Gather", &scope, vec![x, indices], outputs, attrs)[0])
    }

    /// `GatherND`: rows `[S, r]` of places in the first r axes, to `[S, rest]`.
    ///
    /// # Errors
    /// [`BuildError::Shape`] if the places are not such rows.
    pub fn gather_nd(&mut self, x: Value, places: Value) -> Result<Value, BuildError> {
        let scope = self.scope_of(x);
        let own = self.shape(x);
        let shape = match *self.shape(places) {
            [rows, Dim::Fixed(depth)] if depth <= own.len() => [&[rows], &own[depth..]].concat(),
            _ => {
                let expected = format!("[S, r] for places in {}", self.show_shape(own));
                return Err(self.shape_error("GatherND", &scope, places, expected));
            }
        };
        let outputs = vec![(shape, self.info(x).element)];
        Ok(self.node_of("GatherND", &scope, vec![x, places], outputs, vec![])[0])
    }

    /// `TopK` of the last axis: the `k` best in descending order and their places, or all where there
    /// are fewer. The size of the result is `count` where it is only known when the graph runs.
    ///
    /// # Errors
    /// [`BuildError::Shape`] for a scalar.
    pub fn top_k(&mut self, x: Value, k: usize, count: &str) -> Result<[Value; 2], BuildError> {
        let scope = self.scope_of(x);
        let mut shape = self.shape(x).to_vec();
        let rank = shape.len() as i64;
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
            None => return Err(self.shape_error("TopK", &scope, x, "[..., n]".into())),
        };
        if let Some(last) = shape.last_mut() {
            *last = size;
        }
        let outputs = vec![(shape.clone(), Element::F32), (shape, Element::I64)];
        let outputs = self.node_of("TopK", &scope, vec![x, limit], outputs, vec![]);
        Ok([outputs[0], outputs[1]])
    }

    /// `NonMaxSuppression` of boxes `[B, N, 4]` by scores `[B, C, N]`, in each batch and class on its own:
    /// rows `[S, 3]` of batch, class and box, best first within a class. S has the name `count`.
    ///
    /// # Errors
    /// [`BuildError::Shape`] if the two do not fit.
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
            let expected = format!("scores of boxes {}", self.show_shape(self.shape(boxes)));
            return Err(self.shape_error("NonMaxSuppression", &scope, scores, expected));
        }
        let most = self.list("count", &[config.most as i64]);
        let [iou, score] = [config.iou_threshold, config.score_threshold].map(|t| self.scalar(t));
        let outputs = vec![(vec![self.axis(count), Dim::Fixed(3)], Element::I64)];
        let inputs = vec![boxes, scores, most, iou, score];
        Ok(self.node_of("NonMaxSuppression", &scope, inputs, outputs, vec![])[0])
    }

    /// `NonZero` of truth values `[N]`: the places `[1, M]` where they hold. M has the name `count`.
    ///
    /// # Errors
    /// [`BuildError::Shape`] if they are not `[N]`.
    pub fn non_zero(&mut self, x: Value, count: &str) -> Result<Value, BuildError> {
        let scope = self.scope_of(x);
        if self.shape(x).len() != 1 {
            return Err(self.shape_error("NonZero", &scope, x, "[N]".into()));
        }
        let outputs = vec![(vec![Dim::Fixed(1), self.axis(count)], Element::I64)];
        Ok(self.node_of("NonZero", &scope, vec![x], outputs, vec![])[0])
    }
}
