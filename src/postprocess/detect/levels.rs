//! Which feature map a proposal is cut from.

use super::Corners;
use crate::image::ImageSize;

/// Assigns boxes to the levels of a feature pyramid by their size.
///
/// Source: torchvision's `ops/poolers.py`, `LevelMapper`, `_setup_scales` and `_infer_scale`; equation
/// 1 of "Feature Pyramid Networks for Object Detection".
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LevelMapper {
    /// Levels as powers of two: a level `k` has a stride of `2^k` pixels.
    levels: [f32; 2],
}

/// Side in pixels of a box that is cut from [`CANONICAL_LEVEL`].
const CANONICAL_SIDE: f32 = 224.0;
const CANONICAL_LEVEL: f32 = 4.0;
/// So that a box of just the side falls onto its level in spite of rounding.
const EPSILON: f32 = 1e-6;

impl LevelMapper {
    /// For maps from `first` (fine) to `last` (coarse). `resized` is the size of the batch's pictures
    /// after the resize, without padding: the largest width and the largest height.
    pub fn new(first: ImageSize, last: ImageSize, resized: ImageSize) -> Self {
        let level = |map: ImageSize| -scale_exponent(map.height, resized.height);
        Self {
            levels: [level(first), level(last)],
        }
    }

    /// For maps of these strides in pixels, each a power of two, from fine to coarse.
    pub fn from_strides(strides: &[u32]) -> Self {
        let level = |stride: Option<&u32>| stride.map_or(0.0, |stride| (*stride as f32).log2());
        Self {
            levels: [level(strides.first()), level(strides.last())],
        }
    }

    /// `RoIAlign`'s scale from pixels to points of a map: a power of two.
    pub fn spatial_scale(map: ImageSize, resized: ImageSize) -> f32 {
        scale_exponent(map.height, resized.height).exp2()
    }

    /// The level of a box in pixels of the resized picture, 0 for the finest; NaN counts as finest.
    pub fn level(&self, [x1, y1, x2, y2]: Corners) -> usize {
        let side = ((x2 - x1) * (y2 - y1)).sqrt();
        let level = (CANONICAL_LEVEL + (side / CANONICAL_SIDE).log2() + EPSILON).floor();
        let [first, last] = self.levels;
        // In this order a NaN becomes the first level.
        (level.max(first).min(last) - first) as usize
    }
}

/// The whole power of two nearest to the scale from pixels to points; for empty sides 0.
fn scale_exponent(points: u32, pixels: u32) -> f32 {
    let exponent = ((f64::from(points) / f64::from(pixels)) as f32).log2();
    if exponent.is_finite() {
        exponent.round_ties_even()
    } else {
        0.0
    }
}
