//! What a load measured: statuses, latencies and goodput.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use crate::http::Response;

/// The outcome of the requests of one load.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tally {
    /// Responses by status code.
    pub(crate) statuses: BTreeMap<u16, u64>,
    /// Latency of each response with status 200, in milliseconds.
    pub(crate) latencies: Vec<f64>,
    /// Responses with status 200 that arrived within the duration of the load.
    pub(crate) in_time: u64,
    /// Requests without a response.
    pub(crate) lost: u64,
    /// Responses with status 200 and another result than the expected one.
    pub(crate) wrong: u64,
    /// Requests that were sent more than 100 ms late, because every connection was in use.
    pub(crate) late: u64,
}

impl Tally {
    /// Records a response that took `latency`. `right` tells whether its result is the expected
    /// one, `in_time` whether it arrived within the duration of the load.
    pub(crate) fn response(
        &mut self,
        response: &Response,
        latency: Duration,
        right: bool,
        in_time: bool,
    ) {
        *self.statuses.entry(response.status).or_default() += 1;
        if response.status == 200 {
            self.latencies.push(latency.as_secs_f64() * 1000.0);
            self.wrong += u64::from(!right);
            self.in_time += u64::from(in_time && right);
        }
    }

    /// Adds the outcome of other requests.
    pub(crate) fn add(&mut self, other: Self) {
        for (status, count) in other.statuses {
            *self.statuses.entry(status).or_default() += count;
        }
        self.latencies.extend(other.latencies);
        self.in_time += other.in_time;
        self.lost += other.lost;
        self.wrong += other.wrong;
        self.late += other.late;
    }

    /// Returns the number of requests.
    pub(crate) fn requests(&self) -> u64 {
        self.statuses.values().sum::<u64>() + self.lost
    }

    /// Returns the right responses with status 200 per second of a load of duration `load`.
    pub(crate) fn goodput(&self, load: Duration) -> f64 {
        self.in_time as f64 / load.as_secs_f64()
    }

    /// Returns a percentile of the latencies in milliseconds, `q` in 0..=1; 0 if there are none.
    pub(crate) fn latency(&self, q: f64) -> f64 {
        quantile(&mut self.latencies.clone(), q)
    }

    /// Returns the statuses with their counts, and the number of lost requests and wrong results
    /// if there are any.
    pub(crate) fn describe(&self) -> String {
        let mut text = String::new();
        for (status, count) in &self.statuses {
            // Writing to a String cannot fail.
            let _ = write!(text, "{count} x {status}, ");
        }
        for (count, what) in [(self.lost, "lost"), (self.wrong, "wrong")] {
            if count > 0 {
                let _ = write!(text, "{count} {what}, ");
            }
        }
        text.trim_end_matches(", ").to_owned()
    }
}

/// Returns the smallest of `values` that is not below the fraction `q` of them (nearest rank), or
/// 0 if there are none.
pub(crate) fn quantile(values: &mut [f64], q: f64) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let rank = (values.len() as f64 * q).ceil() as usize;
    let last = values.len().saturating_sub(1);
    let at = rank.saturating_sub(1).min(last);
    values.get(at).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_measured() {
        let mut values: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        for (q, expected) in [(0.0, 1.0), (0.5, 100.0), (0.99, 198.0), (1.0, 200.0)] {
            assert_eq!(quantile(&mut values, q), expected, "{q}");
        }
        assert_eq!(quantile(&mut [], 0.5), 0.0);
    }
}
