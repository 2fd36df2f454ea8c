//! The operator `Concat` over channels, the last axis, or the first axis.

use super::super::{Attr, Dim, Graph, Output, Value};
use crate::error::BuildError;

impl Graph {
    /// Adds `Concat` of `xs`, each `[N, C, H, W]`, over the channels. The node is named after the
    /// module `scope`.
    ///
    /// # Errors
    /// [`BuildError::NoOperands`] if `xs` is empty, [`BuildError::Shape`] if a value is not
    /// `[N, C, H, W]` with a fixed C, or if its N, H or W differs from that of the first value.
    pub fn concat_channels(&mut self, scope: &str, xs: &[Value]) -> Result<Value, BuildError> {
        let [first, ..] = xs else {
            return Err(no_operands(scope));
        };
        let mut sizes = self.nchw("Concat", scope, *first)?;
        let mut total = 0;
        for x in xs {
            let own = self.nchw("Concat", scope, *x)?;
            let channels = own.channels;
            sizes.channels = channels;
            if own != sizes {
                let expected = format!(
                    "{} except for the channel count",
                    self.show_shape(self.shape(*first))
                );
                return Err(self.shape_error("Concat", scope, *x, expected));
            }
            total += channels;
        }
        let shape = vec![sizes.batch, Dim::Fixed(total), sizes.height, sizes.width];
        let attrs = vec![("axis", Attr::Int(1))];
        Ok(self.node("Concat", scope, xs.to_vec(), shape, attrs))
    }

    /// Adds `Concat` of `left` and `right` over the last axis, whose size must be fixed in both
    /// operands.
    ///
    /// # Errors
    /// [`BuildError::Shape`] if the sizes of another axis differ, or if a last axis is dynamic or
    /// missing. [`BuildError::Type`] if the data types of `left` and `right` differ.
    pub fn concat_last(&mut self, left: Value, right: Value) -> Result<Value, BuildError> {
        let scope = self.scope_of(left);
        self.require_type("Concat", right, self.info(left).element)?;
        let split = |shape: &[Dim]| match shape.split_last() {
            Some((Dim::Fixed(size), rest)) => Some((*size, rest.to_vec())),
            _ => None,
        };
        let shape = match (split(self.shape(left)), split(self.shape(right))) {
            (Some((l, rest)), Some((r, others))) if rest == others => {
                [rest, vec![Dim::Fixed(l + r)]].concat()
            }
            _ => {
                let expected = format!(
                    "{} except for the last axis, which must be fixed in both operands",
                    self.show_shape(self.shape(left))
                );
                return Err(self.shape_error("Concat", &scope, right, expected));
            }
        };
        let attrs = vec![("axis", Attr::Int(-1))];
        let output = Output::new(shape, self.info(left).element);
        Ok(self.node_of("Concat", &scope, vec![left, right], vec![output], attrs)[0])
    }

    /// Adds `Concat` of `xs` over the first axis. Returns the value itself if `xs` has only one. If
    /// the first axis of a value is dynamic, the first axis of the result is the dynamic size
    /// called `total`.
    ///
    /// # Errors
    /// [`BuildError::NoOperands`] if `xs` is empty, [`BuildError::Shape`] if a value is a scalar or
    /// differs from the first value in the size of an axis after the first, [`BuildError::Type`] if
    /// the data types of the values differ.
    pub fn concat_rows(&mut self, xs: &[Value], total: &str) -> Result<Value, BuildError> {
        let [first, others @ ..] = xs else {
            return Err(no_operands(""));
        };
        let (scope, element) = (self.scope_of(*first), self.info(*first).element);
        let Some((_, columns)) = self.shape(*first).split_first() else {
            return Err(self.shape_error("Concat", &scope, *first, "[N, ...]"));
        };
        let columns = columns.to_vec();
        for x in others {
            self.require_type("Concat", *x, element)?;
            if self.shape(*x).split_first().map(|(_, rest)| rest) != Some(&columns) {
                let expected = format!(
                    "{} except for the first axis",
                    self.show_shape(self.shape(*first))
                );
                return Err(self.shape_error("Concat", &scope, *x, expected));
            }
        }
        if others.is_empty() {
            return Ok(*first);
        }
        let fixed = xs.iter().map(|x| match self.shape(*x).first() {
            Some(Dim::Fixed(size)) => Some(*size),
            _ => None,
        });
        let fixed: Option<usize> = fixed.sum();
        let rows = fixed.map_or_else(|| self.axis(total), Dim::Fixed);
        let output = Output::new([vec![rows], columns].concat(), element);
        let attrs = vec![("axis", Attr::Int(0))];
        Ok(self.node_of("Concat", &scope, xs.to_vec(), vec![output], attrs)[0])
    }
}

fn no_operands(scope: &str) -> BuildError {
    BuildError::NoOperands {
        op: "Concat",
        scope: scope.to_owned(),
    }
}
