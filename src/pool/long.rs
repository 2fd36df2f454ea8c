//! Reservations of thread time for long jobs.

use std::sync::Arc;

use super::backlog::{Reserved, ReservedJob};
use super::{JobCost, Shared};

/// The thread time that a request has reserved for its long jobs. Dropping it releases the time.
#[derive(Debug)]
pub struct LongJobs {
    pub(super) shared: Arc<Shared>,
    pub(super) reserved: Reserved,
}

impl LongJobs {
    /// Splits off the reservation of one job with the cost `cost`. `None` if less time is reserved.
    pub(crate) fn take(&mut self, cost: JobCost) -> Option<LongJob> {
        let job = self.shared.backlog.take(&mut self.reserved, cost)?;
        Some(LongJob {
            shared: Arc::clone(&self.shared),
            job: Some(job),
        })
    }
}

/// The thread time that is reserved for one long job. Dropping it releases the time of a job that was given up.
#[derive(Debug)]
pub(crate) struct LongJob {
    shared: Arc<Shared>,
    /// `None` only while the reservation is being released.
    job: Option<ReservedJob>,
}

impl LongJob {
    /// Releases the time of a job that has finished. How long it took improves later predictions.
    pub(crate) fn finish(mut self) {
        self.end(true);
    }

    fn end(&mut self, finished: bool) {
        if let Some(job) = self.job.take() {
            let now = self.shared.started.elapsed();
            self.shared.backlog.end(job, finished, now);
        }
    }
}

impl Drop for LongJob {
    fn drop(&mut self) {
        self.end(false);
    }
}
