//! Softmax over the planes of a map: classes far apart in memory, points side by side.

#![expect(
    clippy::inline_always,
    reason = "what a kernel calls must be compiled for its instruction set"
)]

use fearless_simd::Simd;

use crate::simd::{Kernel, dispatch};

/// Points that are compared together: what a few vector instructions do.
const CHUNK: usize = 16;

/// Exponentials of the logits of some classes at every point of a map, and their sums.
#[derive(Debug, Default)]
pub(super) struct Softmax {
    points: usize,
    /// `[K, points]`, relative to the largest at a point: 0..=1.
    exponentials: Vec<f32>,
    largest: Vec<f32>,
    sums: Vec<f32>,
}

impl Softmax {
    /// Computes it for one plane a class, `points` logits each; the memory is used again.
    ///
    /// Where logits are not finite, so may the sums be, and nothing is over a threshold.
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

    /// Points where the probability of `class` is more than `threshold`, and it.
    pub(super) fn over(&self, class: usize, threshold: f32) -> impl Iterator<Item = (usize, f32)> {
        let plane = &self.exponentials[class * self.points..][..self.points];
        // A division costs more than all else, and nearly all points fail by far.
        let surely_less = threshold * 0.999;
        let chunks = plane.chunks(CHUNK).zip(self.sums.chunks(CHUNK)).enumerate();
        let possible = chunks.filter(move |(_, (plane, sums))| {
            let pairs = plane.iter().zip(*sums);
            // Counted, so that vectors do it.
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

/// `exp(x)` for x <= 0, within two units in the last place; below e^-87 it stays there. NaN is NaN.
///
/// Plain additions and multiplications, unlike the one of the system: it vectorises. `exp(x) = 2^n *
/// exp(r)` with `|r| <= ln(2) / 2`; the polynomial is the one of the Cephes library's `expf`.
#[inline(always)]
fn exp_of_negative(x: f32) -> f32 {
    /// Adding it leaves the nearest whole number in the lowest bits of a float.
    const TO_BITS: f32 = 12_582_912.0;
    /// ln(2) in two parts, the first with few bits, so that a multiple of it is exact.
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
    fn exponentials_are_the_systems() {
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
    fn probabilities_are_compared_exactly() {
        // Two classes of equal logits, and one point that holds no numbers.
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
