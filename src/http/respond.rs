//! From an answer to its bytes.

use std::sync::Arc;
use std::time::Instant;

use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Serialize;

use super::middleware::millis;
use super::problem::Problem;
use crate::budget::Permit;
use crate::error::ServeError;
use crate::metrics::Stage;
use crate::pipeline::{Answer, Timing};
use crate::registry::LoadedModel;

/// What a handler tells the middleware about an answer, through the response's extensions.
#[derive(Clone)]
pub(super) struct Served {
    pub(super) model: Arc<LoadedModel>,
    pub(super) timing: Timing,
}

/// The body of an answer.
#[derive(Serialize)]
struct Body<'a, R> {
    model: &'a str,
    variant: &'a str,
    results: Vec<R>,
    timing_ms: TimingMs,
}

/// Milliseconds per stage; the encoding of the answer cannot be inside it.
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

/// The answer as JSON, with its timing.
pub(super) fn respond<T, R: Serialize>(
    answer: Answer<T>,
    result: impl Fn(T) -> R,
) -> Result<Response, Problem> {
    let Answer {
        model,
        results,
        mut timing,
        memory,
    } = answer;
    let started = Instant::now();
    let body = serde_json::to_vec(&Body {
        model: &model.manifest.name,
        variant: &model.variant,
        results: results.into_iter().map(result).collect(),
        timing_ms: timing.into(),
    });
    let body = body.map_err(|error| Problem::internal(error.to_string()))?;
    timing[Stage::encode] += started.elapsed();
    finish(Served { model, timing }, "application/json", body, memory)
}

/// An answer that is one image.
pub(super) fn respond_image<T>(
    answer: Answer<T>,
    media_type: &'static str,
    bytes: Vec<u8>,
) -> Result<Response, Problem> {
    let Answer {
        model,
        timing,
        memory,
        ..
    } = answer;
    finish(Served { model, timing }, media_type, bytes, memory)
}

/// A body and the memory that it holds until the client has it: of slow clients there may be many.
struct Held {
    body: Vec<u8>,
    _memory: Permit,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

fn finish(
    served: Served,
    media_type: &'static str,
    body: Vec<u8>,
    mut memory: Permit,
) -> Result<Response, Problem> {
    if let Err(error) = memory.grow_to(body.len() as u64) {
        return Err(Problem::from(ServeError::from(error)).of(&served.model));
    }
    let (stage, encode) = (Stage::encode, served.timing[Stage::encode]);
    served.model.metrics.stage(stage, encode);
    let body = Bytes::from_owner(Held {
        body,
        _memory: memory,
    });
    let kind = HeaderValue::from_static(media_type);
    let mut response = ([(CONTENT_TYPE, kind)], body).into_response();
    response.extensions_mut().insert(served);
    Ok(response)
}
