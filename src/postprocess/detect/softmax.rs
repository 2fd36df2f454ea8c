//! Softmax over the classes at every point (anchor position) of a feature map that is stored class by class: the
//! logits of one class at all points are contiguous.

#![expect(
    clippy::inline_always,
    reason = "functions that a SIMD kernel calls must be inlined to use its instruction set"
)]

use fearless_simd::Simd;

use crate::simd::{Kernel, dispatch};

/// Number of points whose probabilities are compared with the threshold together, in a few vector
/// instructions.
const CHUNK: usize = 16;

/// The softmax of the classes at every point of a feature map, as exponentials and their sums. The
/// quotient is computed only for the points that may pass a threshold.
#[derive(Debug, Default)]
pub(super) struct Softmax {
    points: usize,
    /// Exponentials `[K, points]` of the logits relative to the largest logit of their point,
    /// 0..=1.
    exponentials: Vec<f32>,
    /// The largest logit of each point, `[points]`.
    largest: Vec<f32>,
    /// The sum of each point's exponentials, `[points]`.
    sums: Vec<f32>,
}

impl Softmax {
    /// Computes the softmax of `planes`: one plane per class, with the logits of `points` points
    /// each. The memory of an earlier call is reused.
    ///
    /// A point with a NaN logit has a NaN sum, and none of its classes is above any threshold.
    pub(super) fn load<'a>(&mut self, planes: impl Iterator<Item = &'a [f32]>, points: usize) {
        self.points = points;
        self.exponentials.clear();
        for plane in planes {
            self.exponentials.extend_from_slice(plane);
        }
        self.largest.clear();
        self.largest.resize(points, f32::NEG_INFINITY);
        self.sums.clear();
        self.sums.resize(points, 0.0);
        if points > 0 {
            dispatch(Exponentials { softmax: self });
        }
    }

    /// Returns `(point, probability)` of the points where the probability of `class` is more than
    /// `threshold`.
    pub(super) fn over(&self, class: usize, threshold: f32) -> impl Iterator<Item = (usize, f32)> {
        let plane = &self.exponentials[class * self.points..][..self.points];
        // Comparing an exponential with the product of threshold and sum excludes nearly all points
        // without a division, which would dominate the cost. The factor 0.999 allows for rounding.
        let surely_less = threshold * 0.999;
        let chunks = plane.chunks(CHUNK).zip(self.sums.chunks(CHUNK)).enumerate();
        let possible = chunks.filter(move |(_, (plane, sums))| {
            let pairs = plane.iter().zip(*sums);
            // The compiler vectorizes a count over all points of a chunk, but not a search that
            // stops at the first match.
            pairs
                .map(|(e, sum)| u32::from(*e >= surely_less * *sum))
                .sum::<u32>()
                > 0
        });
        let scores = possible.flat_map(|(i, (plane, sums))| {
            let pairs = plane.iter().zip(sums).enumerate();
            pairs.map(move |(j, (e, sum))| (i * CHUNK + j, e / sum))
        });
        scores.filter(move |(_, score)| *score > threshold)
    }
}

struct Exponentials<'a> {
    softmax: &'a mut Softmax,
}

impl Kernel for Exponentials<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Softmax {
            points,
            exponentials,
            largest,
            sums,
        } = self.softmax;
        for plane in exponentials.chunks_exact(*points) {
            for (largest, logit) in largest.iter_mut().zip(plane) {
                *largest = if *logit > *largest { *logit } else { *largest };
            }
        }
        for plane in exponentials.chunks_exact_mut(*points) {
            for ((logit, largest), sum) in plane.iter_mut().zip(&*largest).zip(&mut *sums) {
                *logit = exp_of_negative(*logit - *largest);
                *sum += *logit;
            }
        }
    }
}

/// Returns `exp(x)` for x <= 0 with an error of at most two units in the last place, and e^-87 for
/// x < -87. NaN stays NaN.
///
/// The function consists of additions and multiplications only, so the compiler vectorizes it,
/// unlike the system's `expf`. It computes `exp(x) = 2^n * exp(r)` with `|r| <= ln(2) / 2`. Source
/// of the polynomial for `exp(r)`: the Cephes library's `expf`.
#[inline(always)]
fn exp_of_negative(x: f32) -> f32 {
    /// 1.5 * 2^23. Adding this constant rounds a value to the nearest integer, which is then in the
    /// lowest bits of the sum's bit pattern.
    const TO_BITS: f32 = 12_582_912.0;
    /// ln(2) as the sum of two parts. The first part has few significant bits, so that its product
    /// with the integer `n` is exact.
    const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    let x = if x < -87.0 { -87.0 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + TO_BITS;
    let whole = shifted - TO_BITS;
    let r = x - whole * LN_2[0] - whole * LN_2[1];
    let mut sum = 1.987_569_1e-4;
    for coefficient in [
        1.398_199_9e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        1.666_666_5e-1,
        5.000_000_3e-1,
    ] {
        sum = sum * r + coefficient;
    }
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    (sum * r * r + r + 1.0) * power
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponentials_equal_the_system_function() {
        let mut largest = 0.0_f64;
        for step in 0..=870_000 {
            let x = step as f32 * -1e-4;
            let expected = f64::from(x).exp();
            let error = (f64::from(exp_of_negative(x)) / expected - 1.0).abs();
            largest = largest.max(error);
        }
        println!("{largest:e}");
        assert!(largest < 2.0 * f64::from(f32::EPSILON), "{largest:e}");
        assert_eq!(exp_of_negative(0.0), 1.0);
        assert!(exp_of_negative(f32::NEG_INFINITY) < 1e-37);
        assert!(exp_of_negative(f32::NAN).is_nan());
    }

    #[test]
    fn only_probabilities_above_the_threshold_are_returned() {
        // The four points have two equal logits, a nearly certain class 1, a NaN logit, and an
        // infinite logit.
        let planes = [[1.0, 0.0, f32::NAN, 5.0], [1.0, 9.0, 0.0, f32::INFINITY]];
        let mut softmax = Softmax::default();
        for _ in 0..2 {
            softmax.load(planes.iter().map(<[f32; 4]>::as_slice), 4);
            let over = |class, threshold| softmax.over(class, threshold).collect::<Vec<_>>();
            assert_eq!(over(0, 0.5), []);
            assert_eq!(over(0, 0.499), [(0, 0.5)]);
            assert_eq!(over(1, 0.5).len(), 1);
            assert_eq!(over(1, 0.5)[0].0, 1);
        }
        softmax.load(planes.iter().map(|_| [].as_slice()), 0);
        assert_eq!(softmax.over(1, 0.0).count(), 0);
    }
}
