//! The operators `Resize` and `Expand`, which change the height and width of a feature map to those
//! of another map, and `Shape`.

use std::ops::Range;

use super::super::{Attr, Attrs, Dim, Element, Graph, Output, Value};
use super::Nchw;
use crate::error::BuildError;

impl Graph {
    /// Adds bilinear `Resize` of `x` `[N, C, h, w]` to the height and width of `like`, without
    /// antialiasing.
    ///
    /// Source: `torch.nn.functional.interpolate(mode="bilinear", align_corners=False)`.
    ///
    /// # Errors
    /// [`BuildError::Shape`] if `x` or `like` is not `[N, C, H, W]` with a fixed C.
    pub fn resize_like(&mut self, x: Value, like: Value) -> Result<Value, BuildError> {
        let attrs = vec![
            ("coordinate_transformation_mode", Attr::Text("half_pixel")),
            ("mode", Attr::Text("linear")),
        ];
        self.resize(x, like, attrs)
    }

    /// Adds `Resize` of `x` `[N, C, h, w]` to the height and width of `like` by repeating elements.
    /// Returns `x` if it has this height and width already.
    ///
    /// Source: `torch.nn.functional.interpolate(mode="nearest")`, which rounds coordinates down.
    ///
    /// # Errors
    /// [`BuildError::Shape`] if `x` or `like` is not `[N, C, H, W]` with a fixed C.
    pub fn repeat_like(&mut self, x: Value, like: Value) -> Result<Value, BuildError> {
        let scope = self.scope_of(x);
        let [own, wanted] = [
            self.nchw("Resize", &scope, x)?,
            self.nchw("Resize", &scope, like)?,
        ];
        if [own.height, own.width] == [wanted.height, wanted.width] {
            return Ok(x);
        }
        let attrs = vec![
            ("coordinate_transformation_mode", Attr::Text("asymmetric")),
            ("mode", Attr::Text("nearest")),
            ("nearest_mode", Attr::Text("floor")),
        ];
        self.resize(x, like, attrs)
    }

    fn resize(&mut self, x: Value, like: Value, attrs: Attrs) -> Result<Value, BuildError> {
        let scope = self.scope_of(x);
        let Nchw {
            batch, channels, ..
        } = self.nchw("Resize", &scope, x)?;
        let Nchw { height, width, .. } = self.nchw("Resize", &scope, like)?;
        let own = self.shape_slice(&scope, x, 0..2);
        let wanted = self.shape_slice(&scope, like, 2..4);
        let sizes = self.concat_sizes(&scope, own, wanted);
        // The optional operands `roi` and `scales` are left out: the size of the output is given by
        // `sizes`.
        let none = self.absent();
        let shape = vec![batch, Dim::Fixed(channels), height, width];
        Ok(self.node("Resize", &scope, vec![x, none, none, sizes], shape, attrs))
    }

    /// Adds `Expand` of `x` `[N, C, 1, 1]`, which repeats the one element of each channel over the
    /// height and width of `like`.
    ///
    /// # Errors
    /// [`BuildError::Shape`] if `x` is not `[N, C, 1, 1]` or `like` is not `[N, C, H, W]` with a
    /// fixed C.
    pub fn expand_like(&mut self, x: Value, like: Value) -> Result<Value, BuildError> {
        let scope = self.scope_of(x);
        let [batch, channels, Dim::Fixed(1), Dim::Fixed(1)] = *self.shape(x) else {
            return Err(self.shape_error("Expand", &scope, x, "[N, C, 1, 1]"));
        };
        let Nchw { height, width, .. } = self.nchw("Expand", &scope, like)?;
        // `Expand` broadcasts `x` with the wanted sizes, so a size of 1 keeps the batch and
        // channels of `x`.
        let ones = self.list("ones", &[1, 1]);
        let wanted = self.shape_slice(&scope, like, 2..4);
        let sizes = self.concat_sizes(&scope, ones, wanted);
        let shape = vec![batch, channels, height, width];
        Ok(self.node("Expand", &scope, vec![x, sizes], shape, vec![]))
    }

    /// Adds `Concat` of the sizes of two axes each, `first` and `second` `[2] i64`, with output
    /// `[4] i64`.
    fn concat_sizes(&mut self, scope: &str, first: Value, second: Value) -> Value {
        let output = Output::new(vec![Dim::Fixed(4)], Element::I64);
        let attrs = vec![("axis", Attr::Int(0))];
        self.node_of("Concat", scope, vec![first, second], vec![output], attrs)[0]
    }

    /// Adds `Shape` and `Slice`, and returns the sizes of the axes `axes` of `x`,
    /// `[axes.len()] i64`. The axes must exist.
    pub(crate) fn shape_slice(&mut self, scope: &str, x: Value, axes: Range<usize>) -> Value {
        let sizes = |count: usize| vec![Output::new(vec![Dim::Fixed(count)], Element::I64)];
        let rank = self.shape(x).len();
        let whole = self.node_of("Shape", scope, vec![x], sizes(rank), vec![])[0];
        let [from, to] = [axes.start, axes.end].map(|end| self.list("index", &[end as i64]));
        let inputs = vec![whole, from, to];
        self.node_of("Slice", scope, inputs, sizes(axes.len()), vec![])[0]
    }
}
