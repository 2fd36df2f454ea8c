//! Sums of 8-bit numbers, rounded as torch rounds them.
//!
//! Source: `qnnpack`'s `requantization.h`, `pytorch_qnnp_compute_add_quantization_params` and
//! `pytorch_qnnp_scalar_quantize_add`.

use std::ops::RangeInclusive;

use super::Affine;

/// Steps of an operand, in steps of the sum, of which torch has an integer form.
const RATIOS: std::ops::Range<f32> = 1.0 / 16384.0..256.0;
/// Bits of the larger factor.
const BITS: i32 = 22;
/// By how many units in the last place the scales are moved to find the best.
const MOVES: RangeInclusive<i32> = -8..=8;
/// Sums nearer than this to the middle between two numbers may be rounded otherwise in floats: each of the two
/// products is below 2^16, so that neither rounding nor moving changes it by more.
const CLOSE: f64 = 1.0 / 16.0;

/// The scales of the operands of a sum, in steps of the sum `y`, for which floats come to torch's numbers.
///
/// torch multiplies by whole numbers of 22 bits, whose products f32 has to round. Few of the 65,536 sums lie so
/// near to the middle between two numbers that it matters, and scales that are larger or smaller
/// by the last bits put most of them, or all, on torch's side.
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
        let others = close
            .iter()
            .filter(|case| case.sum != sum.float(*scales, case.operands));
        (others.count(), i.abs().max(j.abs()))
    });
    best.map_or(ratios, |(_, scales)| scales)
}

/// A sum in 32-bit integers.
struct FixedSum {
    /// Of the operands.
    factors: [i32; 2],
    /// The factors count in 2 to the minus this.
    shift: i32,
    zero_point: u8,
}

/// Two operands less their zero points, and what torch makes of them.
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

    /// The sums that are close to the middle between two numbers.
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

    /// The sum before it is rounded.
    fn exact(&self, operands: [i32; 2]) -> i64 {
        let terms = operands.iter().zip(self.factors);
        terms
            .map(|(q, factor)| i64::from(*q) * i64::from(factor))
            .sum()
    }

    /// Rounded to the nearest number, and away from 0 in the middle.
    fn rounded(&self, operands: [i32; 2]) -> u8 {
        let exact = self.exact(operands);
        let mask = (1_i64 << self.shift) - 1;
        let remainder = (exact & mask) - i64::from(exact < 0);
        let sum = (exact >> self.shift) + i64::from(remainder > mask >> 1);
        (sum + i64::from(self.zero_point)).clamp(0, 255) as u8
    }

    /// The scales that say the factors, moved by these units in the last place.
    fn moved(&self, by: [i32; 2]) -> [f32; 2] {
        let unit = 2.0_f32.powi(-self.shift);
        let [a, b] = self.factors.map(|factor| factor as f32 * unit);
        [(a, by[0]), (b, by[1])]
            .map(|(scale, by)| f32::from_bits(scale.to_bits().wrapping_add_signed(by)))
    }

    /// What `DequantizeLinear`, `Sum` and `QuantizeLinear` make of two operands.
    fn float(&self, scales: [f32; 2], operands: [i32; 2]) -> u8 {
        let sum = operands[0] as f32 * scales[0] + operands[1] as f32 * scales[1];
        (sum.round_ties_even() + f32::from(self.zero_point)).clamp(0.0, 255.0) as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sums that floats round otherwise than torch.
    fn others(scales: [f32; 2], operands: [Affine; 2], y: Affine) -> usize {
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
    fn floats_come_to_torchs_sums() {
        // Two of the golden MobileNetV3-Large; the exact middle, everywhere and in one operand; far apart.
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
            let unmoved = others(ratios, [a, b], y);
            let got = others(sum_scales(a, b, y), [a, b], y);
            println!("{scales:?}: {got} others, {unmoved} of scales as they are");
            assert!(got <= most.min(unmoved), "{scales:?}: {got} of {unmoved}");
        }
    }

    #[test]
    fn scales_out_of_torchs_reach_are_kept() {
        let (a, b, y) = (affine(300.0, 0), affine(1e-5, 0), affine(1.0, 0));
        assert_eq!(sum_scales(a, b, y), [300.0, 1e-5]);
    }
}
