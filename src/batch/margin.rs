//! How much longer requests take than predicted, measured online, as plain data: a margin for predictions.
//!
//! The predicted wait of a request is an average, but a deadline must be met by nearly all requests. How far waits
//! spread around the average depends on what else the machine does, so the margin is measured instead of fixed.

use std::time::Duration;

/// Share of requests that may take longer than predicted with the margin.
const EXCEEDED: f64 = 0.005;
/// Change of the margin for one request that took longer. With the requests that did not, the margin stays where
/// the share [`EXCEEDED`] takes longer.
const STEP: f64 = 0.05;
/// The margin before the first measurement, and its least and largest values.
const INITIAL: f64 = 1.5;
const LEAST: f64 = 1.1;
const MOST: f64 = 3.0;
/// Share of the time until the deadline that a request needs besides the predicted and measured time: its head and
/// its response pass through buffers of the system and of the client.
const TRANSFER: f64 = 0.05;

/// A factor by which predicted times are multiplied, so that nearly all requests take no longer.
#[derive(Debug)]
pub(super) struct Margin(f64);

impl Margin {
    /// Creates the margin before any measurement.
    pub(super) fn new() -> Self {
        Self(INITIAL)
    }

    /// Returns the time within which a request that is predicted to take `predicted` very likely finishes.
    pub(super) fn latest(&self, predicted: Duration) -> Duration {
        let latest = predicted.as_secs_f64() * self.0 / (1.0 - TRANSFER);
        Duration::try_from_secs_f64(latest).unwrap_or(Duration::MAX)
    }

    /// Records that a request with `left` until its deadline was predicted to take `predicted`, and took `took`; if
    /// it was not finished before its deadline, `took` is the time until then.
    ///
    /// Only requests that come close to their deadline are recorded: for shorter waits the margin does not matter,
    /// and times that do not grow with the wait, as that of decoding, would dominate.
    pub(super) fn record(&mut self, predicted: Duration, left: Duration, took: Duration) {
        if self.latest(predicted) <= left / 2 {
            return;
        }
        let exceeded = took.as_secs_f64() > predicted.as_secs_f64() * self.0;
        let change = if exceeded {
            STEP * (1.0 - EXCEEDED)
        } else {
            -STEP * EXCEEDED
        };
        self.0 = (self.0 + change).clamp(LEAST, MOST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Records `count` requests that take `factors` times the predicted 0.6 s in turn.
    fn recorded(margin: &mut Margin, count: usize, factors: &[f64]) {
        let predicted = Duration::from_millis(600);
        for factor in factors.iter().cycle().take(count) {
            margin.record(predicted, SECOND, predicted.mul_f64(*factor));
        }
    }

    #[test]
    fn before_measurements_a_third_of_the_time_is_left() {
        let margin = Margin::new();
        assert!(margin.latest(Duration::from_millis(630)) < SECOND);
        assert!(margin.latest(Duration::from_millis(640)) > SECOND);
        assert_eq!(margin.latest(Duration::ZERO), Duration::ZERO);
        assert_eq!(margin.latest(Duration::MAX), Duration::MAX);
    }

    #[test]
    fn the_margin_follows_the_slowest_requests() {
        let mut margin = Margin::new();
        let mut factors = [1.0; 100];
        factors[50] = 2.0;
        recorded(&mut margin, 10_000, &factors);
        assert!((1.9..2.1).contains(&margin.0), "{margin:?}");
        recorded(&mut margin, 10_000, &[1.0]);
        assert!((1.1..1.2).contains(&margin.0), "{margin:?}");
    }

    #[test]
    fn the_margin_grows_within_few_requests_and_stays_bounded() {
        let mut margin = Margin::new();
        recorded(&mut margin, 10, &[10.0]);
        assert!(margin.0 > 1.9, "{margin:?}");
        recorded(&mut margin, 1_000, &[10.0]);
        assert_eq!(margin.0, MOST);
    }

    #[test]
    fn short_waits_are_not_recorded() {
        let mut margin = Margin::new();
        let short = Duration::from_millis(100);
        margin.record(short, SECOND, SECOND);
        assert_eq!(margin.0, INITIAL);
    }
}
