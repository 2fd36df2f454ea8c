//! CPU time of a job and of the threads that help with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::helpers::Helpers;

/// Helpers whose CPU time is measured.
pub(super) struct Measured<'a> {
    helpers: &'a dyn Helpers,
    nanos: Arc<AtomicU64>,
}

impl<'a> Measured<'a> {
    pub(super) fn new(helpers: &'a dyn Helpers) -> Self {
        Self {
            helpers,
            nanos: Arc::default(),
        }
    }

    /// Returns the CPU time of the jobs that have ended.
    pub(super) fn time(&self) -> Duration {
        Duration::from_nanos(self.nanos.load(Ordering::Relaxed))
    }
}

impl Helpers for Measured<'_> {
    fn is_idle(&self) -> bool {
        self.helpers.is_idle()
    }

    fn start(&self, most: usize, job: Arc<dyn Fn() + Send + Sync>) {
        let total = Arc::clone(&self.nanos);
        let measured = move || {
            let before = cpu_time();
            job();
            let nanos = cpu_time().saturating_sub(before).as_nanos() as u64;
            total.fetch_add(nanos, Ordering::Relaxed);
        };
        self.helpers.start(most, Arc::new(measured));
    }
}

/// Returns the CPU time that this thread has used. Unlike wall-clock time, it does not grow while other threads use
/// the core.
pub(super) fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    Duration::from_secs(seconds)
        + Duration::from_nanos(u64::try_from(time.tv_nsec).unwrap_or_default())
}
