//! The predicted time of one request, compared with the time that it took.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::shared::Shared;

/// The time that an admitted request is predicted to take until its last image has run.
///
/// The request calls [`Forecast::finish`] when its results are ready. A forecast that is dropped after the deadline
/// counts as one that was exceeded; one that is dropped earlier, because the request failed, does not count.
pub(crate) struct Forecast {
    shared: Arc<Shared>,
    predicted: Duration,
    made: Instant,
    deadline: Instant,
    counts: bool,
}

impl Forecast {
    /// Creates a forecast, made at `made`, of a request whose images wait `predicted`.
    pub(super) fn new(
        shared: &Arc<Shared>,
        predicted: Duration,
        made: Instant,
        deadline: Instant,
    ) -> Self {
        Self {
            shared: Arc::clone(shared),
            predicted,
            made,
            deadline,
            counts: true,
        }
    }

    /// Adds the time of `images` more images of the request.
    pub(crate) fn add_images(&mut self, images: usize) {
        self.predicted += self.shared.drain().time(images as u64);
    }

    /// Ends the forecast of a request whose time depends on more than the queue, or that chose its own deadline.
    pub(crate) fn discard(&mut self) {
        self.counts = false;
    }

    /// Records the time that the request took until now.
    pub(crate) fn finish(mut self) {
        self.record(Instant::now());
    }

    fn record(&mut self, now: Instant) {
        if std::mem::take(&mut self.counts) {
            let left = self.deadline.saturating_duration_since(self.made);
            let took = now.saturating_duration_since(self.made);
            self.shared.margin().record(self.predicted, left, took);
        }
    }
}

impl Drop for Forecast {
    fn drop(&mut self) {
        let now = Instant::now();
        if now >= self.deadline {
            self.record(now);
        }
    }
}
