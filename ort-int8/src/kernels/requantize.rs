//! Requantization of the int32 sums of convolutions.

/// Returns `round(sum * multiplier) + zero_point`, ties to even, saturated to 0..=255.
///
/// Source: ONNX Runtime's requantization of `QLinearConv`.
pub(super) fn requantize(sum: i32, multiplier: f32, zero_point: u8) -> u8 {
    let scaled = (sum as f32 * multiplier).round_ties_even();
    (scaled + f32::from(zero_point)).clamp(0.0, 255.0) as u8
}
