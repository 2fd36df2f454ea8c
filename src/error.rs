//! The errors of a request, which include the errors of the layers below.
//!
//! `http::problem` assigns the status codes.

use std::time::Duration;

use onnx_export::text::{shown, shown_error};
use thiserror::Error;

use crate::batch::{BatchError, Unready};
use crate::budget::Exhausted;
use crate::cancel::Cancelled;
use crate::draw::EncodeError;
use crate::image::{ImageError, ImageSize};
use crate::keys::KeyError;
use crate::manifest::Task;
use crate::nearest::did_you_mean;

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
    /// The query has a parameter that the route does not have.
    #[error(
        "unknown parameter `{name}`: {}",
        match .nearest {
            Some(nearest) => format!("did you mean `{nearest}`?"),
            None => format!("the parameters of this route are {}", .known.join(", ")),
        }
    )]
    UnknownParameter {
        /// Name of the parameter, cut to 64 characters.
        name: String,
        /// Names of the route's parameters.
        known: Vec<&'static str>,
        /// The parameter of the route whose name differs little from `name`. `None` if there is none.
        nearest: Option<&'static str>,
    },
    /// The body, or a part of it, is not valid JSON, base64 or multipart, or has an unknown part.
    #[error("cannot read `{field}` of the request: {reason}")]
    BadBody {
        /// Part of the body that cannot be read, such as `images[0].data`.
        field: String,
        /// What that part must be, in words.
        expected: &'static str,
        /// Reason why that part cannot be read.
        reason: String,
    },
    /// The body holds no image.
    #[error("the request holds no image: expected {expected}")]
    NoImage {
        /// What a body of this content type must hold.
        expected: &'static str,
    },
    /// The request holds more images than one request may hold, or than the queue of the model
    /// holds.
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
    /// The body has a content encoding other than gzip.
    #[error(
        "content-encoding `{got}` is not supported: compress the body once with gzip, or send it uncompressed"
    )]
    UnsupportedContentEncoding {
        /// Value of the `Content-Encoding` header, cut to 64 characters.
        got: String,
    },
    /// The body is larger than the limit.
    #[error("the request body is larger than the limit of {limit} bytes")]
    BodyTooLarge {
        /// Maximum size of a body in bytes.
        limit: usize,
    },
    /// The connection failed before the whole body arrived.
    #[error("the request body was interrupted before its end")]
    BodyInterrupted,
    /// The request's body did not arrive completely before the deadline of the request.
    #[error("the body did not arrive within {} ms", .limit.as_millis())]
    BodyTimeout {
        /// Time limit of a request, from its start to its response.
        limit: Duration,
    },
    /// The client sent the request's body at less than the lowest rate.
    #[error(
        "the body arrived at less than {rate} bytes per second on average over {} ms",
        .period.as_millis()
    )]
    BodyTooSlow {
        /// Lowest mean rate in bytes per second.
        rate: u32,
        /// Period over which the rate was measured.
        period: Duration,
    },
    /// Other requests hold so much of the memory for bodies that the body of this request does not
    /// fit.
    #[error("the memory for request bodies is exhausted: {0}")]
    BodyMemory(#[from] Exhausted),
    /// Other responses hold so much of the memory for responses that this request's response does
    /// not fit.
    #[error("the memory for responses is exhausted: {0}")]
    ResponseMemory(Exhausted),
    /// The results of one request need more memory than the server has for all responses together.
    #[error(
        "the results take {size} bytes, over the limit of {limit} bytes for responses (`response_memory_bytes` of \
         the server): send fewer or smaller images in a request"
    )]
    ResponseTooLarge {
        /// Size in bytes of the results up to and including the first that exceeded the limit.
        size: u64,
        /// Memory in bytes that the server has for all responses together.
        limit: u64,
    },
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
        "image {index}: an image of {}x{} pixels is over the limit of {limit} pixels for drawing \
         (`annotate=true`): send a smaller image",
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
    /// An image is so large that a mask of the image's size cannot be returned.
    #[error(
        "image {index}: cannot return a mask of {}x{} pixels, over the limit of {limit} pixels: \
         set `size=logits` or send a smaller image",
        .size.width,
        .size.height
    )]
    MaskTooLarge {
        /// Position of the image in the request, from 0.
        index: usize,
        /// Size in pixels that the image's header states.
        size: ImageSize,
        /// Maximum number of pixels of a mask in a response.
        limit: u64,
    },
    /// Decoding an image, or drawing into it, takes more memory than the server has for images of
    /// that size.
    #[error(
        "image {index}: {work} {}x{} pixels of this file takes {needed} bytes of memory, over the limit of {limit} \
         bytes (`decode_memory_bytes` of the server): send a smaller image{}",
        .size.width,
        .size.height,
        if *.progressive { ", or a JPEG with one scan (not progressive)" } else { "" }
    )]
    TooMuchMemory {
        /// Position of the image in the request, from 0.
        index: usize,
        /// The step that takes the memory, as the error message names it: `decoding` or `drawing
        /// into`.
        work: &'static str,
        /// Size in pixels that the image's header states.
        size: ImageSize,
        /// Whether the file is a JPEG with several scans that takes too much memory to decode; a
        /// JPEG with one scan needs less, because its coefficients are not kept.
        progressive: bool,
        /// Memory in bytes that the step `work` is predicted to take.
        needed: u64,
        /// Memory in bytes that the server has in total for images of this size class: up to 4
        /// megapixels, or more.
        limit: u64,
    },
    /// No served model has the requested name.
    #[error(
        "model `{name}` is not served{}{} served models: {}",
        did_you_mean(.meant.as_deref()),
        if .meant.is_some() { "" } else { ";" },
        .served.join(", ")
    )]
    UnknownModel {
        /// The name in the request, cut to 64 characters.
        name: String,
        /// The model that was probably meant, as `name` or `name@variant`.
        meant: Option<String>,
        /// Served models, as `name@variant`. If there are many, the last element is the number of
        /// further ones, in words.
        served: Vec<String>,
    },
    /// The model does not have the version of the request.
    #[error("model `{model}` has no version `{version}`: its only version is 1")]
    UnknownVersion {
        /// The requested model, as `name@variant`.
        model: String,
        /// The requested version, cut to 64 characters.
        version: String,
    },
    /// The model is being loaded on first use, and no more requests may wait for models.
    #[error(
        "model `{model}` is not loaded yet, and {waiting} requests already wait for models: retry later"
    )]
    ModelLoading {
        /// The requested model, as `name@variant`.
        model: String,
        /// Number of requests that wait.
        waiting: usize,
    },
    /// The model could not be loaded on first use.
    #[error(
        "model `{model}` could not be loaded: the log of the server has the reason; the next attempt is possible in \
         {} ms",
        .retry_after.as_millis()
    )]
    ModelLoadFailed {
        /// The requested model, as `name@variant`.
        model: String,
        /// Time until a request may start another attempt.
        retry_after: Duration,
    },
    /// The files of the model were replaced since the server read its manifest.
    #[error(
        "model `{model}` could not be loaded: its files changed since the server read them: the operator has to reload \
         the model (SIGHUP, `--watch` or the control API)"
    )]
    ModelChanged {
        /// The requested model, as `name@variant`.
        model: String,
        /// Time after which the model may have been reloaded.
        retry_after: Duration,
    },
    /// The model does not accept requests, as a probe of the model found.
    #[error("model `{model}` is not ready: {reason}")]
    ModelNotReady {
        /// The model, as `name@variant`.
        model: String,
        /// Why it is not ready.
        reason: String,
    },
    /// An operator unloaded the model.
    #[error("model `{model}` was unloaded by the operator, who has to load it again")]
    ModelUnloaded {
        /// The requested model, as `name@variant`.
        model: String,
    },
    /// Another operation changes the model.
    #[error("model `{}` is being loaded or unloaded already: retry when that is finished", shown(.model))]
    ModelBusy {
        /// Name of the model.
        model: String,
    },
    /// Requests still use too many instances of the model that were replaced.
    #[error(
        "requests still use {instances} former instances of the model `{}`: retry when these requests have ended",
        shown(.model)
    )]
    ModelInUse {
        /// Name of the model.
        model: String,
        /// Number of instances that were replaced or unloaded.
        instances: usize,
    },
    /// An operator's request to load a model failed.
    #[error("model `{}` could not be loaded: {}", shown(.model), shown_error(.reason))]
    ModelReloadFailed {
        /// The model, as `name` or `name@variant`.
        model: String,
        /// Why it could not be loaded.
        reason: String,
    },
    /// The server has too little memory to load the model on first use.
    #[error(
        "model `{model}` could not be loaded: the server has too little memory left to load it; the next attempt is \
         possible in {} ms",
        .retry_after.as_millis()
    )]
    ModelMemory {
        /// The requested model, as `name@variant`.
        model: String,
        /// Time until a request may start another attempt.
        retry_after: Duration,
    },
    /// The memory for tensors is too small for the model in addition to the loaded ones.
    #[error(
        "model `{model}` could not be loaded: the memory for tensors is too small for it in addition to the loaded \
         models: the operator has to unload a model, or to set a larger `tensor_memory_bytes`"
    )]
    ModelTensorMemory {
        /// The requested model, as `name@variant`.
        model: String,
        /// Time after which a model may have been unloaded.
        retry_after: Duration,
    },
    /// The requested model has another task than the route serves.
    #[error(
        "model `{name}` is a {} model, and this route serves {} models",
        .task.as_str(),
        .expected.as_str()
    )]
    WrongTask {
        /// The requested model, as `name@variant`.
        name: String,
        /// Task of the requested model.
        task: Task,
        /// Task of the models that the route serves.
        expected: Task,
    },
    /// The classification model has no pooled features that could be returned.
    #[error(
        "model `{model}` has no embedding: its network has no pooling before a classifier; name the features of its \
         ONNX file `embedding`, or choose another model"
    )]
    NoEmbedding {
        /// The model, as `name@variant`.
        model: String,
    },
    /// No model of the route's task is served.
    #[error(
        "no {} model is served: `sightline models` lists the catalogue, `sightline export NAME --weights \
         FILE -o DIR/NAME` creates a model, `sightline serve --models DIR` serves it",
        .task.as_str()
    )]
    NoModel {
        /// Task of the route.
        task: Task,
    },
    /// The drawn image cannot be encoded as a file.
    #[error(transparent)]
    Drawn(EncodeError),
    /// The path is not a route.
    #[error("no route `{path}`: /openapi.yaml lists all routes")]
    NoRoute {
        /// Path of the request.
        path: String,
    },
    /// The path is no method of gRPC.
    #[error(
        "no method `{path}`: the methods of `inference.GRPCInferenceService` are those that reflection lists"
    )]
    NoMethod {
        /// Path of the call.
        path: String,
    },
    /// The listener serves gRPC, and the request is no call of gRPC.
    #[error(
        "this port serves gRPC: send the content type application/grpc over HTTP/2, or use the port of `--listen`"
    )]
    NotGrpc,
    /// The listener has TLS, and the request arrived without it.
    #[error("this port requires TLS: use https://")]
    HttpsRequired,
    /// The path is a route of the admin listener, but not of this one.
    #[error(
        "no route `{path}` on this listener: models are controlled on the admin listener, `--admin-listen ADDR`"
    )]
    ControlElsewhere {
        /// Path of the request.
        path: String,
    },
    /// A web page sent a request that changes the served models.
    #[error(
        "a foreign web page must not load or unload models: the request has the header `{header}` of a browser; send it \
         without, for example with curl, or use `/status` of the admin listener at an IP address or localhost"
    )]
    CrossOrigin {
        /// The header by which the browser tells that a page sent the request.
        header: &'static str,
    },
    /// The route does not support the method.
    #[error("route `{path}` does not support the method {method}: {}", .allowed)]
    MethodNotAllowed {
        /// How to request the route.
        allowed: &'static str,
        /// Path of the route.
        path: String,
        /// HTTP method of the request.
        method: String,
    },
    /// Models are still being loaded.
    #[error("the server is starting: models are being loaded")]
    Starting,
    /// No loaded model is ready, so the server is not ready.
    #[error(
        "no model is ready: {}",
        .models.iter().map(|(model, reason)| format!("{model}: {reason}")).collect::<Vec<_>>().join("; ")
    )]
    NoModelReady {
        /// The loaded models, as `name@variant`, and why each is not ready.
        models: Vec<(String, Unready)>,
    },
    /// The server rejects new requests before it stops.
    #[error("the server is shutting down")]
    Draining,
    /// The request was not finished before its deadline.
    #[error("the request was not finished within its deadline of {} ms", .limit.as_millis())]
    DeadlinePassed {
        /// Time that a request may take.
        limit: Duration,
    },
    /// The API key of the request is missing or invalid, or exceeds its limits.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The queue rejected an image, or inference failed.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// A fault of the server. The text says what failed; it is for the log, and clients do not see
    /// it.
    #[error("{0}")]
    Internal(&'static str),
}

impl ServeError {
    /// Returns the error for a request whose image `index` (from 0) failed with `error`. Cancelled
    /// work is not an error of the image and is reported as a passed deadline; see
    /// [`ServeError::from`].
    pub fn image(index: usize, error: ImageError) -> Self {
        match error {
            ImageError::Cancelled(cancelled) => cancelled.into(),
            source => Self::Image { index, source },
        }
    }

    /// Returns the error for results that do not fit into the memory for responses:
    /// `ResponseTooLarge` if the results alone exceed this memory, and `ResponseMemory` if other
    /// responses hold too much of it.
    pub(crate) fn response_memory(exhausted: Exhausted) -> Self {
        if exhausted.requested > exhausted.total {
            return Self::ResponseTooLarge {
                size: exhausted.requested,
                limit: exhausted.total,
            };
        }
        Self::ResponseMemory(exhausted)
    }
}

impl From<EncodeError> for ServeError {
    fn from(error: EncodeError) -> Self {
        match error {
            EncodeError::Cancelled(cancelled) => cancelled.into(),
            error => Self::Drawn(error),
        }
    }
}

impl From<Cancelled> for ServeError {
    /// Reports cancelled work as a passed deadline. Work is also cancelled if its client
    /// disconnects, but then nobody receives the response.
    fn from(_: Cancelled) -> Self {
        BatchError::DeadlinePassed.into()
    }
}

/// Returns the messages of an error and its causes, joined by `: `. A cause is left out if its message is part of the
/// messages before it.
pub fn explain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = String::new();
    for cause in std::iter::successors(Some(error), |cause| cause.source()) {
        let cause = cause.to_string();
        let cause = cause.trim_end();
        if text.contains(cause) {
            continue;
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(cause);
    }
    text
}
