//! `RoiAlign`.

use super::super::{Attr, Dim, Element, Graph, Value};
use super::Extent;
use crate::error::BuildError;

/// Attributes of `RoiAlign` with a square output, averaged samples and coordinates without a half-pixel
/// shift.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RoiAlign {
    /// Height and width of a region's output, in cells.
    pub output: usize,
    /// Number of samples along each side of an output cell.
    pub sampling_ratio: usize,
    /// Stride of the feature map: image pixels per element of the map, along each axis.
    pub stride: u32,
}

/// The regions of interest, each in one image of the batch.
#[derive(Debug, Clone, Copy)]
pub struct Regions {
    /// Corners x1, y1, x2, y2 in pixels of the image, `[R, 4] f32`.
    pub boxes: Value,
    /// Index in the batch of each region's image, `[R] i64`.
    pub batch_indices: Value,
}

impl Graph {
    /// Adds `RoiAlign` of `[N, C, H, W]` at R regions, with output `[R, C, output, output]`. R may be 0.
    ///
    /// Source: `torchvision.ops.roi_align` with `aligned=False`.
    ///
    /// # Errors
    /// [`BuildError::Attribute`] for an attribute of 0. [`BuildError::Shape`] or [`BuildError::Type`] if
    /// `x` is not `[N, C, H, W]` or the regions are not `[R, 4] f32` and `[R] i64`.
    pub fn roi_align(
        &mut self,
        x: Value,
        regions: Regions,
        config: RoiAlign,
    ) -> Result<Value, BuildError> {
        let scope = self.scope_of(x);
        let attributes = [
            Extent::new("output_height", config.output),
            Extent::new("sampling_ratio", config.sampling_ratio),
            Extent::new("stride", config.stride as usize),
        ];
        for attribute in attributes {
            attribute.check("RoiAlign", &scope)?;
        }
        let channels = self.nchw("RoiAlign", &scope, x)?.channels;
        self.require_type("RoiAlign", regions.boxes, Element::F32)?;
        self.require_type("RoiAlign", regions.batch_indices, Element::I64)?;
        let [count, Dim::Fixed(4)] = *self.shape(regions.boxes) else {
            return Err(self.shape_error("RoiAlign", &scope, regions.boxes, "[R, 4]"));
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
        // Opset 16 introduced the attribute and made another mode the default.
        if self.opset >= 16 {
            let mode = Attr::Text("output_half_pixel");
            attrs.push(("coordinate_transformation_mode", mode));
        }
        let side = Dim::Fixed(config.output);
        let shape = vec![count, Dim::Fixed(channels), side, side];
        let inputs = vec![x, regions.boxes, regions.batch_indices];
        Ok(self.node("RoiAlign", &scope, inputs, shape, attrs))
    }
}
