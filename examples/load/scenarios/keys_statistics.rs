//! Compares two kinds of requests by the latencies of pairs, without an assumption about their distribution.

use std::fmt;

/// Width of a confidence interval of 95 %, in standard deviations to each side.
const CONFIDENCE: f64 = 1.96;

/// The latencies of two kinds of requests, in microseconds.
#[derive(Debug)]
pub(super) struct Comparison {
    /// Latencies of each kind, sorted.
    sorted: [Vec<f64>; 2],
    /// Differences of the pairs, the first minus the second kind, sorted.
    differences: Vec<f64>,
}

impl Comparison {
    pub(super) fn new(pairs: &[[f64; 2]]) -> Self {
        let sort = |mut values: Vec<f64>| {
            values.sort_by(f64::total_cmp);
            values
        };
        let differences = pairs.iter().map(|[first, second]| first - second).collect();
        let kind = |at: usize| sort(pairs.iter().map(|pair| pair[at]).collect());
        Self {
            sorted: [kind(0), kind(1)],
            differences: sort(differences),
        }
    }

    /// Returns the Mann-Whitney statistic as number of standard deviations from its expectation if both kinds have the
    /// same distribution. Latencies have nanoseconds, so ties are rare and not corrected.
    pub(super) fn deviations(&self) -> f64 {
        let [first, second] = &self.sorted;
        let (n, m) = (first.len() as f64, second.len() as f64);
        let before = |value: &f64| {
            let less = second.partition_point(|other| other < value);
            let most = second.partition_point(|other| other <= value);
            (less + most) as f64 / 2.0
        };
        let u: f64 = first.iter().map(before).sum();
        let deviation = (n * m * (n + m + 1.0) / 12.0).sqrt();
        if deviation > 0.0 {
            (u - n * m / 2.0) / deviation
        } else {
            0.0
        }
    }

    /// Returns the ends of the confidence interval of 95 % of the median difference, by order statistics.
    fn interval(&self) -> [f64; 2] {
        let n = self.differences.len() as f64;
        let half = CONFIDENCE * n.sqrt() / 2.0;
        [n / 2.0 - half, n / 2.0 + half].map(|rank| at(&self.differences, rank))
    }
}

/// Returns the element of `sorted` with the rank `rank`, or the nearest one; 0 if there is none.
fn at(sorted: &[f64], rank: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    let index = (rank.max(0.0) as usize).min(last);
    sorted.get(index).copied().unwrap_or_default()
}

fn median(sorted: &[f64]) -> f64 {
    at(sorted, sorted.len() as f64 / 2.0)
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, last] = [&self.sorted[0], &self.sorted[1]].map(|sorted| median(sorted));
        let [low, high] = self.interval();
        let pairs = self.differences.len();
        let difference = median(&self.differences);
        write!(
            f,
            "medians {first:.2} and {last:.2} us over {pairs} pairs; difference {difference:.2} us, 95 % of \
             confidence {low:.2} to {high:.2} us; Mann-Whitney z {:.2}",
            self.deviations()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(seed: u64) -> f64 {
        let hash = (seed + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        ((hash ^ (hash >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 40) as f64
            / f64::from(1 << 24)
    }

    #[test]
    fn a_difference_is_found_and_noise_is_not_one() {
        let pairs = |shift: f64| -> Vec<[f64; 2]> {
            let pair = |n: u64| [noise(2 * n) + shift, noise(2 * n + 1)];
            (0..5000).map(pair).collect()
        };
        let same = Comparison::new(&pairs(0.0));
        assert!(same.deviations().abs() < 4.0, "{same}");
        let [low, high] = same.interval();
        assert!(low < 0.01 && high > -0.01, "{same}");
        let slower = Comparison::new(&pairs(0.05));
        assert!(slower.deviations() > 4.0, "{slower}");
        assert!(slower.interval()[0] > 0.0, "{slower}");
        assert_eq!(Comparison::new(&[]).deviations(), 0.0);
    }
}
