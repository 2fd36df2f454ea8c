//! The predicted time of the long jobs that have been admitted and have not finished. It decides whether a
//! further request with long jobs is admitted.
//!
//! The cost of a job is CPU time. A job takes longer than its CPU time while inference or other processes use the
//! cores, so predicted waits are multiplied by a factor that is measured online: how much later than predicted the
//! latest jobs ended.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::JobCost;
use crate::budget::{Budget, Permit};

/// Weight of all earlier jobs when a new job is added: an average over about the last 16.
const MEMORY: f64 = 15.0 / 16.0;
/// Time in which the weight of a job halves, so that the factor returns to 1 while no long job runs.
const HALF_LIFE: Duration = Duration::from_secs(10);
/// Seconds of jobs that ended as predicted, which the average includes in addition to the measured jobs.
const PRIOR: f64 = 0.2;
/// Maximum factor by which waits are raised. Waits are never lowered: a job that overtakes others ends earlier than
/// predicted, but the others do not.
const MAX_FACTOR: f64 = 4.0;

/// The predicted time of the admitted long jobs. Times named `now` count from a fixed moment.
#[derive(Debug)]
pub(super) struct Backlog {
    /// The sum of the predicted times, in microseconds. The total of this budget never runs out in practice.
    micros: Budget,
    /// Number of threads that run long jobs.
    threads: u32,
    lateness: Mutex<Lateness>,
}

/// Sums of the measured and of the predicted times from the admission of long jobs to their ends, in seconds.
#[derive(Debug, Default)]
struct Lateness {
    measured: f64,
    predicted: f64,
    /// When a job was last added.
    last: Duration,
}

impl Lateness {
    fn add(&mut self, measured: Duration, predicted: Duration, now: Duration) {
        let weight = MEMORY * self.weight(now);
        self.measured = self.measured * weight + measured.as_secs_f64();
        self.predicted = self.predicted * weight + predicted.as_secs_f64();
        self.last = self.last.max(now);
    }

    /// Returns the factor by which waits are raised at `now`, 1 to [`MAX_FACTOR`].
    fn factor(&self, now: Duration) -> f64 {
        let weight = self.weight(now);
        let measured = self.measured * weight + PRIOR;
        let predicted = self.predicted * weight + PRIOR;
        (measured / predicted).clamp(1.0, MAX_FACTOR)
    }

    /// Returns the weight of the sums at `now`, 0 to 1.
    fn weight(&self, now: Duration) -> f64 {
        let age = now.saturating_sub(self.last).as_secs_f64();
        0.5_f64.powf(age / HALF_LIFE.as_secs_f64())
    }
}

/// The predicted time that a request has reserved for its long jobs. Dropping it releases the time.
#[derive(Debug)]
pub(super) struct Reserved {
    time: Permit,
    admitted: Duration,
    /// Predicted time, without the factor, until the jobs that were admitted before have run.
    wait: Duration,
    /// Sum of the predicted times of the jobs that were split off.
    taken: Duration,
}

/// The reservation of one long job.
#[derive(Debug)]
pub(super) struct ReservedJob {
    _time: Permit,
    admitted: Duration,
    /// Predicted time, without the factor, from the admission to the end of the job.
    predicted: Duration,
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
            lateness: Mutex::default(),
        }
    }

    /// Returns the predicted time from `now` until the admitted long jobs have run.
    pub(super) fn wait(&self, now: Duration) -> Duration {
        self.on_threads(self.micros.used())
            .mul_f64(self.factor(now))
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
        now: Duration,
    ) -> Result<Reserved, Late> {
        let (mut own, mut longest) = (0_u64, 0);
        for job in costs.map(micros) {
            own = own.saturating_add(job);
            longest = longest.max(job);
        }
        let mut time = self.micros.empty();
        // The time is reserved before it is compared, so that concurrent requests count each other's jobs.
        let reserved = time.grow_to(own);
        let used = self.micros.used();
        let wait = self.on_threads(used.saturating_sub(time.amount()));
        // A job runs on one thread, also if the others are idle.
        let end = wait + self.on_threads(own).max(Duration::from_micros(longest));
        let factor = self.factor(now);
        let late = Late {
            wait: wait.mul_f64(factor),
            end: end.mul_f64(factor),
        };
        if reserved.is_ok() && (own == 0 || wait.is_zero() || late.end <= left * 2 / 3) {
            return Ok(Reserved {
                time,
                admitted: now,
                wait,
                taken: Duration::ZERO,
            });
        }
        Err(late)
    }

    /// Splits off the time of one job with the cost `cost` from the time of its request. `None` if less time is
    /// reserved.
    pub(super) fn take(&self, reserved: &mut Reserved, cost: JobCost) -> Option<ReservedJob> {
        let time = reserved.time.split(micros(cost))?;
        let own = Duration::from_micros(micros(cost));
        reserved.taken += own;
        Some(ReservedJob {
            _time: time,
            admitted: reserved.admitted,
            predicted: reserved.wait + own.max(reserved.taken / self.threads),
        })
    }

    /// Releases the time of a job that ended at `now`. `finished` is false if the job was given up. A job that was
    /// given up is measured only if it was already late, because its own end is unknown.
    pub(super) fn end(&self, job: ReservedJob, finished: bool, now: Duration) {
        let measured = now.saturating_sub(job.admitted);
        if finished || measured > job.predicted {
            self.lateness().add(measured, job.predicted, now);
        }
        drop(job);
    }

    /// Returns the time that jobs of `micros` microseconds take on all threads.
    fn on_threads(&self, micros: u64) -> Duration {
        Duration::from_micros(micros) / self.threads
    }

    /// Returns the factor by which waits are raised at `now`, 1 to [`MAX_FACTOR`].
    fn factor(&self, now: Duration) -> f64 {
        self.lateness().factor(now)
    }

    fn lateness(&self) -> MutexGuard<'_, Lateness> {
        // No code panics while it holds this lock.
        self.lateness.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: JobCost = JobCost {
        nanos: 1_000_000_000,
        bytes: 0,
        pixels: 0,
        long: true,
    };

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Admits a request at time 0 that has `jobs` jobs of a second and `left` seconds until its deadline.
    fn admit(backlog: &Backlog, jobs: usize, left: u64) -> Result<Reserved, Late> {
        let costs = std::iter::repeat_n(SECOND, jobs);
        backlog.admit(costs, seconds(left), Duration::ZERO)
    }

    #[test]
    fn requests_are_admitted_while_their_jobs_end_in_time() {
        let backlog = Backlog::new(2);
        let wait = || backlog.wait(Duration::ZERO);
        // More than the deadline allows, but nothing else waits.
        let mut first = admit(&backlog, 10, 1).unwrap();
        assert_eq!(wait(), seconds(5));
        // 5 s of the first request and 1 s of its own: two jobs on two threads, or one job on one thread.
        let late = Late {
            wait: seconds(5),
            end: seconds(6),
        };
        for jobs in [1, 2] {
            assert_eq!(admit(&backlog, jobs, 8).unwrap_err(), late);
            assert!(admit(&backlog, jobs, 9).is_ok());
        }
        assert!(admit(&backlog, 0, 0).is_ok(), "a request without long jobs");
        let taken = backlog.take(&mut first, SECOND).unwrap();
        drop(first);
        assert_eq!(wait(), Duration::from_millis(500));
        backlog.end(taken, true, Duration::ZERO);
        assert_eq!(wait(), Duration::ZERO);
    }

    #[test]
    fn late_jobs_raise_the_predictions_for_a_while() {
        let backlog = Backlog::new(2);
        let mut request = admit(&backlog, 40, 60).unwrap();
        let mut end = |finished, at| {
            let job = backlog.take(&mut request, SECOND).unwrap();
            let predicted = job.predicted;
            backlog.end(job, finished, at);
            predicted
        };
        // The first two jobs are predicted to end after a second, because each has a thread of its own.
        assert_eq!(end(true, seconds(1)), seconds(1));
        assert_eq!(end(true, seconds(1)), seconds(1));
        assert_eq!(backlog.wait(seconds(1)), seconds(19));
        // Given up before its predicted end, which shows nothing.
        assert_eq!(end(false, seconds(1)), Duration::from_millis(1500));
        assert_eq!(backlog.wait(seconds(1)), Duration::from_millis(18_500));
        // Late, whether finished or given up.
        for finished in [true, false, true] {
            end(finished, seconds(10));
        }
        let raised = backlog.factor(seconds(10));
        assert!(raised > 3.0 && raised < MAX_FACTOR, "{raised}");
        // Half of the weight after ten seconds; the prior of jobs in time counts more and more.
        let later = [20, 60, 120].map(|at| backlog.factor(seconds(at)));
        assert!(raised > later[0] && later[0] > later[1] && later[1] > later[2]);
        assert!(later[2] < 1.1, "{later:?}");
    }

    #[test]
    fn the_factor_is_bounded_and_applies_to_admission() {
        let backlog = Backlog::new(1);
        let mut request = admit(&backlog, 2, 60).unwrap();
        let late = backlog.take(&mut request, SECOND).unwrap();
        backlog.end(late, true, seconds(1000));
        assert_eq!(backlog.factor(seconds(1000)), MAX_FACTOR);
        assert_eq!(backlog.wait(seconds(1000)), seconds(4));
        let admit = |left| backlog.admit([SECOND].into_iter(), seconds(left), seconds(1000));
        let expected = Late {
            wait: seconds(4),
            end: seconds(8),
        };
        assert_eq!(admit(11).unwrap_err(), expected);
        assert!(admit(12).is_ok());
    }

    #[test]
    fn early_jobs_do_not_lower_the_predictions() {
        let backlog = Backlog::new(1);
        let mut request = admit(&backlog, 2, 60).unwrap();
        let early = backlog.take(&mut request, SECOND).unwrap();
        backlog.end(early, true, Duration::ZERO);
        assert_eq!(backlog.wait(Duration::ZERO), seconds(1));
    }
}
