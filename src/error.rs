//! Everything that can go wrong with a request, as the union of the layers' errors.
//!
//! What is *not* here: status codes (`http::problem`).

use std::time::Duration;

use thiserror::Error;

use crate::batch::BatchError;
use crate::budget::Exhausted;
use crate::draw::EncodeError;
use crate::image::ImageError;
use crate::manifest::Task;

/// A request that was not answered.
#[derive(Debug, Error)]
pub enum ServeError {
    /// A query parameter or JSON field outside what it allows.
    #[error("`{field}`: expected {expected}, got {got}")]
    BadParameter {
        /// The parameter's name.
        field: String,
        /// The values it allows, in words.
        expected: String,
        /// The value found.
        got: String,
    },
    /// A body whose framing is broken: JSON, base64 or multipart.
    #[error("`{field}`: {reason}")]
    BadBody {
        /// Which part of the body.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A body without any picture.
    #[error("the request holds no picture: expected {expected}")]
    NoImage {
        /// What the content type needs.
        expected: &'static str,
    },
    /// More pictures than one request may hold.
    #[error("the request holds more than {limit} pictures")]
    TooManyImages {
        /// The limit.
        limit: usize,
    },
    /// A content type that no route takes.
    #[error(
        "content type `{got}` is not one of image/*, application/octet-stream, multipart/form-data, application/json"
    )]
    UnsupportedMediaType {
        /// What was sent.
        got: String,
    },
    /// A body over the limit.
    #[error("the body is larger than {limit} bytes")]
    BodyTooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// A body that stopped arriving.
    #[error("the body could not be read to its end")]
    BodyInterrupted,
    /// Other requests hold too much of the memory for bodies.
    #[error(transparent)]
    BodyMemory(#[from] Exhausted),
    /// A picture that cannot be used.
    #[error("picture {index}: {source}")]
    Image {
        /// Its position in the request, from 0.
        index: usize,
        /// What is wrong with it.
        source: ImageError,
    },
    /// No loaded model has the name.
    #[error("no model `{name}` is loaded; loaded: {}", .loaded.join(", "))]
    UnknownModel {
        /// The name that was asked for.
        name: String,
        /// The models that are loaded.
        loaded: Vec<String>,
    },
    /// The model answers another task.
    #[error("model `{name}` is a {} model", .task.as_str())]
    WrongTask {
        /// The model.
        name: String,
        /// What it does.
        task: Task,
    },
    /// No model of the task is loaded.
    #[error("no {} model is loaded", .task.as_str())]
    NoModel {
        /// The task.
        task: Task,
    },
    /// A drawn picture that has no file.
    #[error(transparent)]
    Drawn(#[from] EncodeError),
    /// No such route.
    #[error("there is no {path}")]
    NoRoute {
        /// The path.
        path: String,
    },
    /// The route exists for other methods.
    #[error("{path} does not take {method}")]
    MethodNotAllowed {
        /// The path.
        path: String,
        /// The method.
        method: String,
    },
    /// Models are still being loaded.
    #[error("the server is starting")]
    Starting,
    /// The server is shutting down.
    #[error("the server is shutting down")]
    Draining,
    /// The request's deadline passed.
    #[error("the deadline of {} ms passed", .limit.as_millis())]
    DeadlinePassed {
        /// Time that a request may take.
        limit: Duration,
    },
    /// The queue or the network.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// A fault of the server itself.
    #[error("{0}")]
    Internal(&'static str),
}
