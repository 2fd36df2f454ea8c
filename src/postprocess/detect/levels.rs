//! Assignment of region proposals to feature map levels.

use super::BoxXyxy;

/// Assigns region proposals to the levels of a feature pyramid by the area of their boxes.
///
/// Source: torchvision's `ops/poolers.py`, `LevelMapper` and `_setup_scales`; equation 1 of
/// "Feature Pyramid Networks for Object Detection".
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LevelMapper {
    /// Base-2 logarithm of the stride of the finest feature map, in pixels.
    first: f32,
    /// Base-2 logarithm of the stride of the coarsest feature map, in pixels.
    last: f32,
}

/// Side in pixels of a square box that is assigned to level [`CANONICAL_LEVEL`].
const CANONICAL_SIDE: f32 = 224.0;
const CANONICAL_LEVEL: f32 = 4.0;
/// Added to the level of a box before rounding down, so that a rounding error does not move a box
/// of exactly [`CANONICAL_SIDE`] pixels to the level below.
const EPSILON: f32 = 1e-6;

impl LevelMapper {
    /// Returns the mapper for feature maps of these strides, in pixels of the resized image.
    /// Strides are powers of two and ordered from the finest map to the coarsest.
    pub fn from_strides(strides: &[u32]) -> Self {
        let level = |stride: Option<&u32>| stride.map_or(0.0, |stride| (*stride as f32).log2());
        Self {
            first: level(strides.first()),
            last: level(strides.last()),
        }
    }

    /// Returns the index of the feature map for a box in pixels of the resized image. The finest
    /// map has index 0. A box with a NaN edge is assigned to the finest map.
    pub fn level(&self, bounding_box: BoxXyxy) -> usize {
        let side = bounding_box.area().sqrt();
        let level = (CANONICAL_LEVEL + (side / CANONICAL_SIDE).log2() + EPSILON).floor();
        // For a NaN level, `max` returns `first`, so the box is assigned to the finest map.
        (level.max(self.first).min(self.last) - self.first) as usize
    }
}
