//! Decoding of a network's box deltas, which are relative to reference boxes: anchors, default
//! boxes or region proposals.

use super::BoxXyxy;

/// Converts a network's box deltas to boxes. The deltas (dx, dy, dw, dh) move and scale a reference
/// box.
///
/// Source: torchvision's `models/detection/_utils.py`, `BoxCoder`.
#[derive(Debug, Clone, Copy)]
pub(super) struct BoxCoder {
    /// Divisors of the deltas dx, dy, dw and dh, in this order.
    weights: [f32; 4],
}

impl BoxCoder {
    /// The coder of region proposal networks: all divisors are 1.
    pub(super) const UNIT: Self = Self {
        weights: [1.0, 1.0, 1.0, 1.0],
    };
    /// Upper limit of dw and dh after the division, ln(1000 / 16): a decoded box is at most 62.5
    /// times as wide or high as its reference box.
    const MAX_LOG_SCALE: f32 = 4.135_166_6;

    /// Returns a coder that divides dx, dy, dw and dh by `weights`.
    pub(super) fn new(weights: [f32; 4]) -> Self {
        Self { weights }
    }

    /// Returns the box that `deltas` (dx, dy, dw, dh) describe relative to the box `reference`, in
    /// the coordinates of `reference`.
    pub(super) fn decode(self, deltas: [f32; 4], reference: BoxXyxy) -> BoxXyxy {
        let (width, height) = (reference.width(), reference.height());
        let center_x = reference.x1 + 0.5 * width;
        let center_y = reference.y1 + 0.5 * height;
        let [dx, dy, dw, dh] = [0, 1, 2, 3].map(|i| deltas[i] / self.weights[i]);
        // `f32::min` would turn a NaN delta into the limit. This comparison keeps the NaN, so that
        // the box is not finite and is dropped later.
        let limit = |d: f32| {
            if d > Self::MAX_LOG_SCALE {
                Self::MAX_LOG_SCALE
            } else {
                d
            }
        };
        let (center_x, center_y) = (dx * width + center_x, dy * height + center_y);
        let half_width = 0.5 * (limit(dw).exp() * width);
        let half_height = 0.5 * (limit(dh).exp() * height);
        BoxXyxy {
            x1: center_x - half_width,
            y1: center_y - half_height,
            x2: center_x + half_width,
            y2: center_y + half_height,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_deltas_return_the_reference_and_large_deltas_are_limited() {
        let reference = BoxXyxy::new(10.0, 20.0, 30.0, 60.0);
        assert_eq!(BoxCoder::UNIT.decode([0.0; 4], reference), reference);
        let cases = [
            ([1.0, 0.0, 0.0, 0.0], [30.0, 20.0, 50.0, 60.0]),
            ([0.0, 0.0, 99.0, 0.0], [-605.0, 20.0, 645.0, 60.0]),
            ([0.0, 0.0, f32::NEG_INFINITY, 0.0], [20.0, 20.0, 20.0, 60.0]),
        ];
        for (deltas, expected) in cases {
            let got = BoxCoder::UNIT.decode(deltas, reference).to_array();
            let close = got.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-3);
            assert!(close, "{deltas:?}: {got:?}");
        }
    }

    #[test]
    fn a_nan_delta_gives_a_box_that_is_not_finite() {
        let coder = BoxCoder::new([10.0, 10.0, 5.0, 5.0]);
        for at in 0..4 {
            let mut deltas = [0.0; 4];
            deltas[at] = f32::NAN;
            let decoded = coder.decode(deltas, BoxXyxy::new(1.0, 1.0, 9.0, 9.0));
            assert!(!decoded.is_finite(), "{at}: {decoded:?}");
        }
    }
}
