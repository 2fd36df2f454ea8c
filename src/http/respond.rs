//! Converts the results of a request to its HTTP response.

use std::sync::Arc;
use std::time::Instant;

use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Serialize;

use super::middleware::millis;
use crate::budget::Permit;
use crate::error::ServeError;
use crate::metrics::Stage;
use crate::pipeline::{self, RequestTiming, Timing};
use crate::registry::LoadedModel;

/// The model and the stage times of a request. The handler passes them to the middleware as an
/// extension of the response.
#[derive(Clone)]
pub(crate) struct Served {
    pub(crate) model: Arc<LoadedModel>,
    pub(crate) timing: RequestTiming,
}

/// A finished response and what metrics record of it.
pub(super) struct Finished {
    pub(super) served: Served,
    response: Response,
}

impl Finished {
    /// Adds a header to the response.
    pub(super) fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.response.headers_mut().insert(name, value);
        self
    }
}

impl IntoResponse for Finished {
    fn into_response(self) -> Response {
        let mut response = self.response;
        response.extensions_mut().insert(self.served);
        response
    }
}

/// The JSON body of a response.
#[derive(Serialize)]
struct Body<'a, R> {
    model: &'a str,
    variant: &'a str,
    results: Vec<R>,
    timing_ms: TimingMs,
}

/// Time of each stage in milliseconds. The times of admission, of receiving the body and of encoding are only in
/// the `Server-Timing` header, because this JSON is written before encoding ends.
#[derive(Serialize)]
struct TimingMs {
    decode: f64,
    preprocess: f64,
    queue: f64,
    inference: f64,
    postprocess: f64,
}

impl From<Timing> for TimingMs {
    fn from(timing: Timing) -> Self {
        Self {
            decode: millis(timing[Stage::decode]),
            preprocess: millis(timing[Stage::preprocess]),
            queue: millis(timing[Stage::queue]),
            inference: millis(timing[Stage::inference]),
            postprocess: millis(timing[Stage::postprocess]),
        }
    }
}

/// Returns the JSON response with the time of each stage and the results. `result` converts each
/// result to the type that is written as JSON.
pub(super) fn respond<T, R: Serialize>(
    response: pipeline::Response<T>,
    result: impl Fn(T) -> R,
) -> Result<Finished, ServeError> {
    let (model, timing) = (Arc::clone(&response.model), response.timing.total());
    respond_as(response, |results| Body {
        model: &model.manifest.name,
        variant: &model.variant,
        results: results.into_iter().map(result).collect(),
        timing_ms: timing.into(),
    })
}

/// Returns the JSON response that `body` makes of the results.
pub(super) fn respond_as<T, B: Serialize>(
    response: pipeline::Response<T>,
    body: impl FnOnce(Vec<T>) -> B,
) -> Result<Finished, ServeError> {
    let pipeline::Response {
        model,
        results,
        mut timing,
        memory,
    } = response;
    let started = Instant::now();
    let body = serde_json::to_vec(&body(results));
    let body = body.map_err(|_| ServeError::Internal("the results cannot be written as JSON"))?;
    timing.add_encoding(started.elapsed());
    let content = Content {
        media_type: "application/json",
        body,
        memory,
    };
    finish(Served { model, timing }, content)
}

/// Returns a response whose body is an image file of this media type.
pub(super) fn respond_image<T>(
    response: pipeline::Response<T>,
    media_type: &'static str,
    body: Vec<u8>,
) -> Result<Finished, ServeError> {
    let pipeline::Response {
        model,
        timing,
        memory,
        ..
    } = response;
    let content = Content {
        media_type,
        body,
        memory,
    };
    finish(Served { model, timing }, content)
}

/// The body of a response, and the reserved memory, which is released when the body was sent or
/// dropped.
pub(super) struct Content {
    pub(super) media_type: &'static str,
    pub(super) body: Vec<u8>,
    pub(super) memory: Permit,
}

impl AsRef<[u8]> for Content {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

/// Creates the response. The memory of its body stays reserved until the body was sent.
pub(super) fn finish(served: Served, mut content: Content) -> Result<Finished, ServeError> {
    let grown = content.memory.grow_to(content.body.len() as u64);
    grown.map_err(ServeError::response_memory)?;
    let media_type = HeaderValue::from_static(content.media_type);
    let body = Bytes::from_owner(content);
    let response = ([(CONTENT_TYPE, media_type)], body).into_response();
    Ok(Finished { served, response })
}
