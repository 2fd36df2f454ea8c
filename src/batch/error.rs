//! The errors of the queue and of inference.

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use super::Unready;
use crate::engine::EngineError;

/// Why inference of an image failed.
#[derive(Debug, Clone, Error)]
pub enum BatchError {
    /// The queue has too few free places.
    #[error("the queue is full ({capacity} images); retry after {} ms", .retry_after.as_millis())]
    QueueFull {
        /// Maximum number of images in the queue.
        capacity: usize,
        /// Predicted time until the images that are in the queue now have run.
        retry_after: Duration,
    },
    /// The queue has too few free places for images that take long to decode.
    #[error(
        "the queue is full: at most {capacity} images that take long to decode may wait; retry after {} ms",
        .retry_after.as_millis()
    )]
    LongQueueFull {
        /// Maximum number of images in the queue that take long to decode.
        capacity: usize,
        /// Predicted time until the queued images that take long to decode have been decoded.
        retry_after: Duration,
    },
    /// The images in the queue are predicted to take longer than the request's deadline allows.
    #[error(
        "the images in the queue may take {} ms, and {} ms are left until the deadline; retry after {} ms",
        .predicted.as_millis(),
        .left.as_millis(),
        .wait.as_millis()
    )]
    DeadlineUnreachable {
        /// Time within which the images ahead very likely run. If the request has images that take long to decode,
        /// predicted time until these and all earlier ones that take long are decoded.
        predicted: Duration,
        /// Time that was left until the request's deadline.
        left: Duration,
        /// Predicted time until the images that are in the queue now have run.
        wait: Duration,
    },
    /// The request's deadline passed before a worker ran the image.
    #[error("the deadline passed while the image was waiting for a worker")]
    DeadlinePassed,
    /// The queue was closed before the image was submitted.
    #[error("the queue is closed: the server is shutting down")]
    Closed,
    /// No worker of the model is left: all are stuck or could not be rebuilt.
    #[error("no worker of the model is left: {reason}")]
    NoWorker {
        /// Why the model has no worker.
        reason: Unready,
    },
    /// The engine returned an error for the batch.
    #[error(transparent)]
    Engine(#[from] Arc<EngineError>),
    /// The engine returned outputs for fewer or more images than there are in the batch.
    #[error("the engine returned outputs for {got} images, but the batch has {expected} images")]
    OutputCount {
        /// Number of images in the batch.
        expected: usize,
        /// Number of images that the engine returned outputs for.
        got: usize,
    },
    /// The engine panicked while it ran the batch. The worker replaces it.
    #[error("inference panicked; see the server's log")]
    Panicked,
    /// The worker dropped the image without a result, which is a bug.
    #[error("the inference worker stopped without a result; see the server's log")]
    NoReply,
}
