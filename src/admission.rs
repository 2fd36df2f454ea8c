//! Admission: the places and memory that a request reserves before work is spent on it, for any protocol.
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

    /// Returns the moment at which the deadline passes.
    pub fn at(self) -> Instant {
        self.at
    }

    /// Checks the deadline; called before expensive steps.
    ///
    /// # Errors
    /// [`ServeError::DeadlinePassed`] once the deadline has passed.
    pub fn check(self) -> Result<(), ServeError> {
        if Instant::now() < self.at {
            return Ok(());
        }
        Err(ServeError::DeadlinePassed { limit: self.limit })
    }

    /// Runs `work`, and drops it if it is not finished at the deadline.
    ///
    /// # Errors
    /// [`ServeError::DeadlinePassed`] if the deadline passes first, else the error of `work`.
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
    /// The model that processes the request.
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

    /// Grows the memory reserved for the request's body to `bytes` in all.
    ///
    /// # Errors
    /// [`Exhausted`] if the bodies of other requests leave too little memory.
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

    /// Returns the permit of one reserved place in the queue, for one image. The request keeps the other places.
    ///
    /// # Errors
    /// [`ServeError::Internal`] if none is left, which [`Admission::reserve_images`] rules out.
    pub(crate) fn take_place(&mut self) -> Result<Permit, ServeError> {
        let place = self.places.split(1);
        place.ok_or(ServeError::Internal(
            "more images than reserved places in the queue",
        ))
    }

    /// Moves the permit of the body's memory out of the request, to be held as long as the encoded images.
    pub(crate) fn take_body(&mut self, app: &App) -> Permit {
        std::mem::replace(&mut self.body, app.bodies.empty())
    }
}

/// Counts `error` in `sightline_rejected_total` if a request was rejected for lack of capacity or time.
/// `model` is `None` if the request was rejected before its model was known.
pub fn count_rejection(metrics: &Metrics, error: &ServeError, model: Option<&LoadedModel>) {
    if let Some(reason) = reason(error) {
        let label = model.map(LoadedModel::label).unwrap_or_default();
        metrics.rejected(reason, label);
    }
}

/// Returns the metric label of a rejection. `None` for invalid requests and internal errors.
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
