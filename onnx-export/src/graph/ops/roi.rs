//! The operator `RoiAlign`, which pools regions of interest from a feature map.

use super::super::{Attr, Dim, Element, Graph, Value};
use super::Extent;
use crate::error::BuildError;

/// Attributes of `RoiAlign`. The output of a region is square, each of its cells is the mean of
/// samples of the feature map, and coordinates are not shifted by half a pixel.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RoiAlign {
    /// Height and width of the output of a region, in cells.
    pub output: usize,
    /// Number of samples along each side of a cell of the output.
    pub sampling_ratio: usize,
    /// Stride of the feature map: image pixels per element of the map, along each axis.
    pub stride: u32,
}

/// The regions of interest of all images of a batch.
#[derive(Debug, Clone, Copy)]
pub struct Regions {
    /// Corners x1, y1, x2, y2 of each region in pixels of its image, `[R, 4] f32`.
    pub boxes: Value,
    /// Index of the image in the batch to which each region belongs, `[R] i64`.
    pub batch_indices: Value,
}

impl Graph {
    /// Adds `RoiAlign` of `x` `[N, C, H, W]` at R regions, with output `[R, C, output, output]`. R
    /// may be 0.
    ///
    /// Source: `torchvision.ops.roi_align` with `aligned=False`.
    ///
    /// # Errors
    /// [`BuildError::Attribute`] if an attribute is 0 or too large. [`BuildError::Shape`] or
    /// [`BuildError::Type`] if `x` is not `[N, C, H, W]` with a fixed C, or if the `boxes` and
    /// `batch_indices` of `regions` are not `[R, 4] f32` and `[R] i64`.
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
        // Up to opset 15, `RoiAlign` never shifts coordinates. Opset 16 introduced
        // `coordinate_transformation_mode`, whose default is a shift by half a pixel.
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
