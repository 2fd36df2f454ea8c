//! `POST /v1/classify`.

use axum::http::HeaderMap;
use axum::response::Response;
use serde::Serialize;

use super::params::Params;
use super::respond::respond;
use super::task::{ResponseOf, TaskRoute};
use crate::error::ServeError;
use crate::manifest::Task;
use crate::pipeline;
use crate::postprocess::classify::Prediction;
use crate::registry::LoadedModel;

/// Classes in a result unless the client asks for another number.
const DEFAULT_TOP_K: usize = 5;
/// Most classes that a client may ask for; no network has more.
const MAX_TOP_K: usize = 100_000;

#[derive(Debug, Serialize)]
struct Classification {
    predictions: Vec<Prediction>,
}

/// Returns the most probable classes of each image.
pub(super) struct Classify {
    top_k: usize,
}

impl TaskRoute for Classify {
    const TASK: Task = Task::Classification;
    const PARAMETERS: &'static [&'static str] = &["top_k"];
    type Postprocess = pipeline::Classify;

    fn parse(params: &mut Params, _: &HeaderMap, _: &LoadedModel) -> Result<Self, ServeError> {
        let top_k = params.integer("top_k", 1..=MAX_TOP_K, DEFAULT_TOP_K)?;
        Ok(Self { top_k })
    }

    fn postprocess(&self) -> pipeline::Classify {
        pipeline::Classify { top_k: self.top_k }
    }

    fn respond(&self, results: ResponseOf<Self>) -> Result<Response, ServeError> {
        respond(results, |predictions| Classification { predictions })
    }
}
