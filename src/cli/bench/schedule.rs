//! When the requests of a load test are to be sent.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use sightline::random::SplitMix64;

/// Time after the end of a load test in which requests that were due before are still sent.
const DRAIN: Duration = Duration::from_secs(10);

/// Seed of random arrival times, so that two load tests have the same ones.
const SEED: u64 = 1;

/// When requests arrive.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Arrivals {
    /// Each client sends its next request when it has the response to its last one (closed loop).
    Closed,
    /// This many requests per second at equal intervals (open loop).
    Regular(f64),
    /// This many requests per second on average, at random times (open loop; a Poisson process).
    Poisson(f64),
}

impl Arrivals {
    /// Returns the requests per second. `None` in a closed loop.
    pub(super) fn rate(self) -> Option<f64> {
        match self {
            Self::Closed => None,
            Self::Regular(rate) | Self::Poisson(rate) => Some(rate),
        }
    }
}

/// Hands the requests of a load test to the clients, one after the other.
pub(super) struct Schedule {
    start: Instant,
    arrivals: Arrivals,
    /// Requests that are due later are not sent.
    length: Duration,
    /// Maximum number of requests.
    count: u64,
    next: Mutex<Next>,
}

/// The next request.
struct Next {
    /// Its number, from 0.
    index: u64,
    /// When it is due, in seconds from the start, if it is due at a random time.
    random: f64,
    generator: SplitMix64,
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
    /// Returns a schedule that begins at `start` and has at most `count` requests in the time `length`.
    pub(super) fn new(start: Instant, arrivals: Arrivals, length: Duration, count: u64) -> Self {
        let next = Next {
            index: 0,
            random: 0.0,
            generator: SplitMix64::new(SEED),
        };
        Self {
            start,
            arrivals,
            length,
            count,
            next: Mutex::new(next),
        }
    }

    /// Waits until the next request is due and returns it. `None` if there is none any more, or if it is too late to send
    /// it.
    pub(super) fn next(&self) -> Option<Due> {
        let (index, offset) = self.take()?;
        let now = Instant::now();
        let at = offset.map_or(now.max(self.start), |offset| self.start + offset);
        std::thread::sleep(at.saturating_duration_since(now));
        let end = self.start + self.length;
        let is_late = now > end + DRAIN;
        (at < end && !is_late).then_some(Due { index, at })
    }

    /// Takes the next request out of the schedule. Returns its number and, in an open loop, the time from the start until
    /// it is due. `None` after the last request.
    fn take(&self) -> Option<(u64, Option<Duration>)> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        if next.index >= self.count {
            return None;
        }
        let seconds = match self.arrivals {
            Arrivals::Closed => None,
            Arrivals::Regular(rate) => Some(next.index as f64 / rate),
            Arrivals::Poisson(_) => Some(next.random),
        };
        let offset = seconds.map(Duration::try_from_secs_f64).transpose().ok()?;
        if offset.is_some_and(|offset| offset >= self.length) {
            return None;
        }
        if let Arrivals::Poisson(rate) = self.arrivals {
            next.random += next.generator.exponential() / rate;
        }
        let index = next.index;
        next.index += 1;
        Some((index, offset))
    }

    /// Returns the number of requests that were due but not sent. `sent` is the number of those that were sent. Called
    /// after the end of the test, because it takes the requests that nobody has taken.
    pub(super) fn unsent(&self, sent: u64) -> u64 {
        if self.arrivals == Arrivals::Closed {
            return 0;
        }
        while self.take().is_some() {}
        let next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        next.index.saturating_sub(sent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_of_an_open_loop_are_due_at_fixed_times() {
        let start = Instant::now().checked_sub(Duration::from_secs(1)).unwrap();
        let schedule = Schedule::new(
            start,
            Arrivals::Regular(100.0),
            Duration::from_millis(45),
            1000,
        );
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
        let schedule = Schedule::new(start, Arrivals::Regular(10.0), Duration::from_secs(1), 7);
        assert_eq!(schedule.next(), None);
        assert_eq!(schedule.unsent(0), 7);
    }

    #[test]
    fn a_closed_loop_ends_after_its_count() {
        let schedule = Schedule::new(Instant::now(), Arrivals::Closed, Duration::from_mins(1), 3);
        let sent = std::iter::from_fn(|| schedule.next()).count();
        assert_eq!((sent, schedule.unsent(3)), (3, 0));
    }

    #[test]
    fn random_arrivals_have_the_rate_and_repeat() {
        let start = Instant::now()
            .checked_sub(Duration::from_secs(100))
            .unwrap();
        let offsets = || {
            let length = Duration::from_secs(95);
            let schedule = Schedule::new(start, Arrivals::Poisson(100.0), length, u64::MAX);
            let offsets = std::iter::from_fn(|| schedule.take()?.1);
            let offsets: Vec<_> = offsets.collect();
            assert_eq!(schedule.unsent(9000), offsets.len() as u64 - 9000);
            offsets
        };
        let first = offsets();
        assert!((9200..9800).contains(&first.len()), "{}", first.len());
        assert!(first.is_sorted());
        assert_eq!(first, offsets());
    }
}
