//! From errors to HTTP: the only file that chooses status codes. RFC 9457 problem documents.

use std::sync::Arc;
use std::time::Duration;

use axum::http::header::{CONNECTION, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::batch::BatchError;
use crate::draw::EncodeError;
use crate::error::ServeError;
use crate::image::ImageError;
use crate::metrics::Rejection;
use crate::registry::LoadedModel;

/// What a client is told to wait when nothing better is known.
const SHORT_WAIT: Duration = Duration::from_secs(1);

/// A problem document.
#[derive(Clone, Serialize)]
pub(super) struct Problem {
    #[serde(rename = "type")]
    kind: String,
    title: &'static str,
    status: u16,
    /// Stable, for programs.
    code: &'static str,
    /// For people.
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expected: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    got: Option<String>,
    #[serde(skip)]
    retry_after: Option<Duration>,
    /// The connection ends with this answer, since the request's body may be unread.
    #[serde(skip)]
    last: bool,
    /// The metric that counts it, where the request was turned away before any work.
    #[serde(skip)]
    pub(super) rejection: Option<Rejection>,
    /// The model that the request was for, where it is known.
    #[serde(skip)]
    pub(super) model: Option<Arc<LoadedModel>>,
    /// What the log is told and the client is not.
    #[serde(skip)]
    pub(super) hidden: Option<String>,
}

impl Problem {
    fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("urn:sightline:problem:{code}"),
            title: status.canonical_reason().unwrap_or_default(),
            status: status.as_u16(),
            code,
            detail: detail.into(),
            field: None,
            expected: None,
            got: None,
            retry_after: None,
            last: false,
            rejection: None,
            model: None,
            hidden: None,
        }
    }

    fn about(mut self, field: impl Into<String>, expected: impl Into<String>) -> Self {
        (self.field, self.expected) = (Some(field.into()), Some(expected.into()));
        self
    }

    fn got(mut self, got: impl Into<String>) -> Self {
        self.got = Some(got.into());
        self
    }

    fn retry(mut self, after: Duration, rejection: Rejection) -> Self {
        (self.retry_after, self.rejection) = (Some(after), Some(rejection));
        self
    }

    /// The same, with the model that the request was for.
    pub(super) fn of(mut self, model: &Arc<LoadedModel>) -> Self {
        self.model = Some(Arc::clone(model));
        self
    }

    /// The stable code.
    pub(super) fn code(&self) -> &'static str {
        self.code
    }

    /// A fault of the server: the client learns that it happened, the log learns what.
    pub(super) fn internal(hidden: impl Into<String>) -> Self {
        let detail = "the server failed on this request; its log has the request id";
        let mut problem = Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail);
        problem.hidden = Some(hidden.into());
        problem
    }
}

impl From<ServeError> for Problem {
    fn from(error: ServeError) -> Self {
        let detail = error.to_string();
        match error {
            ServeError::BadParameter {
                field,
                expected,
                got,
            } => {
                let problem = Self::new(StatusCode::BAD_REQUEST, "bad_parameter", detail);
                problem.about(field, expected).got(got)
            }
            ServeError::BadBody { field, .. } => {
                let problem = Self::new(StatusCode::BAD_REQUEST, "bad_body", detail);
                problem.about(field, "a body as its content type says")
            }
            ServeError::NoImage { expected } => {
                Self::new(StatusCode::BAD_REQUEST, "no_image", detail).about("body", expected)
            }
            ServeError::TooManyImages { limit } => {
                let problem = Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_many_images", detail);
                problem.about("images", format!("at most {limit}"))
            }
            ServeError::UnsupportedMediaType { got } => {
                let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
                let expected =
                    "image/*, application/octet-stream, multipart/form-data or application/json";
                let detail = if got == "application/x-www-form-urlencoded" {
                    format!("{detail}; curl sends this unless told: -H 'content-type: image/jpeg'")
                } else {
                    detail
                };
                Self::new(status, "unsupported_media_type", detail)
                    .about("content-type", expected)
                    .got(got)
            }
            ServeError::BodyTooLarge { limit } => {
                let problem = Self::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail);
                problem.about("body", format!("at most {limit} bytes"))
            }
            ServeError::BodyInterrupted => {
                Self::new(StatusCode::BAD_REQUEST, "body_interrupted", detail)
            }
            ServeError::BodyMemory(_) => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, "body_memory", detail)
                    .retry(SHORT_WAIT, Rejection::body_memory)
            }
            ServeError::Image { index, source } => image(index, &source, detail),
            ServeError::UnknownModel { name, loaded } => {
                let problem = Self::new(StatusCode::NOT_FOUND, "unknown_model", detail);
                problem.about("model", loaded.join(", ")).got(name)
            }
            ServeError::WrongTask { name, task } => {
                let route = super::route_of(task);
                let detail = format!("{detail}, which {route} serves");
                let problem = Self::new(StatusCode::NOT_FOUND, "wrong_task", detail);
                problem
                    .about("model", format!("a model for {route}"))
                    .got(name)
            }
            ServeError::NoModel { task } => {
                let advice = format!(
                    "{detail}; `sightline models` lists those of the catalogue, \
                     `sightline export` makes one, `sightline serve --model NAME` loads it"
                );
                Self::new(StatusCode::NOT_FOUND, "no_model", advice)
                    .about("model", format!("a loaded {} model", task.as_str()))
            }
            ServeError::Drawn(EncodeError::Size { .. }) => {
                let problem = Self::new(StatusCode::BAD_REQUEST, "bad_parameter", detail);
                problem.about("accept", "image/png for a picture of this size")
            }
            ServeError::Drawn(EncodeError::Encoder { .. }) => Self::internal(detail),
            ServeError::NoRoute { .. } => Self::new(StatusCode::NOT_FOUND, "no_route", detail),
            ServeError::MethodNotAllowed { .. } => {
                Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
            }
            ServeError::Starting => Self::new(StatusCode::SERVICE_UNAVAILABLE, "starting", detail)
                .retry(SHORT_WAIT, Rejection::starting),
            ServeError::Draining => Self::new(StatusCode::SERVICE_UNAVAILABLE, "draining", detail)
                .retry(SHORT_WAIT, Rejection::draining),
            ServeError::DeadlinePassed { .. } => {
                let mut problem = deadline(detail);
                problem.last = true;
                problem
            }
            ServeError::Batch(error) => batch(&error, detail),
            ServeError::Internal(reason) => Self::internal(reason),
        }
    }
}

fn image(index: usize, error: &ImageError, detail: String) -> Problem {
    let (status, code) = match error {
        ImageError::UnknownFormat => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unknown_image_format"),
        ImageError::UnsupportedFeature { .. } => (
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_image_feature",
        ),
        ImageError::TooManyPixels { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "too_many_pixels"),
        ImageError::ResizedTooLarge { .. } => {
            (StatusCode::PAYLOAD_TOO_LARGE, "image_too_elongated")
        }
        ImageError::Empty => (StatusCode::UNPROCESSABLE_ENTITY, "empty_image"),
        ImageError::Damaged { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "damaged_image"),
    };
    let expected = match error {
        ImageError::TooManyPixels { limit, .. } => format!("at most {limit} pixels"),
        ImageError::ResizedTooLarge { limit, .. } => {
            format!("an aspect that keeps the resized picture within {limit} pixels")
        }
        _ => "a whole JPEG, PNG, WebP, BMP or GIF".to_owned(),
    };
    Problem::new(status, code, detail).about(format!("images[{index}]"), expected)
}

fn batch(error: &BatchError, detail: String) -> Problem {
    match error {
        BatchError::QueueFull { retry_after, .. } => {
            Problem::new(StatusCode::TOO_MANY_REQUESTS, "queue_full", detail)
                .retry(*retry_after, Rejection::queue_full)
        }
        BatchError::DeadlinePassed => deadline(detail),
        BatchError::Closed => Problem::new(StatusCode::SERVICE_UNAVAILABLE, "draining", detail)
            .retry(SHORT_WAIT, Rejection::draining),
        BatchError::Engine(_) | BatchError::Panicked => Problem::internal(detail),
    }
}

fn deadline(detail: String) -> Problem {
    let mut problem = Problem::new(StatusCode::GATEWAY_TIMEOUT, "deadline_passed", detail);
    problem.rejection = Some(Rejection::deadline);
    problem
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if let Some(after) = self.retry_after {
            let seconds = after.as_secs_f64().ceil().max(1.0) as u64;
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.last {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response.extensions_mut().insert(self);
        response
    }
}
