//! Finds scales with which a sum in fp32 is rounded as torch rounds an int8 sum.
//!
//! Source: `qnnpack`'s `requantization.h`, `pytorch_qnnp_compute_add_quantization_params` and
//! `pytorch_qnnp_scalar_quantize_add`.

use std::ops::RangeInclusive;

use super::Affine;

/// Ratios of an operand's scale to the sum's scale for which torch has an integer kernel.
const RATIOS: std::ops::Range<f32> = 1.0 / 16384.0..256.0;
/// Number of bits of the larger of the two integer factors by which torch multiplies the operands
/// of a sum.
const BITS: i32 = 22;
/// Offsets, in units in the last place, that [`sum_scales`] adds to the scale of each operand. The
/// pair of scales with which the most int8 sums equal torch's is chosen.
const MOVES: RangeInclusive<i32> = -8..=8;
/// Largest distance of an exact sum from the midpoint between two integers at which fp32 may round
/// the sum differently from torch. The product of an operand and its scale is below 2^16, so
/// neither rounding in fp32 nor the offsets in [`MOVES`] change the sum by more.
const CLOSE: f64 = 1.0 / 16.0;

/// Returns the scales of the operands `a` and `b`, divided by the scale of their sum `y`, with
/// which a sum in fp32 rounds to the same integer as torch's kernel for as many pairs of elements
/// as possible.
///
/// torch multiplies the operands by integers of up to 22 bits, and f32 cannot hold all of the
/// products exactly. Only the few of the 65,536 possible sums that lie close to the midpoint
/// between two integers are affected. With the last bits of the scales changed, most or all of
/// these sums round as in torch.
pub(super) fn sum_scales(a: Affine, b: Affine, y: Affine) -> [f32; 2] {
    let ratios = [a, b].map(|operand| operand.scale / y.scale);
    if !ratios.iter().all(|ratio| RATIOS.contains(ratio)) {
        return ratios;
    }
    let sum = FixedSum::new(ratios, y.zero_point);
    let close = sum.close([a, b]);
    let moves = MOVES.flat_map(|i| MOVES.map(move |j| [i, j]));
    let moved = moves.map(|by| (by, sum.moved(by)));
    let best = moved.min_by_key(|([i, j], scales)| {
        let different = close
            .iter()
            .filter(|case| case.sum != sum.float(*scales, case.operands));
        (different.count(), i.abs().max(j.abs()))
    });
    best.map_or(ratios, |(_, scales)| scales)
}

/// Parameters of the integer kernel with which torch adds two quantized tensors.
struct FixedSum {
    /// Integer factors of the two operands, in units of `2^-shift`.
    factors: [i32; 2],
    shift: i32,
    zero_point: u8,
}

/// Two uint8 operands minus their zero points, and torch's uint8 sum of the operands.
struct Case {
    operands: [i32; 2],
    sum: u8,
}

impl FixedSum {
    fn new(ratios: [f32; 2], zero_point: u8) -> Self {
        let [a, b] = ratios;
        let exponent = (a.max(b).to_bits() >> 23) as i32 - 127;
        let shift = BITS - 1 - exponent;
        let factor = |ratio: f32| (ratio * 2.0_f32.powi(shift)).round_ties_even() as i32;
        Self {
            factors: ratios.map(factor),
            shift,
            zero_point,
        }
    }

    /// Returns the pairs of operands whose exact sum is within [`CLOSE`] of the midpoint between
    /// two integers.
    fn close(&self, operands: [Affine; 2]) -> Vec<Case> {
        let [a, b] = operands.map(|operand| {
            let zero_point = i32::from(operand.zero_point);
            -zero_point..=255 - zero_point
        });
        let pairs = a.flat_map(|a| b.clone().map(move |b| [a, b]));
        let close = pairs.filter(|operands| {
            let exact = self.exact(*operands) as f64 * f64::from(-self.shift).exp2();
            (exact - exact.floor() - 0.5).abs() < CLOSE
        });
        close
            .map(|operands| Case {
                operands,
                sum: self.rounded(operands),
            })
            .collect()
    }

    /// Returns the sum of the two operands before rounding, in units of `2^-shift`.
    fn exact(&self, operands: [i32; 2]) -> i64 {
        let terms = operands.iter().zip(self.factors);
        terms
            .map(|(q, factor)| i64::from(*q) * i64::from(factor))
            .sum()
    }

    /// Returns torch's uint8 result: the sum rounded to the nearest integer, ties away from 0, plus the zero point.
    fn rounded(&self, operands: [i32; 2]) -> u8 {
        let exact = self.exact(operands);
        let mask = (1_i64 << self.shift) - 1;
        let remainder = (exact & mask) - i64::from(exact < 0);
        let sum = (exact >> self.shift) + i64::from(remainder > mask >> 1);
        (sum + i64::from(self.zero_point)).clamp(0, 255) as u8
    }

    /// Returns the two factors as f32 scales, the scale at each index changed by `by` units in the
    /// last place.
    fn moved(&self, by: [i32; 2]) -> [f32; 2] {
        let unit = 2.0_f32.powi(-self.shift);
        let [a, b] = self.factors.map(|factor| factor as f32 * unit);
        [(a, by[0]), (b, by[1])]
            .map(|(scale, by)| f32::from_bits(scale.to_bits().wrapping_add_signed(by)))
    }

    /// Returns the uint8 result of an fp32 sum of two operands: `DequantizeLinear` with `scales`,
    /// `Sum`, and `QuantizeLinear` with scale 1.
    fn float(&self, scales: [f32; 2], operands: [i32; 2]) -> u8 {
        let sum = operands[0] as f32 * scales[0] + operands[1] as f32 * scales[1];
        (sum.round_ties_even() + f32::from(self.zero_point)).clamp(0.0, 255.0) as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the number of pairs of operands, of 65,536, for which the fp32 sum with `scales`
    /// differs from torch's int8 sum.
    fn differing(scales: [f32; 2], operands: [Affine; 2], y: Affine) -> usize {
        let ratios = operands.map(|operand| operand.scale / y.scale);
        let sum = FixedSum::new(ratios, y.zero_point);
        let [a, b] = operands.map(|operand| i32::from(operand.zero_point));
        let pairs = (-a..256 - a).flat_map(|a| (-b..256 - b).map(move |b| [a, b]));
        pairs
            .filter(|pair| sum.float(scales, *pair) != sum.rounded(*pair))
            .count()
    }

    fn affine(scale: f32, zero_point: u8) -> Affine {
        Affine { scale, zero_point }
    }

    #[test]
    fn fp32_sums_equal_torchs() {
        // The first two cases are sums of the golden MobileNetV3-Large. In the third, the scaled
        // elements of both operands are multiples of 1/2, in the fourth only those of the first, so
        // that sums lie exactly midway between two integers. In the last, the scales are far apart.
        let cases = [
            (
                [0.035_131_354, 0.097_155_15, 0.102_239_355],
                [11, 127, 116],
                0,
            ),
            (
                [0.137_689_93, 0.173_713_86, 0.188_922_45],
                [119, 133, 130],
                0,
            ),
            ([0.5, 0.5, 1.0], [100, 128, 120], 500),
            ([0.5, 1.0, 1.0], [0, 3, 7], 500),
            ([100.0, 0.01, 1.0], [100, 128, 120], 0),
        ];
        for (scales, zero_points, most) in cases {
            let [a, b, y] = [0, 1, 2].map(|index| Affine {
                scale: scales[index],
                zero_point: zero_points[index],
            });
            let ratios = [a, b].map(|operand| operand.scale / y.scale);
            let unmoved = differing(ratios, [a, b], y);
            let got = differing(sum_scales(a, b, y), [a, b], y);
            println!("{scales:?}: {got} sums differ from torch's, {unmoved} with unchanged scales");
            assert!(
                got <= most.min(unmoved),
                "{scales:?}: {got} sums differ from torch's, {unmoved} with unchanged scales"
            );
        }
    }

    #[test]
    fn scales_without_an_integer_form_are_kept() {
        let (a, b, y) = (affine(300.0, 0), affine(1e-5, 0), affine(1.0, 0));
        assert_eq!(sum_scales(a, b, y), [300.0, 1e-5]);
    }
}
