//! Paired comparison of two models on the same images: `McNemar`'s test and the paired bootstrap.

use serde::Serialize;

use crate::random::SplitMix64;

/// Share of the bootstrap's differences that a confidence interval covers.
pub const CONFIDENCE: f64 = 0.95;

/// Difference of a figure between two models, with its 95 % confidence interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Difference {
    /// The second model's figure minus the first model's.
    pub difference: f64,
    /// Lower end of the confidence interval.
    pub low: f64,
    /// Upper end of the confidence interval.
    pub high: f64,
    /// Two-sided p-value of the hypothesis that the difference is zero.
    pub p_value: f64,
}

/// Returns the two-sided p-value of `McNemar`'s exact test that two models are equally often correct.
/// `only_first` images are correct with the first model only, `only_second` with the second model only.
/// Source: `McNemar`, "Note on the sampling error of the difference between correlated proportions",
/// in the form of a binomial test.
pub fn mcnemar(only_first: u64, only_second: u64) -> f64 {
    let n = only_first + only_second;
    let fewer = only_first.min(only_second);
    // The logarithm of each term of the binomial distribution follows from the term before it.
    let mut log_term = -(n as f64) * std::f64::consts::LN_2;
    let mut tail = log_term.exp();
    for k in 1..=fewer {
        log_term += ((n - k + 1) as f64).ln() - (k as f64).ln();
        tail += log_term.exp();
    }
    (2.0 * tail).min(1.0)
}

/// Draws `resamples` samples of `images` images with replacement, and returns the distribution of
/// `difference`, a function of the number of times that each image was drawn. Samples for which
/// `difference` returns `None` do not count. Returns `None` if no sample counts, or if the difference on
/// the images themselves is `None`. Equal arguments give equal results.
/// Source: Efron and Tibshirani, "An Introduction to the Bootstrap", section 13.3 (percentile interval).
pub fn paired_bootstrap(
    images: usize,
    resamples: usize,
    difference: impl Fn(&[u32]) -> Option<f64>,
) -> Option<Difference> {
    let observed = difference(&vec![1; images])?;
    let mut random = SplitMix64::new(0x5167_1174_1e5e_ed00);
    let mut weights = vec![0; images];
    let mut differences = Vec::new();
    for _ in 0..resamples {
        weights.fill(0);
        for _ in 0..images {
            weights[random.below(images)] += 1;
        }
        differences.extend(difference(&weights));
    }
    if differences.is_empty() {
        return None;
    }
    differences.sort_by(f64::total_cmp);
    let count = differences.len();
    let at = |share: f64| differences[((count - 1) as f64 * share).round() as usize];
    let tail = (1.0 - CONFIDENCE) / 2.0;
    let not_above = differences.partition_point(|value| *value <= 0.0);
    let not_below = count - differences.partition_point(|value| *value < 0.0);
    // The observed sample counts as one of the samples, so that no p-value is 0.
    let smaller = (not_above.min(not_below) + 1) as f64 / (count + 1) as f64;
    Some(Difference {
        difference: observed,
        low: at(tail),
        high: at(1.0 - tail),
        p_value: (2.0 * smaller).min(1.0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mcnemar_is_the_binomial_test() {
        // Expected: scipy.stats.binomtest(k, n).pvalue.
        let cases = [
            (0, 0, 1.0),
            (1, 0, 1.0),
            (0, 6, 0.03125),
            (5, 15, 0.041_389_465_332_031_25),
            (15, 5, 0.041_389_465_332_031_25),
            (10, 10, 1.0),
        ];
        for (first, second, expected) in cases {
            let p = mcnemar(first, second);
            assert!((p - expected).abs() < 1e-12, "{first} {second}: {p}");
        }
        let p = mcnemar(4_000, 4_500);
        assert!((1e-9..1e-7).contains(&p), "{p}");
    }

    #[test]
    fn bootstrap_covers_the_difference() {
        let values: Vec<f64> = (0..200).map(|i| f64::from(i % 10) / 10.0 - 0.35).collect();
        let mean = |weights: &[u32]| {
            let sum: f64 = values
                .iter()
                .zip(weights)
                .map(|(v, w)| v * f64::from(*w))
                .sum();
            Some(sum / values.len() as f64)
        };
        let result = paired_bootstrap(values.len(), 2000, mean).unwrap();
        assert!((result.difference - 0.1).abs() < 1e-12);
        // The standard error of the mean is 0.2872 / sqrt(200) = 0.0203.
        assert!(
            (result.low - (0.1 - 1.96 * 0.0203)).abs() < 0.004,
            "{result:?}"
        );
        assert!(
            (result.high - (0.1 + 1.96 * 0.0203)).abs() < 0.004,
            "{result:?}"
        );
        assert!(result.p_value < 0.01, "{result:?}");
        assert_eq!(paired_bootstrap(values.len(), 2000, mean), Some(result));
    }

    #[test]
    fn equal_models_do_not_differ() {
        let equal = paired_bootstrap(10, 100, |_| Some(0.0)).unwrap();
        assert_eq!((equal.low, equal.high, equal.p_value), (0.0, 0.0, 1.0));
        assert_eq!(paired_bootstrap(10, 100, |_| None), None);
        assert_eq!(
            paired_bootstrap(0, 10, |_| Some(0.0)).map(|d| d.p_value),
            Some(1.0)
        );
    }
}
