//! When the requests of a load test are to be sent.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Time after the end of a load test in which requests that were due before are still sent.
const DRAIN: Duration = Duration::from_secs(10);

/// Hands the requests of a load test to the clients, one after the other.
pub(super) struct Schedule {
    start: Instant,
    /// Requests per second at fixed times (open loop). `None` if each client sends its next request when it has the
    /// response to its last one (closed loop).
    rate: Option<f64>,
    /// Requests that are due later are not sent.
    length: Duration,
    /// Maximum number of requests.
    count: u64,
    next: AtomicU64,
}

/// A request to send now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Due {
    /// Number of the request, from 0.
    pub(super) index: u64,
    /// When it was to be sent. Its latency is measured from here, so that a request that waits for a free connection is
    /// not counted as a fast one ("coordinated omission").
    pub(super) at: Instant,
}

impl Schedule {
    /// Returns a schedule that begins at `start` and has at most `count` requests in the time `length`, `rate` of them
    /// per second if that is set.
    pub(super) fn new(start: Instant, rate: Option<f64>, length: Duration, count: u64) -> Self {
        Self {
            start,
            rate,
            length,
            count,
            next: AtomicU64::new(0),
        }
    }

    /// Waits until the next request is due and returns it. `None` if there is none any more, or if it is too late to send
    /// it.
    pub(super) fn next(&self) -> Option<Due> {
        let index = self.next.fetch_add(1, Ordering::Relaxed);
        if index >= self.count {
            return None;
        }
        let now = Instant::now();
        let at = match self.rate {
            None => now.max(self.start),
            Some(rate) => self.start + self.offset(index, rate)?,
        };
        std::thread::sleep(at.saturating_duration_since(now));
        let end = self.start + self.length;
        let is_late = now > end + DRAIN;
        (at < end && !is_late).then_some(Due { index, at })
    }

    /// Returns the number of requests that were due but not sent. `sent` is the number of those that were sent.
    pub(super) fn unsent(&self, sent: u64) -> u64 {
        self.planned()
            .map_or(0, |planned| planned.saturating_sub(sent))
    }

    /// Returns the number of requests in an open loop. `None` in a closed loop.
    fn planned(&self) -> Option<u64> {
        let planned = (self.length.as_secs_f64() * self.rate?).ceil() as u64;
        Some(planned.min(self.count))
    }

    /// Returns the time from the start until request `index` is due, if `rate` requests are due per second. `None` if that
    /// is after the end.
    fn offset(&self, index: u64, rate: f64) -> Option<Duration> {
        let offset = Duration::try_from_secs_f64(index as f64 / rate).ok()?;
        (offset < self.length).then_some(offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_of_an_open_loop_are_due_at_fixed_times() {
        let start = Instant::now().checked_sub(Duration::from_secs(1)).unwrap();
        let schedule = Schedule::new(start, Some(100.0), Duration::from_millis(45), 1000);
        let due: Vec<_> = std::iter::from_fn(|| schedule.next()).collect();
        let expected = (0..5).map(|index| Due {
            index,
            at: start + Duration::from_millis(10 * index),
        });
        assert_eq!(due, expected.collect::<Vec<_>>());
        assert_eq!((schedule.unsent(5), schedule.unsent(2)), (0, 3));
    }

    #[test]
    fn requests_that_are_too_late_are_not_sent_but_counted() {
        let start = Instant::now().checked_sub(Duration::from_mins(1)).unwrap();
        let schedule = Schedule::new(start, Some(10.0), Duration::from_secs(1), 7);
        assert_eq!(schedule.next(), None);
        assert_eq!(schedule.unsent(0), 7);
    }

    #[test]
    fn a_closed_loop_ends_after_its_count() {
        let schedule = Schedule::new(Instant::now(), None, Duration::from_mins(1), 3);
        let sent = std::iter::from_fn(|| schedule.next()).count();
        assert_eq!((sent, schedule.unsent(3)), (3, 0));
    }
}
