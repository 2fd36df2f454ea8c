//! Measured service times.

/// Largest number of service times that are kept.
const MAX_SAMPLES: usize = 400;

/// The time that a request occupies a core of a replica, as a distribution of measured values.
#[derive(Debug, Clone, PartialEq)]
pub struct Costs {
    /// Service times in seconds, in ascending order.
    sorted: Vec<f64>,
    mean: f64,
    variation: f64,
}

/// Why service times cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CostsError {
    /// There are none.
    #[error("no service time was measured")]
    Empty,
    /// A value is not a duration.
    #[error("a service time must be a finite number of seconds greater than 0")]
    Invalid,
}

impl Costs {
    /// Describes `times`, service times in seconds, in any order. The quantiles of many values are kept instead of all.
    ///
    /// # Errors
    /// If `times` is empty or has a value that is not finite or not greater than 0.
    pub fn new(mut times: Vec<f64>) -> Result<Self, CostsError> {
        if times.is_empty() {
            return Err(CostsError::Empty);
        }
        if times.iter().any(|time| !time.is_finite() || *time <= 0.0) {
            return Err(CostsError::Invalid);
        }
        times.sort_by(f64::total_cmp);
        if times.len() > MAX_SAMPLES {
            let all = times.len();
            let middle = |index: usize| times[(2 * index + 1) * all / (2 * MAX_SAMPLES)];
            times = (0..MAX_SAMPLES).map(middle).collect();
        }
        let count = times.len() as f64;
        let mean = times.iter().sum::<f64>() / count;
        let squares = times.iter().map(|time| (time - mean).powi(2));
        let variation = (squares.sum::<f64>() / count).sqrt() / mean;
        Ok(Self {
            sorted: times,
            mean,
            variation,
        })
    }

    /// Returns the mean service time in seconds.
    pub fn mean(&self) -> f64 {
        self.mean
    }

    /// Returns the coefficient of variation: the standard deviation divided by the mean.
    pub fn variation(&self) -> f64 {
        self.variation
    }

    /// Returns the squared coefficient of variation of the residual service time, which a request that arrives at a
    /// random moment finds on a busy core: 1/3 for constant service times, 1 for exponential ones.
    pub fn residual_variation(&self) -> f64 {
        let moment = |power| {
            let powers = self
                .sorted
                .iter()
                .map(|time| (time / self.mean).powi(power));
            powers.sum::<f64>() / self.sorted.len() as f64
        };
        let (mean, square) = (moment(2) / 2.0, moment(3) / 3.0);
        square / (mean * mean) - 1.0
    }

    /// Returns the service time in seconds that a share of `part` (0 to 1) does not exceed.
    pub fn quantile(&self, part: f64) -> f64 {
        let last = self.sorted.len() - 1;
        self.sorted[((last as f64 * part).round() as usize).min(last)]
    }

    /// Returns all service times in seconds, in ascending order.
    pub(super) fn samples(&self) -> &[f64] {
        &self.sorted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_describe_their_samples() {
        let costs = Costs::new(vec![0.03, 0.01, 0.02]).unwrap();
        assert!((costs.mean() - 0.02).abs() < 1e-12);
        assert!((costs.variation() - (2.0_f64 / 3.0).sqrt() / 2.0).abs() < 1e-12);
        assert_eq!(
            (
                costs.quantile(0.0),
                costs.quantile(0.5),
                costs.quantile(1.0)
            ),
            (0.01, 0.02, 0.03)
        );
    }

    #[test]
    fn many_samples_are_thinned_out() {
        let costs = Costs::new((1..=100_000).map(f64::from).collect()).unwrap();
        assert_eq!(costs.samples().len(), MAX_SAMPLES);
        assert!((costs.mean() / 50_000.5 - 1.0).abs() < 1e-3);
        assert!((costs.quantile(0.99) / 99_000.0 - 1.0).abs() < 3e-3);
    }

    #[test]
    fn values_that_are_no_durations_are_errors() {
        assert_eq!(Costs::new(Vec::new()), Err(CostsError::Empty));
        for value in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(Costs::new(vec![0.1, value]), Err(CostsError::Invalid));
        }
    }
}
