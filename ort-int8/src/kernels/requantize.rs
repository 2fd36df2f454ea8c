//! Range of the products of convolutions, and requantization of their int32 sums.

/// Returns `round(sum * multiplier) + zero_point`, ties to even, saturated to 0..=255.
///
/// Source: ONNX Runtime's requantization of `QLinearConv`.
pub(super) fn requantize(sum: i32, multiplier: f32, zero_point: u8) -> u8 {
    let scaled = (sum as f32 * multiplier).round_ties_even();
    (scaled + f32::from(zero_point)).clamp(0.0, 255.0) as u8
}

/// Returns whether no sum of two products of a uint8 value and a weight exceeds 16 bits, for the first
/// and second weight of each channel, the third and fourth, and so on. `weights` holds `per_channel`
/// weights of each channel.
///
/// The instruction `vpmaddubsw` of AVX2 adds products in these pairs and saturates a larger sum.
/// Weights of 7 bits always fit.
pub(crate) fn pairs_fit(weights: &[i8], per_channel: usize) -> bool {
    let channels = weights.chunks(per_channel.max(1));
    let mut pairs = channels.flat_map(|weights| weights.chunks(2));
    pairs.all(|pair| {
        let weights = || pair.iter().map(|weight| 255 * i32::from(*weight));
        let most: i32 = weights().map(|product| product.max(0)).sum();
        let least: i32 = weights().map(|product| product.min(0)).sum();
        most <= i16::MAX.into() && least >= i16::MIN.into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_fit_up_to_the_last_weight_of_7_bits() {
        let cases: [(&[i8], usize, bool); 8] = [
            (&[64, 64], 2, true),
            (&[-64, -64], 2, true),
            (&[64, 65], 2, false),
            (&[-64, -65], 2, false),
            (&[127, -128], 2, true),
            (&[127, 2], 1, true),
            (&[0, 127, 2, 0], 4, true),
            (&[0, 0, 127, 2, 0, 0], 3, true),
        ];
        for (weights, per_channel, expected) in cases {
            let fits = pairs_fit(weights, per_channel);
            assert_eq!(fits, expected, "{weights:?}, {per_channel} per channel");
        }
    }
}
