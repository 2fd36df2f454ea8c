//! From floats to 8-bit numbers: scales, zero points, and the rounding of weights.

use serde::{Deserialize, Serialize};

/// Steps between the smallest and the largest U8 number.
const STEPS: f32 = 255.0;
/// Smallest scale: what is always zero still needs one.
const MIN_SCALE: f32 = 1e-8;
/// Biases stay below this many steps, so that a sum of products added to one fits 32 bits.
const MAX_BIAS_STEPS: f32 = (1 << 30) as f32;

/// Between which numbers a value lies.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(from = "[f32; 2]", into = "[f32; 2]")]
pub struct Range {
    /// The smallest.
    pub min: f32,
    /// The largest.
    pub max: f32,
}

impl From<[f32; 2]> for Range {
    fn from([min, max]: [f32; 2]) -> Self {
        Self { min, max }
    }
}

impl From<Range> for [f32; 2] {
    fn from(range: Range) -> Self {
        [range.min, range.max]
    }
}

/// A U8 number `q` stands for `(q - zero_point) * scale`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Affine {
    /// The step, above 0.
    pub scale: f32,
    /// The number that stands for 0.
    pub zero_point: u8,
}

impl Affine {
    /// The finest steps that reach every number of `range`; 0 is always among them, since padding
    /// is zeros.
    pub fn covering(range: Range) -> Self {
        let (min, max) = (range.min.min(0.0), range.max.max(0.0));
        let scale = ((max - min) / STEPS).max(MIN_SCALE);
        let zero_point = (-min / scale).round().clamp(0.0, STEPS) as u8;
        Self { scale, zero_point }
    }

    /// Steps from exactly -3 up to `max` or a little more: hard swish and hard sigmoid do not tell apart what
    /// lies below.
    pub(super) fn from_minus_three(max: f32) -> Self {
        let scale = (max.max(0.0) + 3.0) / STEPS;
        let zero_point = (3.0 / scale).floor().clamp(1.0, STEPS);
        Self {
            scale: 3.0 / zero_point,
            zero_point: zero_point as u8,
        }
    }

    /// The numbers that it reaches.
    pub fn range(self) -> Range {
        let zero_point = f32::from(self.zero_point);
        Range {
            min: -zero_point * self.scale,
            max: (STEPS - zero_point) * self.scale,
        }
    }
}

/// Steps of a weight's output channels: the coarser of what the largest weight needs and what
/// the channel's bias needs.
///
/// A bias counts in steps of the input's scale times the weight's. Where weights are tiny beside their
/// bias those steps would not reach it in 32 bits, so the weights' are made coarser.
pub(super) fn channel_scales(
    weights: &[f32],
    channels: usize,
    bias: &[f32],
    limit: i8,
    input_scale: f32,
) -> Vec<f32> {
    let taps = weights.chunks((weights.len() / channels.max(1)).max(1));
    let scale = |(channel, taps): (usize, &[f32])| {
        let largest = taps.iter().fold(0.0_f32, |most, tap| most.max(tap.abs()));
        let bias = bias.get(channel).map_or(0.0, |bias| bias.abs());
        let floor = bias / (input_scale * MAX_BIAS_STEPS);
        (largest / f32::from(limit)).max(floor).max(MIN_SCALE)
    };
    taps.enumerate().map(scale).collect()
}

/// Weights in steps of their channel's scale, none outside `limits`.
pub(super) fn round_weights(weights: &[f32], scales: &[f32], limits: (i8, i8)) -> Vec<i8> {
    let per_channel = (weights.len() / scales.len().max(1)).max(1);
    let (least, most) = (f32::from(limits.0), f32::from(limits.1));
    let channels = weights.chunks(per_channel).zip(scales);
    channels
        .flat_map(|(taps, scale)| {
            taps.iter()
                .map(move |tap| (tap / scale).round_ties_even().clamp(least, most) as i8)
        })
        .collect()
}

/// A bias in steps of the input's scale times its channel's.
pub(super) fn round_bias(bias: &[f64], scales: &[f32]) -> Vec<i32> {
    let steps = bias.iter().zip(scales);
    // A cast saturates.
    steps
        .map(|(bias, scale)| (bias / f64::from(*scale)).round_ties_even() as i32)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The number that `affine` makes of `x`.
    fn rounded(affine: Affine, x: f32) -> f32 {
        let zero_point = f32::from(affine.zero_point);
        let q = ((x / affine.scale).round_ties_even() + zero_point).clamp(0.0, STEPS);
        (q - zero_point) * affine.scale
    }

    #[test]
    fn steps_reach_every_number_and_zero() {
        let ranges = [
            [0.0, 0.0],
            [0.0, 1.0],
            [-1.0, 0.0],
            [-1.0, 1.0],
            [2.0, 6.0],
            [-6.0, -2.0],
            [-0.001, 1000.0],
            [-1e30, 1e-30],
            [-1e-30, 1e30],
            [1e-40, 1e-39],
        ];
        for [min, max] in ranges {
            let affine = Affine::covering(Range { min, max });
            assert!(affine.scale >= MIN_SCALE, "{min} {max}: {affine:?}");
            assert_eq!(rounded(affine, 0.0), 0.0, "{min} {max}: {affine:?}");
            // The zero point is whole, which takes at most half a step from either end.
            let half = affine.scale * 0.500_01;
            for x in [min, max] {
                let error = (rounded(affine, x) - x).abs();
                assert!(error <= half, "{x} of {min} {max}: {affine:?}");
            }
            let reached = affine.range();
            assert!(reached.min <= min + half && reached.max >= max - half);
        }
    }

    #[test]
    fn gates_begin_at_minus_three() {
        for max in [
            -5.0, 0.0, 0.5, 2.9, 3.0, 3.01, 6.0, 17.3, 100.0, 300.0, 761.0,
        ] {
            let affine = Affine::from_minus_three(max);
            let zero_point = f32::from(affine.zero_point);
            assert!((zero_point * affine.scale - 3.0).abs() <= 3.0 * f32::EPSILON);
            assert!(affine.range().max >= max, "{max}: {affine:?}");
            // With a sixth of the step and no zero point, the codes stand for (x + 3) / 6.
            let gate = |q: u8| (f32::from(q) * (affine.scale / 6.0) * 255.0).round() / 255.0;
            assert_eq!(gate(0), 0.0);
            if max >= 3.0 {
                assert!(gate(255) >= 1.0, "{max}: {affine:?}");
            }
        }
        // One step below 0 is the least, so what lies above 762 is cut.
        assert_eq!(Affine::from_minus_three(1e30).zero_point, 1);
        assert_eq!(Affine::from_minus_three(f32::MAX).range().max, 762.0);
    }

    #[test]
    fn tiny_weights_leave_their_bias_room() {
        let cases = [
            ([1e-12, -2e-12], 1.0, 1e-8),
            ([0.0, 0.0], -1000.0, 1e-8),
            ([0.5, 0.25], 0.1, 0.02),
            ([1e-6, 1e-6], 50.0, 1e-4),
        ];
        for (weights, bias, input_scale) in cases {
            for limit in [64, 127] {
                let scales = channel_scales(&weights, 1, &[bias], limit, input_scale);
                let steps = round_bias(&[f64::from(bias)], &[scales[0] * input_scale]);
                // Scales are f32: the last bits of 2^30 are theirs.
                let most = (1 << 30) + 512;
                assert!(steps[0].abs() <= most, "{weights:?} {bias}: {steps:?}");
                let rounded = round_weights(&weights, &scales, (-limit, limit));
                for (weight, q) in weights.iter().zip(&rounded) {
                    let error = (f32::from(*q) * scales[0] - weight).abs();
                    assert!(error <= scales[0] * 0.500_01, "{weights:?} {bias}");
                }
            }
        }
        // A bias that is in the way of nothing changes nothing.
        let with = channel_scales(&[0.5, -1.0, 2.0, 0.1], 2, &[1.0, 1.0], 127, 0.01);
        assert_eq!(
            with,
            channel_scales(&[0.5, -1.0, 2.0, 0.1], 2, &[], 127, 0.01)
        );
        assert_eq!(with, [1.0 / 127.0, 2.0 / 127.0]);
    }

    #[test]
    fn weights_keep_to_the_limit() {
        let weights = [1.0, -1.0, 0.5, -0.25, 0.0, 2.0, 1e30, -1e30, f32::NAN];
        for (limit, expected) in [
            (127, [127, -127, 64, -32, 0, 127, 127, -127, 0]),
            (64, [64, -64, 32, -16, 0, 64, 64, -64, 0]),
        ] {
            let scale = 1.0 / f32::from(limit);
            let limits = (-limit, limit);
            assert_eq!(round_weights(&weights, &[scale], limits), expected);
        }
        // Ties go to the even neighbour; channels have scales of their own.
        assert_eq!(
            round_weights(&[0.5, 1.5, 2.0, 6.0], &[1.0, 4.0], (-127, 127)),
            [0, 2, 0, 2]
        );
        assert!(round_weights(&[], &[], (-127, 127)).is_empty());
        assert_eq!(channel_scales(&[], 0, &[], 127, 1.0), [0.0_f32; 0]);
        // A bias beyond 32 bits saturates.
        assert_eq!(
            round_bias(&[1e30, -1e30], &[1.0, 1.0]),
            [i32::MAX, i32::MIN]
        );
    }
}
