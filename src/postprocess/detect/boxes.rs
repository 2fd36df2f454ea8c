//! Arithmetic of single boxes, `[x1, y1, x2, y2]` in pixels, in torchvision's order of operations.

use super::Corners;
use crate::image::ImageSize;

/// Decodes what a network says of a box relative to a reference box.
///
/// Source: torchvision's `models/detection/_utils.py`, `BoxCoder`.
#[derive(Debug, Clone, Copy)]
pub(super) struct BoxCoder {
    /// Divisors of dx, dy, dw and dh.
    weights: [f32; 4],
}

impl BoxCoder {
    /// Of the RPN.
    pub(super) const UNIT: Self = Self {
        weights: [1.0, 1.0, 1.0, 1.0],
    };
    /// Largest dw and dh, ln(1000 / 16): no box grows more than 62.5 times.
    const MAX_LOG_SCALE: f32 = 4.135_166_6;

    /// With a model's own weights.
    pub(super) fn new(weights: [f32; 4]) -> Self {
        Self { weights }
    }

    /// The box at `deltas` (dx, dy, dw, dh) from `reference`.
    pub(super) fn decode(self, deltas: [f32; 4], reference: Corners) -> Corners {
        let [x1, y1, x2, y2] = reference;
        let (width, height) = (x2 - x1, y2 - y1);
        let (centre_x, centre_y) = (x1 + 0.5 * width, y1 + 0.5 * height);
        let [dx, dy, dw, dh] = [0, 1, 2, 3].map(|i| deltas[i] / self.weights[i]);
        // Written out because `f32::min` would turn a NaN into the limit.
        let limit = |d: f32| {
            if d > Self::MAX_LOG_SCALE {
                Self::MAX_LOG_SCALE
            } else {
                d
            }
        };
        let (centre_x, centre_y) = (dx * width + centre_x, dy * height + centre_y);
        let half_width = 0.5 * (limit(dw).exp() * width);
        let half_height = 0.5 * (limit(dh).exp() * height);
        [
            centre_x - half_width,
            centre_y - half_height,
            centre_x + half_width,
            centre_y + half_height,
        ]
    }
}

/// The part of a box that lies in a picture of `size`; NaN stays NaN.
///
/// Source: torchvision's `ops/boxes.py:clip_boxes_to_image`.
pub(super) fn clip([x1, y1, x2, y2]: Corners, size: ImageSize) -> Corners {
    let (width, height) = (size.width as f32, size.height as f32);
    [
        x1.clamp(0.0, width),
        y1.clamp(0.0, height),
        x2.clamp(0.0, width),
        y2.clamp(0.0, height),
    ]
}

/// Whether both sides are at least `min_size`; false for NaN.
///
/// Source: torchvision's `ops/boxes.py:remove_small_boxes`.
pub(super) fn is_at_least([x1, y1, x2, y2]: Corners, min_size: f32) -> bool {
    x2 - x1 >= min_size && y2 - y1 >= min_size
}

/// Whether every corner is a number.
pub(super) fn is_finite(corners: Corners) -> bool {
    corners.iter().all(|edge| edge.is_finite())
}

/// From pixels of the resized picture to pixels of the uploaded one.
///
/// Source: torchvision's `models/detection/transform.py:resize_boxes`.
pub(super) fn rescale(corners: Corners, resized: ImageSize, original: ImageSize) -> Corners {
    let across = original.width as f32 / resized.width as f32;
    let down = original.height as f32 / resized.height as f32;
    let [x1, y1, x2, y2] = corners;
    [x1 * across, y1 * down, x2 * across, y2 * down]
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: ImageSize = ImageSize {
        width: 100,
        height: 50,
    };

    #[test]
    fn no_deltas_give_the_reference_and_large_ones_are_limited() {
        let reference = [10.0, 20.0, 30.0, 60.0];
        assert_eq!(BoxCoder::UNIT.decode([0.0; 4], reference), reference);
        let cases = [
            ([1.0, 0.0, 0.0, 0.0], [30.0, 20.0, 50.0, 60.0]),
            ([0.0, 0.0, 99.0, 0.0], [-605.0, 20.0, 645.0, 60.0]),
            ([0.0, 0.0, f32::NEG_INFINITY, 0.0], [20.0, 20.0, 20.0, 60.0]),
        ];
        for (deltas, expected) in cases {
            let got = BoxCoder::UNIT.decode(deltas, reference);
            let close = got.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-3);
            assert!(close, "{deltas:?}: {got:?}");
        }
    }

    #[test]
    fn numbers_that_are_none_stay_so_and_are_never_large_enough() {
        for at in 0..4 {
            let mut deltas = [0.0; 4];
            deltas[at] = f32::NAN;
            let decoded =
                BoxCoder::new([10.0, 10.0, 5.0, 5.0]).decode(deltas, [1.0, 1.0, 9.0, 9.0]);
            let clipped = clip(decoded, SIZE);
            assert!(!is_finite(clipped), "{at}: {clipped:?}");
            assert!(!is_at_least(clipped, 0.0), "{at}: {clipped:?}");
        }
    }

    #[test]
    fn boxes_are_clipped_and_scaled_per_axis() {
        let clipped = clip([-5.0, 10.0, 120.0, f32::INFINITY], SIZE);
        assert_eq!(clipped, [0.0, 10.0, 100.0, 50.0]);
        let original = ImageSize {
            width: 50,
            height: 200,
        };
        assert_eq!(rescale(clipped, SIZE, original), [0.0, 40.0, 50.0, 200.0]);
    }
}
