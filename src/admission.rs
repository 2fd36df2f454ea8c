//! Admission: what a request holds before work is spent on it, whatever protocol it came by.
//!
//! A front end (HTTP, gRPC) starts a [`Deadline`] when a request arrives and creates an [`Admission`]
//! before it reads the body: the model's queue must have a place, or the request is rejected. The
//! admission then reserves the memory of the body as it arrives and one place for every image, and moves
//! into [`crate::pipeline::run`]. Everything is returned when it is dropped.
//!
//! What is *not* here: types of a protocol, and status codes.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::timeout_at;

use crate::app::App;
use crate::batch::BatchError;
use crate::budget::{Exhausted, Permit};
use crate::error::ServeError;
use crate::metrics::{Metrics, Rejection};
use crate::registry::LoadedModel;

/// The time by which a request must be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline {
    at: Instant,
    limit: Duration,
}

impl Deadline {
    /// Starts a deadline that passes after `limit`.
    pub fn after(limit: Duration) -> Self {
        Self {
            at: Instant::now() + limit,
            limit,
        }
    }

    /// The moment at which the deadline passes.
    pub fn at(self) -> Instant {
        self.at
    }

    /// Fails once the deadline has passed; called before expensive steps.
    ///
    /// # Errors
    /// [`ServeError::DeadlinePassed`].
    pub fn check(self) -> Result<(), ServeError> {
        if Instant::now() < self.at {
            return Ok(());
        }
        Err(ServeError::DeadlinePassed { limit: self.limit })
    }

    /// Runs `work` until the deadline and drops it then.
    ///
    /// # Errors
    /// [`ServeError::DeadlinePassed`], or the error of `work`.
    pub async fn bound<T>(
        self,
        work: impl Future<Output = Result<T, ServeError>>,
    ) -> Result<T, ServeError> {
        let passed = ServeError::DeadlinePassed { limit: self.limit };
        let result = timeout_at(self.at.into(), work).await;
        result.unwrap_or(Err(passed))
    }
}

/// An admitted request: its model, its deadline, and what it has reserved.
pub struct Admission {
    /// The model that answers.
    pub model: Arc<LoadedModel>,
    /// The time by which the request must be answered.
    pub deadline: Deadline,
    places: Permit,
    body: Permit,
}

impl Admission {
    /// Admits a request of one image: reserves a place in the queue of `model`.
    ///
    /// # Errors
    /// [`BatchError::QueueFull`] if no place is free.
    pub fn new(app: &App, model: Arc<LoadedModel>, deadline: Deadline) -> Result<Self, ServeError> {
        Ok(Self {
            places: model.batcher.reserve(1)?,
            body: app.bodies.empty(),
            model,
            deadline,
        })
    }

    /// Reserves memory so that the request holds `bytes` for its body in all.
    ///
    /// # Errors
    /// [`Exhausted`] if other bodies hold too much.
    pub fn reserve_body(&mut self, bytes: usize) -> Result<(), Exhausted> {
        self.body.grow_to(bytes as u64)
    }

    /// Reserves places in the queue so that the request holds one for each of its `images`.
    ///
    /// # Errors
    /// [`ServeError::TooManyImages`] if the queue can never hold as many, [`BatchError::QueueFull`] if
    /// fewer places are free now.
    pub fn reserve_images(&mut self, images: usize) -> Result<(), ServeError> {
        let batcher = &self.model.batcher;
        if images > batcher.capacity() {
            // Retrying cannot help, so this is not the error of a full queue.
            let limit = batcher.capacity();
            return Err(ServeError::TooManyImages { limit });
        }
        Ok(batcher.reserve_more(&mut self.places, images)?)
    }

    /// Takes one of the reserved places.
    ///
    /// # Errors
    /// [`ServeError::Internal`] if none is left, which [`Admission::reserve_images`] rules out.
    pub(crate) fn take_place(&mut self) -> Result<Permit, ServeError> {
        let place = self.places.split(1);
        place.ok_or(ServeError::Internal(
            "more images than reserved places in the queue",
        ))
    }

    /// Separates the memory of the body, which the encoded images keep.
    pub(crate) fn take_body(&mut self, app: &App) -> Permit {
        std::mem::replace(&mut self.body, app.bodies.empty())
    }
}

/// Counts `error` in `sightline_rejected_total` if it rejected a request for want of capacity or time.
/// `model` is `None` if the request was rejected before its model was known.
pub fn count_rejection(metrics: &Metrics, error: &ServeError, model: Option<&LoadedModel>) {
    if let Some(reason) = reason(error) {
        let label = model.map(LoadedModel::label).unwrap_or_default();
        metrics.rejected(reason, label);
    }
}

/// The label of a rejection. Returns `None` for mistakes of the client and faults of the server.
fn reason(error: &ServeError) -> Option<Rejection> {
    match error {
        ServeError::BodyMemory(_) => Some(Rejection::body_memory),
        ServeError::Starting => Some(Rejection::starting),
        ServeError::Draining | ServeError::Batch(BatchError::Closed) => Some(Rejection::draining),
        ServeError::DeadlinePassed { .. } | ServeError::Batch(BatchError::DeadlinePassed) => {
            Some(Rejection::deadline)
        }
        ServeError::Batch(BatchError::QueueFull { .. }) => Some(Rejection::queue_full),
        _ => None,
    }
}
