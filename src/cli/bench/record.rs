//! The results of a load test: latencies of successful requests, and the numbers of all others.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use anyhow::Result;
use hdrhistogram::Histogram;
use serde::Serialize;

/// Longest latency that is told apart, in microseconds: one hour.
const LONGEST: u64 = 3_600_000_000;
/// Significant decimal digits of the latencies.
const DIGITS: u8 = 3;
/// Delay of a request after which it counts as late.
const LATE: Duration = Duration::from_millis(10);

/// How a request ended.
pub(super) enum Outcome {
    /// With a response of this HTTP status.
    Status(u16),
    /// Without a response, for this reason.
    Failed(&'static str),
}

/// The results of the requests of one client, or of all.
pub(super) struct Record {
    /// Latencies of the requests with status 200, in microseconds.
    latencies: Histogram<u64>,
    /// Number of responses by status.
    statuses: BTreeMap<u16, u64>,
    /// Number of requests without a response, by reason.
    failures: BTreeMap<&'static str, u64>,
    late: u64,
    /// The first image that was not answered with status 200, and how its request ended.
    first_error: Option<String>,
}

impl Record {
    pub(super) fn new() -> Result<Self> {
        Ok(Self {
            latencies: Histogram::new_with_max(LONGEST, DIGITS)?,
            statuses: BTreeMap::new(),
            failures: BTreeMap::new(),
            late: 0,
            first_error: None,
        })
    }

    /// Records a request for the image called `image`, which was sent `delay` after it was due and ended `latency` after
    /// it was due.
    pub(super) fn add(
        &mut self,
        outcome: &Outcome,
        delay: Duration,
        latency: Duration,
        image: &str,
    ) {
        self.late += u64::from(delay > LATE);
        let error = match outcome {
            Outcome::Status(200) => None,
            Outcome::Status(status) => Some(format!("{image}: status {status}")),
            Outcome::Failed(reason) => Some(format!("{image}: {reason}")),
        };
        match outcome {
            Outcome::Status(status) => *self.statuses.entry(*status).or_default() += 1,
            Outcome::Failed(reason) => *self.failures.entry(*reason).or_default() += 1,
        }
        if error.is_none() {
            let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
            self.latencies.saturating_record(micros);
        }
        self.first_error = self.first_error.take().or(error);
    }

    /// Adds the results of another client.
    pub(super) fn merge(&mut self, other: Self) -> Result<()> {
        self.latencies.add(&other.latencies)?;
        for (status, count) in other.statuses {
            *self.statuses.entry(status).or_default() += count;
        }
        for (reason, count) in other.failures {
            *self.failures.entry(reason).or_default() += count;
        }
        self.late += other.late;
        self.first_error = self.first_error.take().or(other.first_error);
        Ok(())
    }

    /// Returns the number of responses with status 200.
    pub(super) fn succeeded(&self) -> u64 {
        self.latencies.len()
    }

    /// Returns the latency of which the part `quantile` of the successful requests is not greater, in milliseconds.
    pub(super) fn latency_ms(&self, quantile: f64) -> f64 {
        self.latencies.value_at_quantile(quantile) as f64 / 1e3
    }

    /// Returns the first image that was not answered with status 200, and how its request ended.
    pub(super) fn first_error(&self) -> Option<&str> {
        self.first_error.as_deref()
    }

    /// Returns the number of requests that were sent.
    pub(super) fn sent(&self) -> u64 {
        self.statuses.values().chain(self.failures.values()).sum()
    }

    /// Returns the report of a load test that took the time `elapsed`.
    pub(super) fn report(self, elapsed: Duration, settings: Settings, unsent: u64) -> Report {
        let at = |quantile| self.latency_ms(quantile);
        let seconds = elapsed.as_secs_f64();
        Report {
            settings,
            seconds,
            per_second: self.latencies.len() as f64 / seconds,
            latency_ms: Latency {
                mean: self.latencies.mean() / 1e3,
                p50: at(0.5),
                p90: at(0.9),
                p95: at(0.95),
                p99: at(0.99),
                p999: at(0.999),
                max: at(1.0),
            },
            sent: self.sent(),
            late: self.late,
            unsent,
            statuses: self.statuses,
            failures: self.failures,
            first_error: self.first_error,
        }
    }
}

/// What a load test was asked to do.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Settings {
    /// The URL, without credentials.
    pub(super) url: String,
    /// Requests per second. `None` in a closed loop.
    pub(super) rate: Option<f64>,
    /// Whether the requests are due at random times.
    pub(super) poisson: bool,
    /// Number of connections.
    pub(super) connections: usize,
    /// Number of different images.
    pub(super) images: usize,
}

/// The results of a load test, in the form of `--json`.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    #[serde(flatten)]
    settings: Settings,
    /// Time from the start until the last response, in seconds.
    seconds: f64,
    /// Responses with status 200 per second.
    per_second: f64,
    /// Latency of the requests with status 200, in milliseconds, from when they were due.
    latency_ms: Latency,
    /// Number of requests that were sent.
    sent: u64,
    /// Number of requests that were sent more than 10 ms after they were due, because no connection was free.
    late: u64,
    /// Number of requests that were due but not sent.
    unsent: u64,
    statuses: BTreeMap<u16, u64>,
    failures: BTreeMap<&'static str, u64>,
    first_error: Option<String>,
}

#[derive(Debug, Serialize)]
struct Latency {
    mean: f64,
    p50: f64,
    p90: f64,
    p95: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

impl Report {
    /// Returns whether a response had the status 200.
    pub(super) fn has_success(&self) -> bool {
        self.statuses.contains_key(&200)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Latency {
            mean,
            p50,
            p90,
            p95,
            p99,
            p999,
            max,
        } = self.latency_ms;
        let Settings {
            rate,
            poisson,
            connections,
            images,
            ..
        } = &self.settings;
        let kind = rate.map_or("closed loop".to_owned(), |rate| {
            let times = if *poisson { " at random times" } else { "" };
            format!("{rate} requests/s{times}")
        });
        writeln!(
            f,
            "{kind}, {connections} connections, {images} images, {:.1} s",
            self.seconds
        )?;
        writeln!(
            f,
            "  mean ms      p50      p90      p95      p99    p99.9      max  200s per s"
        )?;
        writeln!(
            f,
            "{mean:9.2} {p50:8.2} {p90:8.2} {p95:8.2} {p99:8.2} {p999:8.2} {max:8.2} {:11.1}",
            self.per_second
        )?;
        write!(
            f,
            "{} sent, {} of them late, {} not sent;",
            self.sent, self.late, self.unsent
        )?;
        for (status, count) in &self.statuses {
            write!(f, " {count} x {status}")?;
        }
        for (reason, count) in &self.failures {
            write!(f, " {count} x {reason}")?;
        }
        if let Some(error) = &self.first_error {
            write!(f, "\nfirst error: {error}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_are_of_successful_requests_and_errors_are_counted_by_status() {
        let ms = Duration::from_millis;
        let (mut record, mut other) = (Record::new().unwrap(), Record::new().unwrap());
        for latency in 1..=99 {
            record.add(&Outcome::Status(200), ms(0), ms(latency), "a.jpg");
        }
        other.add(&Outcome::Status(200), ms(20), ms(1000), "a.jpg");
        other.add(&Outcome::Status(429), ms(0), ms(1), "b.jpg");
        other.add(&Outcome::Failed("timeout"), ms(0), ms(60_000), "c.jpg");
        record.merge(other).unwrap();
        let settings = Settings {
            url: "http://localhost".to_owned(),
            rate: Some(10.0),
            poisson: false,
            connections: 2,
            images: 3,
        };
        let report = record.report(Duration::from_secs(10), settings, 4);
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["statuses"], serde_json::json!({"200": 100, "429": 1}));
        assert_eq!(json["failures"], serde_json::json!({"timeout": 1}));
        assert_eq!(
            (&json["sent"], &json["late"], &json["unsent"]),
            (&102.into(), &1.into(), &4.into())
        );
        assert_eq!(json["first_error"], "b.jpg: status 429");
        assert_eq!(json["per_second"], 10.0);
        let at = |name: &str| json["latency_ms"][name].as_f64().unwrap();
        for (name, expected) in [("p50", 50.0), ("p99", 99.0), ("max", 1000.0)] {
            assert!(
                (at(name) / expected - 1.0).abs() < 0.001,
                "{name}: {}",
                at(name)
            );
        }
        assert!(
            report.to_string().contains("100 x 200 1 x 429 1 x timeout"),
            "{report}"
        );
    }
}
