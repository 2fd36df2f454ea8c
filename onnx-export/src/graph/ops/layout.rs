//! Operators that move or repeat numbers without changing them, and `Resize`.

use super::super::{Attr, Dim, Element, Graph, Value};
use crate::error::BuildError;

impl Graph {
    /// `Flatten` of `[N, C, 1, 1]` to `[N, C]`.
    ///
    /// # Errors
    /// [`BuildError::Shape`] if an axis after the first is dynamic.
    pub fn flatten(&mut self, x: Value) -> Result<Value, BuildError> {
        let scope = self.scope_of(x);
        let shape = self.shape(x);
        let fixed: Option<Vec<usize>> = shape[1..]
            .iter()
            .map(|d| {
                if let Dim::Fixed(n) = d {
                    Some(*n)
                } else {
                    None
                }
            })
            .collect();
        let Some(sizes) = fixed else {
            let expected = "[N, ...] with fixed sizes".to_owned();
            return Err(self.shape_error("Flatten", &scope, x, expected));
        };
        let shape = vec![shape[0], Dim::Fixed(sizes.iter().product())];
        Ok(self.node(
            "Flatten",
            &scope,
            vec![x],
            shape,
            vec![("axis", Attr::Int(1))],
        ))
    }

    /// `Concat` of `[N, C, H, W]` values over the channels.
    ///
    /// # Errors
    /// [`BuildError::Shape`] if one differs from the first in another axis than the channels.
    pub fn concat_channels(&mut self, scope: &str, xs: &[Value]) -> Result<Value, BuildError> {
        let mut total = 0;
        let mut shared = None;
        for x in xs {
            let (channels, axes) = self.picture("Concat", scope, *x)?;
            if *shared.get_or_insert(axes) != axes {
                let expected = self.show_shape(self.shape(xs[0]));
                return Err(self.shape_error("Concat", scope, *x, expected));
            }
            total += channels;
        }
        let [batch, height, width] = shared.unwrap_or([Dim::Fixed(0); 3]);
        let shape = vec![batch, Dim::Fixed(total), height, width];
        Ok(self.node(
            "Concat",
            scope,
            xs.to_vec(),
            shape,
            vec![("axis", Attr::Int(1))],
        ))
    }

    /// `Resize` of `[N, C, h, w]` to the height and width of `like`, bilinear, without antialias.
    /// Source: `torch.nn.functional.interpolate(mode="bilinear", align_corners=False)`.
    ///
    /// # Errors
    /// [`BuildError::Shape`] if one of the two is not `[N, C, H, W]`.
    pub fn resize_like(&mut self, x: Value, like: Value) -> Result<Value, BuildError> {
        let attrs = vec![
            ("coordinate_transformation_mode", Attr::Text("half_pixel")),
            ("mode", Attr::Text("linear")),
        ];
        self.resize(x, like, attrs)
    }

    /// `Resize` of `[N, C, h, w]` to the height and width of `like` by repeating points; nothing
    /// where the sizes are the same.
    /// Source: `torch.nn.functional.interpolate(mode="nearest")`, which rounds down.
    ///
    /// # Errors
    /// [`BuildError::Shape`] if one of the two is not `[N, C, H, W]`.
    pub fn repeat_like(&mut self, x: Value, like: Value) -> Result<Value, BuildError> {
        if self.shape(x)[2..] == self.shape(like)[2..] {
            return Ok(x);
        }
        let attrs = vec![
            ("coordinate_transformation_mode", Attr::Text("asymmetric")),
            ("mode", Attr::Text("nearest")),
            ("nearest_mode", Attr::Text("floor")),
        ];
        self.resize(x, like, attrs)
    }

    fn resize(
        &mut self,
        x: Value,
        like: Value,
        attrs: Vec<(&'static str, Attr)>,
    ) -> Result<Value, BuildError> {
        let scope = self.scope_of(x);
        let (channels, [batch, ..]) = self.picture("Resize", &scope, x)?;
        let (_, [_, height, width]) = self.picture("Resize", &scope, like)?;
        let own = self.shape_slice(&scope, x, 0..2);
        let wanted = self.shape_slice(&scope, like, 2..4);
        let axis = vec![("axis", Attr::Int(0))];
        let sizes = self.node(
            "Concat",
            &scope,
            vec![own, wanted],
            vec![Dim::Fixed(4)],
            axis,
        );
        // The region of interest and the scales are left out.
        let none = self.absent();
        let shape = vec![batch, Dim::Fixed(channels), height, width];
        Ok(self.node("Resize", &scope, vec![x, none, none, sizes], shape, attrs))
    }

    /// `Expand` of `[N, C, 1, 1]` to the height and width of `like`.
    ///
    /// # Errors
    /// [`BuildError::Shape`] if one of the two is not `[N, C, H, W]`.
    pub fn expand_like(&mut self, x: Value, like: Value) -> Result<Value, BuildError> {
        let scope = self.scope_of(x);
        let (channels, [batch, ..]) = self.picture("Expand", &scope, x)?;
        let (_, [_, height, width]) = self.picture("Expand", &scope, like)?;
        // Ones broadcast: the batch and the channels stay as they are.
        let ones = self.list("ones", &[1, 1]);
        let wanted = self.shape_slice(&scope, like, 2..4);
        let axis = vec![("axis", Attr::Int(0))];
        let sizes = self.node(
            "Concat",
            &scope,
            vec![ones, wanted],
            vec![Dim::Fixed(4)],
            axis,
        );
        let shape = vec![batch, Dim::Fixed(channels), height, width];
        Ok(self.node("Expand", &scope, vec![x, sizes], shape, vec![]))
    }

    /// The sizes of some axes of `x`, as INT64: `Shape` and `Slice`.
    pub(crate) fn shape_slice(
        &mut self,
        scope: &str,
        x: Value,
        axes: std::ops::Range<i64>,
    ) -> Value {
        let rank = self.shape(x).len();
        let sizes = vec![(vec![Dim::Fixed(rank)], Element::I64)];
        let whole = self.node_of("Shape", scope, vec![x], sizes, vec![])[0];
        let (from, to) = (
            self.list("index", &[axes.start]),
            self.list("index", &[axes.end]),
        );
        let count = usize::try_from(axes.end - axes.start).unwrap_or_default();
        let sizes = vec![(vec![Dim::Fixed(count)], Element::I64)];
        self.node_of("Slice", scope, vec![whole, from, to], sizes, vec![])[0]
    }
}
