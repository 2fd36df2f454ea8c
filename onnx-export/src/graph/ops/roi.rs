//! Cutting regions out of feature maps.

use super::super::{Attr, Dim, Graph, Value};
use crate::error::BuildError;

/// Attributes of `RoiAlign`: square output, averages of samples, coordinates without a half-pixel shift.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RoiAlign {
    /// Rows and columns of a cut region.
    pub output: usize,
    /// Samples along each side of an output's cell.
    pub sampling_ratio: usize,
    /// Pixels of the picture per point of the map.
    pub stride: u32,
}

/// The regions to cut, by the picture of the batch that they lie in.
#[derive(Debug, Clone, Copy)]
pub struct Regions {
    /// Corners x1, y1, x2, y2 in pixels, `[R, 4] f32`.
    pub boxes: Value,
    /// Index into the batch, `[R] i64`.
    pub batch_indices: Value,
}

impl Graph {
    /// `RoiAlign` of `[N, C, H, W]` with R regions, to `[R, C, output, output]`. R may be 0.
    /// Source: `torchvision.ops.roi_align` with `aligned=False`.
    ///
    /// # Errors
    /// [`BuildError::Shape`] if `x` is not `[N, C, H, W]` or the regions are not `[R, 4]` and `[R]`.
    pub fn roi_align(
        &mut self,
        x: Value,
        regions: Regions,
        config: RoiAlign,
    ) -> Result<Value, BuildError> {
        let scope = self.scope_of(x);
        let (channels, _) = self.picture("RoiAlign", &scope, x)?;
        let [count, Dim::Fixed(4)] = *self.shape(regions.boxes) else {
            let expected = "[R, 4]".to_owned();
            return Err(self.shape_error("RoiAlign", &scope, regions.boxes, expected));
        };
        if self.shape(regions.batch_indices) != [count] {
            let expected = format!("[{}]", self.show_dim(count));
            return Err(self.shape_error("RoiAlign", &scope, regions.batch_indices, expected));
        }
        let side = Attr::Int(config.output as i64);
        let mut attrs = vec![
            ("mode", Attr::Text("avg")),
            ("output_height", side.clone()),
            ("output_width", side),
            ("sampling_ratio", Attr::Int(config.sampling_ratio as i64)),
            ("spatial_scale", Attr::Float(1.0 / config.stride as f32)),
        ];
        // The only mode until opset 16, which made another the default.
        if self.opset >= 16 {
            let mode = Attr::Text("output_half_pixel");
            attrs.push(("coordinate_transformation_mode", mode));
        }
        let side = Dim::Fixed(config.output);
        let shape = vec![count, Dim::Fixed(channels), side, side];
        let inputs = vec![x, regions.boxes, regions.batch_indices];
        Ok(self.node("RoiAlign", &scope, inputs, shape, attrs))
    }

    /// `Concat` over the first axis, of sizes that add up to the size `total`. One value stays as it is.
    ///
    /// # Errors
    /// [`BuildError::Shape`] if one differs from the first in another axis.
    pub fn concat_rows(&mut self, xs: &[Value], total: &str) -> Result<Value, BuildError> {
        let first = xs[0];
        let scope = self.scope_of(first);
        for x in xs {
            if self.shape(*x)[1..] != self.shape(first)[1..] {
                let expected = self.show_shape(self.shape(first));
                return Err(self.shape_error("Concat", &scope, *x, expected));
            }
        }
        if xs.len() == 1 {
            return Ok(first);
        }
        let mut shape = self.shape(first).to_vec();
        let fixed = xs.iter().map(|x| match self.shape(*x)[0] {
            Dim::Fixed(size) => Some(size),
            Dim::Dynamic(_) => None,
        });
        let fixed: Option<usize> = fixed.sum();
        shape[0] = fixed.map_or_else(|| self.axis(total), Dim::Fixed);
        let attrs = vec![("axis", Attr::Int(0))];
        let outputs = vec![(shape, self.info(first).element)];
        Ok(self.node_of("Concat", &scope, xs.to_vec(), outputs, attrs)[0])
    }
}
