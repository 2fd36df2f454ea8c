//! Assignment of region proposals to feature maps.

use super::BoxXyxy;

/// Assigns boxes to the levels of a feature pyramid by their area.
///
/// Source: torchvision's `ops/poolers.py`, `LevelMapper` and `_setup_scales`; equation 1 of "Feature
/// Pyramid Networks for Object Detection".
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LevelMapper {
    /// Base-2 logarithm of the stride of the finest map, in pixels.
    first: f32,
    /// Base-2 logarithm of the stride of the coarsest map, in pixels.
    last: f32,
}

/// Side in pixels of a square box that is assigned to [`CANONICAL_LEVEL`].
const CANONICAL_SIDE: f32 = 224.0;
const CANONICAL_LEVEL: f32 = 4.0;
/// Keeps a box of exactly the canonical side on its level in spite of rounding.
const EPSILON: f32 = 1e-6;

impl LevelMapper {
    /// Returns the mapper for feature maps of these strides in pixels, each a power of two, from fine
    /// to coarse.
    pub fn from_strides(strides: &[u32]) -> Self {
        let level = |stride: Option<&u32>| stride.map_or(0.0, |stride| (*stride as f32).log2());
        Self {
            first: level(strides.first()),
            last: level(strides.last()),
        }
    }

    /// Returns the index of the feature map for a box in pixels of the resized image, 0 for the
    /// finest. A box with a NaN edge belongs to the finest.
    pub fn level(&self, bounding_box: BoxXyxy) -> usize {
        let side = bounding_box.area().sqrt();
        let level = (CANONICAL_LEVEL + (side / CANONICAL_SIDE).log2() + EPSILON).floor();
        // `max` before `min` turns a NaN into the first level.
        (level.max(self.first).min(self.last) - self.first) as usize
    }
}
