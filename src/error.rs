//! The errors of a request, which include the errors of the layers below.
//!
//! `http::problem` assigns the status codes.

use std::time::Duration;

use thiserror::Error;

use crate::batch::BatchError;
use crate::budget::Exhausted;
use crate::cancel::Cancelled;
use crate::draw::EncodeError;
use crate::image::{ImageError, ImageSize};
use crate::manifest::Task;

/// Why a request failed.
#[derive(Debug, Error)]
pub enum ServeError {
    /// A query parameter, header or input of the request has an invalid value.
    #[error("`{field}`: expected {expected}, got {got}")]
    BadParameter {
        /// Name of the parameter, header or input.
        field: String,
        /// The allowed values, in words.
        expected: String,
        /// The value of the request, cut to 64 characters.
        got: String,
    },
    /// The framing of the body is broken: JSON, base64 or multipart.
    #[error("cannot read `{field}` of the request: {reason}")]
    BadBody {
        /// Part of the body that is broken, such as `images[0].data`.
        field: String,
        /// Reason why that part cannot be read.
        reason: String,
    },
    /// The body holds no image.
    #[error("the request holds no image: expected {expected}")]
    NoImage {
        /// What a body of this content type must hold.
        expected: &'static str,
    },
    /// The request holds more images than one request or the queue of the model can.
    #[error("the request holds more than {limit} images: send fewer at a time")]
    TooManyImages {
        /// Maximum number of images in one request.
        limit: usize,
    },
    /// The content type of the body is not supported.
    #[error(
        "content type `{got}` is not supported: expected image/*, application/octet-stream, \
         multipart/form-data or application/json"
    )]
    UnsupportedMediaType {
        /// The content type of the request, cut to 64 characters.
        got: String,
    },
    /// The body is compressed.
    #[error("content-encoding `{got}` is not supported: send the body uncompressed")]
    UnsupportedContentEncoding {
        /// Value of the header, cut to 64 characters.
        got: String,
    },
    /// The body is larger than the limit.
    #[error("the body is larger than {limit} bytes")]
    BodyTooLarge {
        /// Maximum size of a body in bytes.
        limit: usize,
    },
    /// The body ended early.
    #[error("the body ended before its announced length")]
    BodyInterrupted,
    /// Other requests hold too much of the memory for bodies.
    #[error("the memory for request bodies is exhausted: {0}")]
    BodyMemory(#[from] Exhausted),
    /// An image cannot be used.
    #[error("image {index}: {source}")]
    Image {
        /// Position of the image in the request, from 0.
        index: usize,
        /// Reason why the image cannot be used.
        source: ImageError,
    },
    /// An image is too large for a response that is a drawn image.
    #[error(
        "image {index}: cannot draw into {}x{} pixels, over the limit of {limit} pixels for \
         `annotate=true`: send a smaller image",
        .size.width,
        .size.height
    )]
    TooLargeToDraw {
        /// Position of the image in the request, from 0.
        index: usize,
        /// Size in pixels that the image's header states.
        size: ImageSize,
        /// Maximum number of pixels of an image to draw into.
        limit: u64,
    },
    /// No loaded model has the name.
    #[error("model `{name}` is not loaded; loaded models: {}", .loaded.join(", "))]
    UnknownModel {
        /// The name in the request.
        name: String,
        /// The loaded models, as `name@variant`.
        loaded: Vec<String>,
    },
    /// The model has another task than the route.
    #[error("model `{name}` is a {} model", .task.as_str())]
    WrongTask {
        /// The requested model, as `name@variant`.
        name: String,
        /// Task of the model.
        task: Task,
    },
    /// No model of the task is loaded.
    #[error(
        "no {} model is loaded: `sightline models` lists the catalogue, `sightline export` creates a \
         model, `sightline serve --model NAME` loads it",
        .task.as_str()
    )]
    NoModel {
        /// Task of the route.
        task: Task,
    },
    /// The drawn image cannot be written as a file.
    #[error(transparent)]
    Drawn(#[from] EncodeError),
    /// The path is not a route.
    #[error("no route `{path}`: /openapi.yaml lists all routes")]
    NoRoute {
        /// Path of the request.
        path: String,
    },
    /// The route does not support the method.
    #[error("`{path}` does not support {method}")]
    MethodNotAllowed {
        /// Path of the request.
        path: String,
        /// HTTP method of the request.
        method: String,
    },
    /// Models are still being loaded.
    #[error("the server is starting: models are being loaded")]
    Starting,
    /// The server rejects new requests before it stops.
    #[error("the server is shutting down")]
    Draining,
    /// The deadline of the request passed.
    #[error("the deadline of {} ms passed", .limit.as_millis())]
    DeadlinePassed {
        /// Time that a request may take.
        limit: Duration,
    },
    /// The queue rejected an image, or inference failed.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// A fault of the server; the text, for the log, says what failed.
    #[error("{0}")]
    Internal(&'static str),
}

impl From<Cancelled> for ServeError {
    /// Work is cancelled if its client disconnects or its deadline passes. Only the latter client sees the response.
    fn from(_: Cancelled) -> Self {
        BatchError::DeadlinePassed.into()
    }
}
