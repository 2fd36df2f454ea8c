//! Converts errors to HTTP responses with RFC 9457 problem documents. Only this file chooses the
//! status codes of errors.

use std::sync::Arc;
use std::time::Duration;

use axum::http::header::{CONNECTION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::batch::BatchError;
use crate::draw::EncodeError;
use crate::error::ServeError;
use crate::image::ImageError;
use crate::keys::KeyError;
use crate::registry::Entry;

/// `Retry-After` of rejections for which the waiting time cannot be estimated.
const SHORT_WAIT: Duration = Duration::from_secs(1);

/// Declares the codes of problem documents, each with the HTTP status of its responses.
macro_rules! codes {
    ($($code:ident = $status:ident,)*) => {
        /// The `code` of a problem document. Codes are part of the contract and never change.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
        #[expect(non_camel_case_types, reason = "variants are named as the JSON codes")]
        pub(crate) enum Code {
            $($code,)*
        }

        /// Every code that a problem document can have, and the HTTP status of its responses.
        pub const CODES: &[(&str, u16)] = &[$((stringify!($code), StatusCode::$status.as_u16()),)*];

        impl Code {
            pub(crate) fn as_str(self) -> &'static str {
                match self {
                    $(Self::$code => stringify!($code),)*
                }
            }

            fn status(self) -> StatusCode {
                match self {
                    $(Self::$code => StatusCode::$status,)*
                }
            }
        }
    };
}

codes! {
    bad_parameter = BAD_REQUEST,
    bad_body = BAD_REQUEST,
    no_image = BAD_REQUEST,
    body_interrupted = BAD_REQUEST,
    https_required = BAD_REQUEST,
    unauthorized = UNAUTHORIZED,
    invalid_api_key = UNAUTHORIZED,
    cross_origin = FORBIDDEN,
    body_timeout = REQUEST_TIMEOUT,
    wrong_task = NOT_FOUND,
    unknown_model = NOT_FOUND,
    no_model = NOT_FOUND,
    no_embedding = NOT_FOUND,
    no_route = NOT_FOUND,
    method_not_allowed = METHOD_NOT_ALLOWED,
    model_busy = CONFLICT,
    body_too_large = PAYLOAD_TOO_LARGE,
    too_many_images = PAYLOAD_TOO_LARGE,
    too_many_pixels = PAYLOAD_TOO_LARGE,
    too_many_pixels_per_byte = PAYLOAD_TOO_LARGE,
    too_much_memory = PAYLOAD_TOO_LARGE,
    response_too_large = PAYLOAD_TOO_LARGE,
    image_too_elongated = PAYLOAD_TOO_LARGE,
    unsupported_media_type = UNSUPPORTED_MEDIA_TYPE,
    unknown_image_format = UNSUPPORTED_MEDIA_TYPE,
    unsupported_image_feature = UNSUPPORTED_MEDIA_TYPE,
    empty_image = UNPROCESSABLE_ENTITY,
    damaged_image = UNPROCESSABLE_ENTITY,
    queue_full = TOO_MANY_REQUESTS,
    deadline_unreachable = TOO_MANY_REQUESTS,
    body_memory = TOO_MANY_REQUESTS,
    response_memory = TOO_MANY_REQUESTS,
    key_rate = TOO_MANY_REQUESTS,
    key_concurrency = TOO_MANY_REQUESTS,
    internal = INTERNAL_SERVER_ERROR,
    model_stuck = SERVICE_UNAVAILABLE,
    model_loading = SERVICE_UNAVAILABLE,
    model_load_failed = SERVICE_UNAVAILABLE,
    model_memory = SERVICE_UNAVAILABLE,
    model_unloaded = SERVICE_UNAVAILABLE,
    model_not_ready = SERVICE_UNAVAILABLE,
    starting = SERVICE_UNAVAILABLE,
    draining = SERVICE_UNAVAILABLE,
    deadline_passed = GATEWAY_TIMEOUT,
}

/// A problem document, the JSON body of an error response (RFC 9457).
#[derive(Clone, Serialize)]
pub(crate) struct Problem {
    #[serde(rename = "type")]
    kind: String,
    title: &'static str,
    status: u16,
    /// Kind of the error: a name for programs that never changes.
    pub(crate) code: Code,
    /// Description for people of what failed in this request.
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expected: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    got: Option<String>,
    /// Time in the `Retry-After` header. `None` if the response does not have this header.
    #[serde(skip)]
    retry_after: Option<Duration>,
    /// Value of the `WWW-Authenticate` header. `None` if the response does not have this header.
    #[serde(skip)]
    challenge: Option<&'static str>,
    /// Whether the server closes the connection after the response, because a part of the request
    /// may be unread or because the server is shutting down.
    #[serde(skip)]
    closes: bool,
    /// The model that the request was for. `None` if the request failed before its model was known.
    #[serde(skip)]
    pub(super) model: Option<Arc<Entry>>,
    /// Cause of a fault of the server, for the log; clients do not see it. `None` if the server is
    /// not at fault.
    #[serde(skip)]
    pub(super) hidden: Option<String>,
}

/// The JSON body of an error of the Open Inference Protocol. Fields other than `error` are extensions.
#[derive(Serialize)]
struct OpenInferenceError<'a> {
    error: String,
    code: Code,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expected: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    got: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
}

impl Problem {
    fn new(code: Code, detail: impl Into<String>) -> Self {
        let status = code.status();
        Self {
            kind: format!("urn:sightline:problem:{}", code.as_str()),
            title: status.canonical_reason().unwrap_or_default(),
            status: status.as_u16(),
            code,
            detail: detail.into(),
            field: None,
            expected: None,
            got: None,
            retry_after: None,
            challenge: None,
            closes: false,
            model: None,
            hidden: None,
        }
    }

    /// Sets `field`, the part of the request that is wrong, and `expected`, the values that this
    /// part may have.
    fn about(mut self, field: impl Into<String>, expected: impl Into<String>) -> Self {
        (self.field, self.expected) = (Some(field.into()), Some(expected.into()));
        self
    }

    /// Sets the rejected value.
    fn got(mut self, got: impl Into<String>) -> Self {
        self.got = Some(got.into());
        self
    }

    /// Sets the time after which the client may retry.
    fn retry(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// Sets how the client can authenticate.
    fn challenge(mut self, challenge: &'static str) -> Self {
        self.challenge = Some(challenge);
        self
    }

    /// Makes the server close the connection after the response.
    fn closing(mut self) -> Self {
        self.closes = true;
        self
    }

    /// Sets the model that the request was for, for logs and metrics.
    pub(crate) fn of(mut self, model: Arc<Entry>) -> Self {
        self.model = Some(model);
        self
    }

    /// Returns the HTTP status of the error.
    pub(crate) fn status(&self) -> StatusCode {
        self.code.status()
    }

    /// Returns the description of what failed.
    pub(crate) fn detail(&self) -> &str {
        &self.detail
    }

    /// Returns the time after which the client may retry. `None` if it need not wait, or should not retry.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// Returns the text of the error for clients of the Open Inference Protocol. `loads` states whether the request is to
    /// load a model.
    pub(crate) fn open_inference_text(&self, loads: bool) -> String {
        match self.code {
            _ if loads => format!("failed to load: {}", self.detail),
            Code::unknown_model => format!("Request for unknown model: {}", self.detail),
            _ => self.detail.clone(),
        }
    }

    /// Returns the body of the error for clients of the Open Inference Protocol, who read the text `error` only.
    /// `request_id` is the id of the request, if it has one; `loads` states whether the request is to load a model. The
    /// texts begin as clients expect them.
    pub(super) fn open_inference(&self, request_id: Option<&str>, loads: bool) -> Vec<u8> {
        let body = OpenInferenceError {
            error: self.open_inference_text(loads),
            code: self.code,
            field: self.field.as_deref(),
            expected: self.expected.as_deref(),
            got: self.got.as_deref(),
            request_id,
        };
        serde_json::to_vec(&body).unwrap_or_default()
    }

    /// Creates the problem for a fault of the server. The log gets the cause `hidden`; the client
    /// is told only that the log has it.
    pub(crate) fn internal(hidden: impl Into<String>) -> Self {
        let detail = "the server failed on this request: look for the request id in its log";
        let mut problem = Self::new(Code::internal, detail);
        problem.hidden = Some(hidden.into());
        problem
    }
}

impl From<ServeError> for Problem {
    #[expect(
        clippy::too_many_lines,
        reason = "a table with an entry for each error"
    )]
    fn from(error: ServeError) -> Self {
        let detail = error.to_string();
        match error {
            ServeError::BadParameter {
                field,
                expected,
                got,
            } => Self::new(Code::bad_parameter, detail)
                .about(field, expected)
                .got(got),
            ServeError::UnknownParameter { name, known, .. } => {
                Self::new(Code::bad_parameter, detail)
                    .about(name.clone(), known.join(", "))
                    .got(name)
            }
            ServeError::BadBody {
                field, expected, ..
            } => Self::new(Code::bad_body, detail).about(field, expected),
            ServeError::NoImage { expected } => {
                Self::new(Code::no_image, detail).about("body", expected)
            }
            ServeError::TooManyImages { limit } => {
                Self::new(Code::too_many_images, detail).about("images", format!("at most {limit}"))
            }
            ServeError::UnsupportedMediaType { got } => media_type(got, detail),
            ServeError::UnsupportedContentEncoding { got } => {
                Self::new(Code::unsupported_media_type, detail)
                    .about("content-encoding", "gzip, identity, or no content-encoding")
                    .got(got)
            }
            ServeError::BodyTooLarge { limit } => Self::new(Code::body_too_large, detail)
                .about("body", format!("at most {limit} bytes")),
            ServeError::BodyInterrupted => Self::new(Code::body_interrupted, detail),
            ServeError::BodyTimeout { .. } | ServeError::BodyTooSlow { .. } => {
                Self::new(Code::body_timeout, detail).closing()
            }
            ServeError::BodyMemory(_) => Self::new(Code::body_memory, detail).retry(SHORT_WAIT),
            ServeError::ResponseMemory(_) => {
                Self::new(Code::response_memory, detail).retry(SHORT_WAIT)
            }
            ServeError::ResponseTooLarge { limit, .. } => {
                Self::new(Code::response_too_large, detail)
                    .about("images", format!("results of at most {limit} bytes"))
            }
            ServeError::TooMuchMemory { index, limit, .. } => {
                Self::new(Code::too_much_memory, detail).about(
                    format!("images[{index}]"),
                    format!("an image that takes at most {limit} bytes of memory"),
                )
            }
            ServeError::Image { index, source } => image(index, &source, detail),
            ServeError::TooLargeToDraw { index, limit, .. } => {
                Self::new(Code::too_many_pixels, detail).about(
                    format!("images[{index}]"),
                    format!("at most {limit} pixels with `annotate=true`"),
                )
            }
            ServeError::MaskTooLarge { index, limit, .. } => {
                Self::new(Code::too_many_pixels, detail).about(
                    format!("images[{index}]"),
                    format!("at most {limit} pixels, or `size=logits`"),
                )
            }
            ServeError::UnknownModel { name, served, .. } => Self::new(Code::unknown_model, detail)
                .about("model", served.join(", "))
                .got(name),
            ServeError::UnknownVersion { version, .. } => Self::new(Code::unknown_model, detail)
                .about("version", "1")
                .got(version),
            ServeError::ModelLoading { .. } => {
                Self::new(Code::model_loading, detail).retry(SHORT_WAIT)
            }
            ServeError::ModelNotReady { .. } => Self::new(Code::model_not_ready, detail),
            ServeError::ModelUnloaded { .. } => Self::new(Code::model_unloaded, detail),
            ServeError::ModelBusy { .. } | ServeError::ModelInUse { .. } => {
                Self::new(Code::model_busy, detail).retry(SHORT_WAIT)
            }
            ServeError::ModelReloadFailed { .. } => Self::new(Code::model_load_failed, detail),
            ServeError::ModelLoadFailed { retry_after, .. }
            | ServeError::ModelChanged { retry_after, .. } => {
                Self::new(Code::model_load_failed, detail).retry(retry_after)
            }
            ServeError::ModelMemory { retry_after, .. }
            | ServeError::ModelTensorMemory { retry_after, .. } => {
                Self::new(Code::model_memory, detail).retry(retry_after)
            }
            ServeError::WrongTask {
                name,
                task,
                expected,
            } => {
                let route = super::route_of(task);
                let detail = format!("{detail}: send the request to {route}");
                Self::new(Code::wrong_task, detail)
                    .about("model", format!("a {} model", expected.as_str()))
                    .got(format!("{name}, a {} model", task.as_str()))
            }
            ServeError::NoEmbedding { model } => Self::new(Code::no_embedding, detail)
                .about("model", "a classification model with an embedding")
                .got(model),
            ServeError::NoModel { task } => Self::new(Code::no_model, detail)
                .about("model", format!("a served {} model", task.as_str())),
            ServeError::Drawn(EncodeError::Size { .. }) => Self::new(Code::bad_parameter, detail)
                .about("accept", "image/png for an image of this size"),
            ServeError::Drawn(EncodeError::Encoder { .. }) => Self::internal(detail),
            ServeError::Drawn(EncodeError::Cancelled(_)) => {
                Self::new(Code::deadline_passed, detail)
            }
            ServeError::HttpsRequired => Self::new(Code::https_required, detail).closing(),
            ServeError::NotGrpc => Self::new(Code::unsupported_media_type, detail)
                .about("content-type", "application/grpc over HTTP/2"),
            ServeError::NoRoute { .. }
            | ServeError::NoMethod { .. }
            | ServeError::ControlElsewhere { .. } => Self::new(Code::no_route, detail),
            ServeError::CrossOrigin { header } => {
                Self::new(Code::cross_origin, detail).about(header, "no such header of a browser")
            }
            ServeError::MethodNotAllowed { .. } => Self::new(Code::method_not_allowed, detail),
            ServeError::Starting => Self::new(Code::starting, detail).retry(SHORT_WAIT),
            ServeError::NoModelReady { .. } => {
                Self::new(Code::model_stuck, detail).retry(SHORT_WAIT)
            }
            ServeError::Draining => draining(detail),
            ServeError::DeadlinePassed { .. } => Self::new(Code::deadline_passed, detail),
            ServeError::Key(error) => key(&error, detail),
            ServeError::Batch(error) => batch(&error, detail),
            ServeError::Internal(reason) => Self::internal(reason),
        }
    }
}

/// Returns the problem for an unsupported content type.
fn media_type(got: String, mut detail: String) -> Problem {
    if got == "application/x-www-form-urlencoded" {
        detail.push_str("; curl sends this type by default: add -H 'content-type: image/jpeg'");
    }
    let expected = "image/*, application/octet-stream, multipart/form-data or application/json";
    Problem::new(Code::unsupported_media_type, detail)
        .about("content-type", expected)
        .got(got)
}

/// Returns the problem for image `index` of the request.
fn image(index: usize, error: &ImageError, detail: String) -> Problem {
    let code = match error {
        ImageError::UnknownFormat { .. } => Code::unknown_image_format,
        ImageError::UnsupportedFeature { .. } => Code::unsupported_image_feature,
        ImageError::TooManyPixels { .. } => Code::too_many_pixels,
        ImageError::TooManyPixelsPerByte { .. } => Code::too_many_pixels_per_byte,
        ImageError::ResizedTooLarge { .. } => Code::image_too_elongated,
        ImageError::Empty => Code::empty_image,
        ImageError::Damaged { .. } => Code::damaged_image,
        ImageError::Cancelled(_) => return Problem::new(Code::deadline_passed, detail),
    };
    let expected = match error {
        ImageError::TooManyPixels { limit, .. } => format!("at most {limit} pixels"),
        ImageError::TooManyPixelsPerByte { limit, .. } => {
            format!("at most {limit} pixels for each byte of the file")
        }
        ImageError::ResizedTooLarge { limit, .. } => {
            format!("an aspect ratio that keeps the resized image within {limit} pixels")
        }
        _ => "a whole JPEG, PNG, WebP, BMP or GIF".to_owned(),
    };
    Problem::new(code, detail).about(format!("images[{index}]"), expected)
}

/// Returns the problem for a request whose API key is not accepted. The presented key is never part of it.
fn key(error: &KeyError, detail: String) -> Problem {
    const FIELD: &str = "authorization";
    match error {
        KeyError::Missing => Problem::new(Code::unauthorized, detail)
            .about(FIELD, "Bearer KEY")
            .challenge(r#"Bearer realm="sightline""#),
        KeyError::Invalid => Problem::new(Code::invalid_api_key, detail)
            .about(FIELD, "Bearer and a valid API key")
            .challenge(r#"Bearer realm="sightline", error="invalid_token""#),
        KeyError::Conflict => Problem::new(Code::bad_parameter, detail)
            .about("x-api-key", "the API key of `authorization`, or no header"),
        KeyError::Rate { retry_after, .. } => {
            Problem::new(Code::key_rate, detail).retry(*retry_after)
        }
        KeyError::Concurrency { .. } => {
            Problem::new(Code::key_concurrency, detail).retry(SHORT_WAIT)
        }
    }
}

/// Returns the problem for a request that arrives while the server is shutting down. The server
/// closes the connection after this response, so that the client's retry can reach another server.
fn draining(detail: String) -> Problem {
    Problem::new(Code::draining, detail)
        .retry(SHORT_WAIT)
        .closing()
}

/// Returns the problem for an error of the queue or of inference.
fn batch(error: &BatchError, detail: String) -> Problem {
    match error {
        BatchError::QueueFull { retry_after, .. }
        | BatchError::LongQueueFull { retry_after, .. } => {
            Problem::new(Code::queue_full, detail).retry(*retry_after)
        }
        BatchError::DeadlineUnreachable { wait, .. } => {
            Problem::new(Code::deadline_unreachable, detail).retry(*wait)
        }
        BatchError::NoWorker { .. } => Problem::new(Code::model_stuck, detail).retry(SHORT_WAIT),
        BatchError::DeadlinePassed => Problem::new(Code::deadline_passed, detail),
        BatchError::Closed => draining(detail),
        BatchError::Engine(_)
        | BatchError::OutputCount { .. }
        | BatchError::Panicked
        | BatchError::NoReply => Problem::internal(detail),
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = (self.code.status(), body).into_response();
        let headers = response.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if let Some(after) = self.retry_after {
            let seconds = after.as_secs_f64().ceil().max(1.0) as u64;
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(challenge) = self.challenge {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        if self.closes {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response.extensions_mut().insert(self);
        response
    }
}
