//! Enforces the limits of one API key.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use governor::RateLimiter;
use governor::clock::{Clock, MonotonicClock};
use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};

use super::{KeyLimits, KeyRate};

/// Counts the requests of a key over time. The clock of the standard library needs no calibration at start.
type Limiter =
    RateLimiter<NotKeyed, InMemoryState, MonotonicClock, NoOpMiddleware<std::time::Instant>>;

/// The limits of one key, and the use that its requests make of them.
#[derive(Debug)]
pub(super) struct Gate {
    concurrency: Option<NonZeroU32>,
    /// Number of requests in flight. Gates of the same key before and after a reload share it.
    in_flight: Arc<AtomicU32>,
    rate: Option<(KeyRate, Arc<Limiter>)>,
}

/// Why a gate lets a request not pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    /// The rate is used up. The next request is allowed after `retry_after`.
    Rate {
        rate: KeyRate,
        retry_after: Duration,
    },
    /// `limit` requests are in flight.
    Concurrency { limit: NonZeroU32 },
}

/// The place of a request among the requests in flight of its key. Dropping it frees the place.
#[derive(Debug)]
pub struct Place(Arc<AtomicU32>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Gate {
    /// Creates the gate of a new key.
    pub(super) fn new(limits: KeyLimits) -> Self {
        let limiter = |rate: KeyRate| {
            let limiter = RateLimiter::direct_with_clock(rate.quota(), MonotonicClock);
            (rate, Arc::new(limiter))
        };
        Self {
            concurrency: limits.concurrency,
            in_flight: Arc::default(),
            rate: limits.rate.map(limiter),
        }
    }

    /// Returns the gate of the same key with `limits`. Requests in flight still count, and so do recent requests if the
    /// rate is the same.
    pub(super) fn with(&self, limits: KeyLimits) -> Self {
        let mut gate = Self::new(limits);
        gate.in_flight = Arc::clone(&self.in_flight);
        if let Some((rate, limiter)) = &self.rate
            && limits.rate == Some(*rate)
        {
            gate.rate = Some((*rate, Arc::clone(limiter)));
        }
        gate
    }

    /// Takes a place for a request and counts it.
    pub(super) fn enter(&self) -> Result<Place, Full> {
        // The place first: a request that finds no place does not count towards the rate.
        let place = self.place()?;
        self.count()?;
        Ok(place)
    }

    /// Counts a request that has a place already.
    pub(super) fn count(&self) -> Result<(), Full> {
        let Some((rate, limiter)) = &self.rate else {
            return Ok(());
        };
        limiter.check().map_err(|until| Full::Rate {
            rate: *rate,
            retry_after: until.wait_time_from(MonotonicClock.now()),
        })
    }

    /// Takes a place. Places are counted without a limit, too, so that a limit that a reload adds finds the requests in
    /// flight.
    fn place(&self) -> Result<Place, Full> {
        let most = self.concurrency.map_or(u32::MAX, NonZeroU32::get);
        let more = |count: u32| (count < most).then(|| count + 1);
        let taken = (self.in_flight).fetch_update(Ordering::AcqRel, Ordering::Acquire, more);
        match taken {
            Ok(_) => Ok(Place(Arc::clone(&self.in_flight))),
            Err(_) => Err(Full::Concurrency {
                limit: self.concurrency.unwrap_or(NonZeroU32::MAX),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(rate: &str, concurrency: u32) -> KeyLimits {
        KeyLimits {
            rate: rate.parse().ok(),
            concurrency: NonZeroU32::new(concurrency),
        }
    }

    #[test]
    fn requests_in_flight_are_limited_and_a_finished_one_frees_its_place() {
        let gate = Gate::new(limits("", 2));
        let (first, _second) = (gate.enter().unwrap(), gate.enter().unwrap());
        for _ in 0..3 {
            let full = gate.enter().unwrap_err();
            assert!(matches!(full, Full::Concurrency { limit } if limit.get() == 2));
        }
        drop(first);
        assert!(gate.enter().is_ok());
    }

    #[test]
    fn the_rate_is_limited_and_a_request_without_place_does_not_count() {
        let gate = Gate::new(limits("1/h", 1));
        let place = gate.enter().unwrap();
        assert!(matches!(gate.enter(), Err(Full::Concurrency { .. })));
        drop(place);
        let Err(Full::Rate { retry_after, .. }) = gate.enter() else {
            panic!("the rate is used up");
        };
        let hour = Duration::from_hours(1);
        assert!(retry_after > hour / 2 && retry_after <= hour);
        // The rejected request has given its place back.
        assert!(matches!(gate.enter(), Err(Full::Rate { .. })));
    }

    #[test]
    fn a_reload_keeps_what_a_key_has_used() {
        let gate = Gate::new(limits("1/h", 0));
        let _place = gate.enter().unwrap();
        let same = gate.with(limits("1/h", 1));
        assert!(matches!(same.enter(), Err(Full::Concurrency { .. })));
        let same = gate.with(limits("1/h", 0));
        assert!(matches!(same.enter(), Err(Full::Rate { .. })));
        assert!(gate.with(limits("2/h", 0)).enter().is_ok());
    }
}
