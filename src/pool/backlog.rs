//! The predicted time of the long jobs that have been admitted and have not finished. It decides whether a
//! further request with long jobs is admitted.

use std::time::Duration;

use super::JobCost;
use crate::budget::{Budget, Permit};

/// The predicted time of the admitted long jobs.
#[derive(Debug)]
pub(super) struct Backlog {
    /// The sum of the predicted times, in microseconds. The total of this budget never runs out in practice.
    micros: Budget,
    /// Number of threads that run long jobs.
    threads: u32,
}

/// The predicted time that a request has reserved for its long jobs. Dropping it releases the time.
#[derive(Debug)]
pub struct LongJobs(Permit);

impl LongJobs {
    /// Splits off the time of one job with the cost `cost`. `None` if less time is reserved.
    pub(crate) fn take(&mut self, cost: JobCost) -> Option<Permit> {
        self.0.split(micros(cost))
    }
}

/// The jobs of a request are predicted to finish too late.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Late {
    /// Predicted time until the jobs that were admitted before have run.
    pub wait: Duration,
    /// Predicted time until these jobs and those of the request have run.
    pub end: Duration,
}

fn micros(cost: JobCost) -> u64 {
    cost.nanos.div_ceil(1000)
}

impl Backlog {
    /// Creates the backlog of a pool of `threads` threads.
    pub(super) fn new(threads: usize) -> Self {
        Self {
            micros: Budget::new("long_jobs", 1, u64::MAX),
            threads: u32::try_from(threads).unwrap_or(u32::MAX).max(1),
        }
    }

    /// Returns the predicted time until the admitted long jobs have run.
    pub(super) fn wait(&self) -> Duration {
        Duration::from_micros(self.micros.used()) / self.threads
    }

    /// Reserves the time of the long jobs of a request, which has `left` until its deadline. Always succeeds if the
    /// backlog is empty, so that a prediction that is too long is corrected by new measurements.
    ///
    /// # Errors
    /// [`Late`] if the jobs that were admitted before and those of the request are predicted to take longer than
    /// two thirds of `left`.
    pub(super) fn admit(
        &self,
        costs: impl Iterator<Item = JobCost>,
        left: Duration,
    ) -> Result<LongJobs, Late> {
        let mut jobs = LongJobs(self.micros.empty());
        let own: u64 = costs.map(micros).sum();
        let own_time = Duration::from_micros(own) / self.threads;
        // The time is reserved before it is compared, so that concurrent requests count each other's jobs.
        let reserved = jobs.0.grow_to(own);
        let end = self.wait();
        let wait = end.saturating_sub(own_time);
        match reserved {
            Ok(()) if own == 0 || wait.is_zero() || end <= left * 2 / 3 => Ok(jobs),
            Ok(()) => Err(Late { wait, end }),
            Err(_) => Err(Late {
                wait: end,
                end: end + own_time,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_admitted_while_their_jobs_end_in_time() {
        let backlog = Backlog::new(2);
        let second = JobCost::time(1_000_000_000);
        let admit = |jobs: usize, left: u64| {
            let costs = std::iter::repeat_n(second, jobs);
            backlog.admit(costs, Duration::from_secs(left))
        };
        // More than the deadline allows, but nothing else waits.
        let mut first = admit(10, 1).unwrap();
        assert_eq!(backlog.wait(), Duration::from_secs(5));
        // 5 s of the first request and 1 s of its own on two threads.
        let seconds = Duration::from_secs;
        let late = Late {
            wait: seconds(5),
            end: seconds(6),
        };
        assert_eq!(admit(2, 8).unwrap_err(), late);
        assert!(admit(2, 9).is_ok());
        assert!(admit(0, 0).is_ok(), "a request without long jobs");
        let taken = first.take(second);
        drop(first);
        assert_eq!(backlog.wait(), Duration::from_millis(500));
        drop(taken);
        assert_eq!(backlog.wait(), Duration::ZERO);
    }
}
