//! Axis-aligned boxes in pixel coordinates, and their intersection over union.

#![expect(
    clippy::inline_always,
    reason = "functions that a SIMD kernel calls must be inlined to use its instruction set"
)]

use serde::Serialize;

use crate::image::ImageSize;

/// A box given by its left, top, right and bottom edges, in pixels from the image's top left corner.
///
/// Edges are not ordered or clipped by construction: a box decoded from a network's outputs may lie
/// outside of the image, be inverted, or hold NaN.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct BoxXyxy {
    /// Left edge in pixels from the left edge of the image.
    pub x1: f32,
    /// Top edge in pixels from the top edge of the image.
    pub y1: f32,
    /// Right edge in pixels from the left edge of the image.
    pub x2: f32,
    /// Bottom edge in pixels from the top edge of the image.
    pub y2: f32,
}

impl BoxXyxy {
    /// Returns the box with these edges.
    pub const fn new(x1: f32, y1: f32, x2: f32, y2: f32) -> Self {
        Self { x1, y1, x2, y2 }
    }

    /// Returns the edges as `[x1, y1, x2, y2]`, the order of torchvision's box tensors.
    #[inline]
    pub const fn to_array(self) -> [f32; 4] {
        [self.x1, self.y1, self.x2, self.y2]
    }

    /// Returns `x2 - x1`, negative for an inverted box.
    #[inline]
    pub fn width(self) -> f32 {
        self.x2 - self.x1
    }

    /// Returns `y2 - y1`, negative for an inverted box.
    #[inline]
    pub fn height(self) -> f32 {
        self.y2 - self.y1
    }

    /// Returns width times height in square pixels.
    #[inline]
    pub fn area(self) -> f32 {
        self.width() * self.height()
    }

    /// Returns whether no edge is NaN or infinite.
    pub fn is_finite(self) -> bool {
        self.to_array().iter().all(|edge| edge.is_finite())
    }

    /// Returns whether width and height are at least `min_side` pixels; false if an edge is NaN.
    ///
    /// Source: torchvision's `ops/boxes.py:remove_small_boxes`.
    pub fn is_at_least(self, min_side: f32) -> bool {
        self.width() >= min_side && self.height() >= min_side
    }

    /// Returns the box clipped to an image of `size`. NaN edges stay NaN.
    ///
    /// Source: torchvision's `ops/boxes.py:clip_boxes_to_image`.
    #[must_use]
    pub fn clipped(self, size: ImageSize) -> Self {
        let (width, height) = (size.width as f32, size.height as f32);
        Self {
            x1: self.x1.clamp(0.0, width),
            y1: self.y1.clamp(0.0, height),
            x2: self.x2.clamp(0.0, width),
            y2: self.y2.clamp(0.0, height),
        }
    }

    /// Returns the box converted from pixels of an image of size `from` to pixels of the same image
    /// resized to `to`.
    ///
    /// Source: torchvision's `models/detection/transform.py:resize_boxes`.
    #[must_use]
    pub fn rescaled(self, from: ImageSize, to: ImageSize) -> Self {
        let x_scale = to.width as f32 / from.width as f32;
        let y_scale = to.height as f32 / from.height as f32;
        Self {
            x1: self.x1 * x_scale,
            y1: self.y1 * y_scale,
            x2: self.x2 * x_scale,
            y2: self.y2 * y_scale,
        }
    }

    /// Returns the box moved by `x` pixels to the right and `y` pixels down.
    #[must_use]
    pub fn shifted(self, x: f32, y: f32) -> Self {
        Self {
            x1: x + self.x1,
            y1: y + self.y1,
            x2: x + self.x2,
            y2: y + self.y2,
        }
    }

    /// Returns the intersection over union with `other`, 0..=1; NaN if both boxes have no area.
    pub fn iou(self, other: Self) -> f32 {
        self.iou_with_areas(self.area(), other, other.area())
    }

    /// Returns the intersection over union with `other`. `area` and `other_area` are the areas of
    /// `self` and `other` in square pixels, precomputed because suppression compares one box with
    /// thousands.
    ///
    /// Source: torchvision's `csrc/ops/cpu/nms_kernel.cpp`, in its order of f32 operations.
    #[inline(always)]
    pub(crate) fn iou_with_areas(self, area: f32, other: Self, other_area: f32) -> f32 {
        // Comparisons as in C++'s `std::max` and `std::min`: unlike `f32::max` they compile to one
        // vector instruction.
        let larger = |a: f32, b: f32| if a < b { b } else { a };
        let smaller = |a: f32, b: f32| if b < a { b } else { a };
        let width = larger(0.0, smaller(self.x2, other.x2) - larger(self.x1, other.x1));
        let height = larger(0.0, smaller(self.y2, other.y2) - larger(self.y1, other.y1));
        let intersection = width * height;
        intersection / (area + other_area - intersection)
    }
}

impl From<[f32; 4]> for BoxXyxy {
    #[inline]
    fn from([x1, y1, x2, y2]: [f32; 4]) -> Self {
        Self { x1, y1, x2, y2 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: ImageSize = ImageSize {
        width: 100,
        height: 50,
    };

    #[test]
    fn boxes_are_clipped_and_rescaled_per_axis() {
        let clipped = BoxXyxy::new(-5.0, 10.0, 120.0, f32::INFINITY).clipped(SIZE);
        assert_eq!(clipped, BoxXyxy::new(0.0, 10.0, 100.0, 50.0));
        let original = ImageSize {
            width: 50,
            height: 200,
        };
        let rescaled = clipped.rescaled(SIZE, original);
        assert_eq!(rescaled, BoxXyxy::new(0.0, 40.0, 50.0, 200.0));
    }

    #[test]
    fn nan_edges_survive_clipping_and_fail_every_check() {
        for edge in 0..4 {
            let mut edges = [1.0, 1.0, 9.0, 9.0];
            edges[edge] = f32::NAN;
            let clipped = BoxXyxy::from(edges).clipped(SIZE);
            assert!(!clipped.is_finite(), "{clipped:?}");
            assert!(!clipped.is_at_least(0.0), "{clipped:?}");
        }
    }

    #[test]
    fn iou_of_overlapping_and_degenerate_boxes() {
        let unit = BoxXyxy::new(0.0, 0.0, 1.0, 1.0);
        let cases = [
            (unit, 1.0),
            (unit.shifted(0.5, 0.0), 1.0 / 3.0),
            (unit.shifted(2.0, 0.0), 0.0),
            (BoxXyxy::new(0.0, 0.0, 0.0, 1.0), 0.0),
        ];
        for (other, expected) in cases {
            assert_eq!(unit.iou(other), expected, "{other:?}");
        }
        let empty = BoxXyxy::new(3.0, 3.0, 3.0, 3.0);
        assert!(empty.iou(empty).is_nan());
    }
}
