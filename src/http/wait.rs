//! A period in which the server waits for the client of a connection to send the body of a request
//! or to read a response.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// Lowest mean rate at which a client must send the body of a request and read a response, in bytes
/// per second.
pub(super) const MIN_RATE: u32 = 1000;

/// A wait for a client, and the number of bytes that the client has sent or read since it began.
#[derive(Debug)]
pub(super) struct Wait {
    since: Instant,
    bytes: AtomicUsize,
}

/// Result of comparing the rate of a client with [`MIN_RATE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    Enough,
    TooSlow,
}

impl Wait {
    /// Returns a wait that begins at `since`.
    pub(super) fn new(since: Instant) -> Arc<Self> {
        Arc::new(Self {
            since,
            bytes: AtomicUsize::new(0),
        })
    }

    /// Records that the client sent or read `bytes` more bytes.
    pub(super) fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Returns the time at which the wait has lasted for `length`.
    pub(super) fn lasts(&self, length: Duration) -> Instant {
        self.since + length
    }

    /// Returns the mean rate of the client since the wait began, in bytes per second. The rate is
    /// zero at the beginning of the wait.
    pub(super) fn rate(&self, now: Instant) -> f64 {
        let seconds = now.saturating_duration_since(self.since).as_secs_f64();
        if seconds == 0.0 {
            return 0.0;
        }
        self.bytes.load(Ordering::Relaxed) as f64 / seconds
    }

    /// Compares the client with [`MIN_RATE`] over `period`. Returns `None` before its end.
    pub(super) fn judge(&self, now: Instant, period: Duration) -> Option<Pace> {
        if now < self.lasts(period) {
            return None;
        }
        let needed = f64::from(MIN_RATE) * period.as_secs_f64();
        if (self.bytes.load(Ordering::Relaxed) as f64) < needed {
            return Some(Pace::TooSlow);
        }
        Some(Pace::Enough)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_their_judgement() {
        let period = Duration::from_secs(10);
        let cases = [
            (0, 0, 0.0, None),
            (5000, 0, 0.0, None),
            (0, 9_999, 0.0, None),
            (0, 10_000, 0.0, Some(Pace::TooSlow)),
            (9_999, 10_000, 999.9, Some(Pace::TooSlow)),
            (10_000, 10_000, 1000.0, Some(Pace::Enough)),
            (500, 500, 1000.0, None),
            // The connection was not polled for a while after the period.
            (10_000, 20_000, 500.0, Some(Pace::Enough)),
        ];
        for (bytes, milliseconds, rate, expected) in cases {
            let since = Instant::now();
            let wait = Wait::new(since);
            wait.add(bytes);
            let now = since + Duration::from_millis(milliseconds);
            let case = format!("{bytes} bytes in {milliseconds} ms");
            assert!((wait.rate(now) - rate).abs() < 1e-6, "{case}");
            assert_eq!(wait.judge(now, period), expected, "{case}");
        }
    }
}
