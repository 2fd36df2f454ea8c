//! Counts the outcome of a request in metrics, also if its client disconnects.

use std::sync::Arc;
use std::time::Instant;

use super::{Admission, count_rejection, reason};
use crate::error::ServeError;
use crate::metrics::{Failure, Metrics, Rejection, RequestProgress, Stage};
use crate::pipeline::RequestTiming;
use crate::registry::{Entry, LoadedModel};

/// Observes a request from its head to its response. Dropping it without a result, as when the client disconnects,
/// counts the request as cancelled in the stage that it was in.
pub struct Watch<'a> {
    metrics: &'a Metrics,
    started: Instant,
    progress: RequestProgress,
    /// The model of the request, once it is known.
    model: Option<Arc<Entry>>,
    ended: bool,
}

impl<'a> Watch<'a> {
    /// Starts to observe a request whose head has arrived.
    pub fn new(metrics: &'a Metrics) -> Self {
        Self {
            metrics,
            started: Instant::now(),
            progress: RequestProgress::default(),
            model: None,
            ended: false,
        }
    }

    /// Sets the model of the request.
    pub fn set_model(&mut self, model: Arc<Entry>) {
        self.model = Some(model);
    }

    /// Follows the stages of `admission`, which the request has got, and adds the time until now to its timing.
    pub fn follow(&mut self, admission: &mut Admission) {
        self.progress = admission.progress.clone();
        admission.timing[Stage::admission] += self.started.elapsed();
    }

    /// Records the stages of a request that `model` has answered.
    pub fn succeeded(mut self, model: &LoadedModel, timing: &RequestTiming) {
        self.ended = true;
        timing.record(&model.metrics);
        let received = timing.total()[Stage::receive];
        let duration = self.started.elapsed().saturating_sub(received);
        model.metrics.succeeded(duration, timing);
    }

    /// Counts a request that failed with `error`. Returns its model if it is known.
    pub fn failed(mut self, error: &ServeError) -> Option<Arc<Entry>> {
        self.ended = true;
        let model = self.model.take();
        let label = model.as_deref().map(Entry::label);
        count_rejection(self.metrics, error, model.as_deref());
        let late = reason(error) == Some(Rejection::deadline);
        if late || matches!(error, ServeError::BodyInterrupted) {
            let label = label.unwrap_or_default();
            self.metrics.cancelled(self.progress.stage(), label);
        }
        if let Some(label) = label {
            self.metrics
                .failed(failure(error), label, self.started.elapsed());
        }
        model
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        // A panic is a fault of the server, not of the client.
        if self.ended || std::thread::panicking() {
            return;
        }
        let label = self.model.as_deref().map(Entry::label);
        self.metrics
            .cancelled(self.progress.stage(), label.unwrap_or_default());
        if let Some(label) = label {
            self.metrics
                .failed(Failure::CANCELED, label, self.started.elapsed());
        }
    }
}

/// Returns why a request failed with `error`, in the words of Triton.
fn failure(error: &ServeError) -> Failure {
    match error {
        error if reason(error).is_some() => Failure::REJECTED,
        ServeError::BodyInterrupted => Failure::CANCELED,
        ServeError::Batch(_) | ServeError::Internal(_) => Failure::BACKEND,
        _ => Failure::OTHER,
    }
}
