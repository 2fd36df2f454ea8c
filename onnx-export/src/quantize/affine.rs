//! Scales and zero points, and the rounding of weights and biases.

use serde::{Deserialize, Serialize};

/// Largest uint8 value.
const MAX_Q: f32 = 255.0;
/// Smallest scale of a value or weight, which keeps the scale of a tensor of zeros above 0.
const MIN_SCALE: f32 = 1e-8;
/// Largest absolute value of a rounded bias, 2^30. It leaves room in int32 for the sum of products
/// to which the bias is added.
const MAX_BIAS: f32 = (1 << 30) as f32;

/// The activation range of a value: quantization clips elements outside of this range.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(from = "[f32; 2]", into = "[f32; 2]")]
pub struct Range {
    /// Smallest element that is not clipped.
    pub min: f32,
    /// Largest element that is not clipped.
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

/// Scale and zero point of a uint8 tensor: `q` stands for `(q - zero_point) * scale`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Affine {
    /// The scale: the difference between the elements that two neighboring quantized values `q`
    /// stand for; above 0.
    pub scale: f32,
    /// The quantized value `q` that stands for 0.
    pub zero_point: u8,
}

impl Affine {
    /// Returns the smallest scale with which uint8 covers `range` and 0, except for up to half a
    /// scale at either end, and the zero point that belongs to it. 0 is represented exactly, since
    /// convolutions pad with zeros.
    pub fn covering(range: Range) -> Self {
        let (min, max) = (range.min.min(0.0), range.max.max(0.0));
        let scale = ((max - min) / MAX_Q).max(MIN_SCALE);
        let zero_point = (-min / scale).round().clamp(0.0, MAX_Q) as u8;
        Self { scale, zero_point }
    }

    /// Returns a scale and zero point with which uint8 begins at exactly -3, below which hard
    /// sigmoid and hard swish are constant, and ends at `max` or a little above, but at most at
    /// 762.
    pub(super) fn from_minus_three(max: f32) -> Self {
        let scale = (max.max(0.0) + 3.0) / MAX_Q;
        let zero_point = (3.0 / scale).floor().clamp(1.0, MAX_Q);
        Self {
            scale: 3.0 / zero_point,
            zero_point: zero_point as u8,
        }
    }

    /// Returns the activation range from the element that `q = 0` stands for to the one that
    /// `q = 255` stands for.
    pub fn range(self) -> Range {
        let zero_point = f32::from(self.zero_point);
        Range {
            min: -zero_point * self.scale,
            max: (MAX_Q - zero_point) * self.scale,
        }
    }
}

/// The arguments of [`channel_scales`]: a layer's weight, and the other quantities on which the
/// scales of the weight depend.
#[derive(Debug, Clone, Copy)]
pub(super) struct ScaleInputs<'a> {
    /// Elements of the weight in C order, output channels outermost.
    pub(super) weights: &'a [f32],
    /// Number of output channels.
    pub(super) channels: usize,
    /// Bias of each output channel; empty if the layer has none.
    pub(super) bias: &'a [f32],
    /// Largest absolute value that an element of the rounded weight may have.
    pub(super) limit: i8,
    /// Scale of the layer's input.
    pub(super) input_scale: f32,
}

/// Returns one weight scale per output channel: the smallest of at least [`MIN_SCALE`] with which
/// every rounded weight of the channel is at most `limit` and the rounded bias at most
/// [`MAX_BIAS`], in absolute value.
///
/// A bias has the scale `input scale * weight scale`. If a channel's weights are tiny compared with
/// its bias, the rounded bias would not fit int32, so the weight scale of the channel is made
/// larger.
pub(super) fn channel_scales(inputs: ScaleInputs<'_>) -> Vec<f32> {
    let ScaleInputs {
        weights,
        channels,
        bias,
        limit,
        input_scale,
    } = inputs;
    let taps = weights.chunks((weights.len() / channels.max(1)).max(1));
    let scale = |(channel, taps): (usize, &[f32])| {
        let largest = taps.iter().fold(0.0_f32, |most, tap| most.max(tap.abs()));
        let bias = bias.get(channel).map_or(0.0, |bias| bias.abs());
        let floor = bias / (input_scale * MAX_BIAS);
        (largest / f32::from(limit)).max(floor).max(MIN_SCALE)
    };
    taps.enumerate().map(scale).collect()
}

/// Divides each weight by the scale of its output channel, rounds it (ties to even) and clamps it
/// to `limits`, the smallest and the largest rounded weight.
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

/// Divides each bias by its scale and rounds it (ties to even). Results beyond int32 saturate.
pub(super) fn round_bias(bias: &[f64], scales: &[f32]) -> Vec<i32> {
    let pairs = bias.iter().zip(scales);
    // The cast from f64 to i32 saturates.
    pairs
        .map(|(bias, scale)| (bias / f64::from(*scale)).round_ties_even() as i32)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns `x` after quantization and dequantization with `affine`.
    fn rounded(affine: Affine, x: f32) -> f32 {
        let zero_point = f32::from(affine.zero_point);
        let q = ((x / affine.scale).round_ties_even() + zero_point).clamp(0.0, MAX_Q);
        (q - zero_point) * affine.scale
    }

    #[test]
    fn covering_scales_reach_the_range_and_zero() {
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
            // Rounding the zero point costs at most half a scale at either end.
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
    fn gate_scales_begin_at_minus_three() {
        for max in [
            -5.0, 0.0, 0.5, 2.9, 3.0, 3.01, 6.0, 17.3, 100.0, 300.0, 761.0,
        ] {
            let affine = Affine::from_minus_three(max);
            let zero_point = f32::from(affine.zero_point);
            assert!((zero_point * affine.scale - 3.0).abs() <= 3.0 * f32::EPSILON);
            assert!(affine.range().max >= max, "{max}: {affine:?}");
            // Read with a sixth of the scale and zero point 0, `q` stands for `(x + 3) / 6`.
            let gate = |q: u8| (f32::from(q) * (affine.scale / 6.0) * 255.0).round() / 255.0;
            assert_eq!(gate(0), 0.0);
            if max >= 3.0 {
                assert!(gate(255) >= 1.0, "{max}: {affine:?}");
            }
        }
        // The zero point is at least 1, so the scale is at most 3 and values above 762 are clipped.
        assert_eq!(Affine::from_minus_three(1e30).zero_point, 1);
        assert_eq!(Affine::from_minus_three(f32::MAX).range().max, 762.0);
    }

    #[test]
    fn tiny_weights_get_scales_that_fit_their_bias() {
        let cases = [
            ([1e-12, -2e-12], 1.0, 1e-8),
            ([0.0, 0.0], -1000.0, 1e-8),
            ([0.5, 0.25], 0.1, 0.02),
            ([1e-6, 1e-6], 50.0, 1e-4),
        ];
        for (weights, bias, input_scale) in cases {
            for limit in [64, 127] {
                let inputs = ScaleInputs {
                    weights: &weights,
                    channels: 1,
                    bias: &[bias],
                    limit,
                    input_scale,
                };
                let scales = channel_scales(inputs);
                let rounded_bias = round_bias(&[f64::from(bias)], &[scales[0] * input_scale]);
                // The scale is an f32 and therefore not exact, so the rounded bias may exceed 2^30
                // a little.
                let most = (1 << 30) + 512;
                assert!(
                    rounded_bias[0].abs() <= most,
                    "{weights:?} {bias}: {rounded_bias:?}"
                );
                let rounded = round_weights(&weights, &scales, (-limit, limit));
                for (weight, q) in weights.iter().zip(&rounded) {
                    let error = (f32::from(*q) * scales[0] - weight).abs();
                    assert!(error <= scales[0] * 0.500_01, "{weights:?} {bias}");
                }
            }
        }
        // A bias that fits int32 does not change the weight scales.
        let inputs = ScaleInputs {
            weights: &[0.5, -1.0, 2.0, 0.1],
            channels: 2,
            bias: &[1.0, 1.0],
            limit: 127,
            input_scale: 0.01,
        };
        let with = channel_scales(inputs);
        let without = channel_scales(ScaleInputs {
            bias: &[],
            ..inputs
        });
        assert_eq!(with, without);
        assert_eq!(with, [1.0 / 127.0, 2.0 / 127.0]);
    }

    #[test]
    fn rounded_weights_stay_within_the_limits() {
        let weights = [1.0, -1.0, 0.5, -0.25, 0.0, 2.0, 1e30, -1e30, f32::NAN];
        for (limit, expected) in [
            (127, [127, -127, 64, -32, 0, 127, 127, -127, 0]),
            (64, [64, -64, 32, -16, 0, 64, 64, -64, 0]),
        ] {
            let scale = 1.0 / f32::from(limit);
            let limits = (-limit, limit);
            assert_eq!(round_weights(&weights, &[scale], limits), expected);
        }
        // Ties are rounded to the even neighbor; each output channel has its own scale.
        assert_eq!(
            round_weights(&[0.5, 1.5, 2.0, 6.0], &[1.0, 4.0], (-127, 127)),
            [0, 2, 0, 2]
        );
        assert!(round_weights(&[], &[], (-127, 127)).is_empty());
        let none = ScaleInputs {
            weights: &[],
            channels: 0,
            bias: &[],
            limit: 127,
            input_scale: 1.0,
        };
        assert_eq!(channel_scales(none), [0.0_f32; 0]);
        // A rounded bias beyond int32 saturates.
        assert_eq!(
            round_bias(&[1e30, -1e30], &[1.0, 1.0]),
            [i32::MAX, i32::MIN]
        );
    }
}
