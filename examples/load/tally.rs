//! The measurements of a load: statuses, latencies and goodput.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use crate::http::Response;

/// The outcome of the requests of one load.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tally {
    /// Number of responses by status code.
    pub(crate) statuses: BTreeMap<u16, u64>,
    /// Latency of each response with status 200, in milliseconds. In an open loop, it is measured from the arrival time
    /// of the request.
    pub(crate) latencies: Vec<f64>,
    /// Latency of each response with status 200 in an open loop, measured from the sending of the request, in
    /// milliseconds.
    pub(crate) from_sending: Vec<f64>,
    /// Number of responses with status 200 and no wrong result that arrived while responses were
    /// counted.
    pub(crate) in_time: u64,
    /// Number of requests that got no response.
    pub(crate) lost: u64,
    /// Number of responses with status 200 whose result is not the expected one.
    pub(crate) wrong: u64,
    /// Number of requests that were sent more than 100 ms after their arrival time, because every
    /// connection was in use or the client was busy.
    pub(crate) late: u64,
}

impl Tally {
    /// Records a response that took `latency`. `right` is whether the result is the expected one or
    /// is not checked, `in_time` whether the response arrived while responses were
    /// counted.
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

    /// Adds the counts and latencies of `other` to this tally.
    pub(crate) fn add(&mut self, other: Self) {
        for (status, count) in other.statuses {
            *self.statuses.entry(status).or_default() += count;
        }
        self.latencies.extend(other.latencies);
        self.from_sending.extend(other.from_sending);
        self.in_time += other.in_time;
        self.lost += other.lost;
        self.wrong += other.wrong;
        self.late += other.late;
    }

    /// Returns the number of requests, including those without a response.
    pub(crate) fn requests(&self) -> u64 {
        self.statuses.values().sum::<u64>() + self.lost
    }

    /// Returns the goodput of a load whose responses were counted for `counted`: the number per
    /// second of responses with status 200 and no wrong result that arrived in this time.
    pub(crate) fn goodput(&self, counted: Duration) -> f64 {
        self.in_time as f64 / counted.as_secs_f64()
    }

    /// Returns the quantile `q` (0 to 1) of the latencies of responses with status 200, in
    /// milliseconds; 0 if there are none.
    pub(crate) fn latency(&self, q: f64) -> f64 {
        quantile(&mut self.latencies.clone(), q)
    }

    /// Returns the quantile `q` (0 to 1) of the latencies from sending, in milliseconds; 0 if there are none.
    pub(crate) fn latency_from_sending(&self, q: f64) -> f64 {
        quantile(&mut self.from_sending.clone(), q)
    }

    /// Returns a line with the count of each status, and with the counts of lost requests and of
    /// wrong results if they are not 0.
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

/// Sorts `values` and returns their quantile `q` by nearest rank: the smallest value such that at
/// least the fraction `q` of all values does not exceed it. Returns 0 if `values` is empty.
pub(crate) fn quantile(values: &mut [f64], q: f64) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let rank = (values.len() as f64 * q).ceil() as usize;
    let last = values.len().saturating_sub(1);
    let at = rank.saturating_sub(1).min(last);
    values.get(at).copied().unwrap_or(0.0)
}

/// Sorts `values` and returns their median: the mean of the two middle values if their number is
/// even. Returns 0 if `values` is empty.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    let lower = quantile(values, 0.5);
    let upper = values.get(values.len() / 2);
    upper.map_or(lower, |upper| f64::midpoint(lower, *upper))
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
        assert_eq!(median(&mut [4.0, 1.0, 8.0, 2.0]), 3.0);
        assert_eq!(median(&mut [4.0, 1.0, 8.0]), 4.0);
    }
}
