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

    /// Steps from exactly -3 up to `max`: hard swish and hard sigmoid do not tell apart what lies below.
    pub(super) fn from_minus_three(max: f32) -> Self {
        let scale = (max.max(0.0) + 3.0) / STEPS;
        let zero_point = (3.0 / scale).round().clamp(1.0, STEPS);
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
