//! `POST /v1/classify`.

use axum::http::HeaderMap;
use axum::response::Response;
use serde::Serialize;

use super::params::Params;
use super::problem::Problem;
use super::respond::respond;
use super::task::{AnswerOf, TaskRoute};
use crate::error::ServeError;
use crate::manifest::Task;
use crate::pipeline;
use crate::postprocess::classify::Prediction;
use crate::registry::LoadedModel;

/// Classes in an answer unless the client asks for another number.
const DEFAULT_TOP_K: usize = 5;
/// No network of the catalogue's families has more classes.
const MAX_TOP_K: usize = 100_000;

#[derive(Debug, Serialize)]
struct Classification {
    predictions: Vec<Prediction>,
}

/// Answers with the most probable classes of each picture.
pub(super) struct Classify {
    top_k: usize,
}

impl TaskRoute for Classify {
    const TASK: Task = Task::Classification;
    const PARAMETERS: &'static str = "top_k";
    type Finish = pipeline::Classify;

    fn parse(params: &mut Params, _: &HeaderMap, _: &LoadedModel) -> Result<Self, ServeError> {
        let top_k = params.integer("top_k", 1..=MAX_TOP_K, DEFAULT_TOP_K)?;
        Ok(Self { top_k })
    }

    fn finish(&self) -> pipeline::Classify {
        pipeline::Classify { top_k: self.top_k }
    }

    fn respond(&self, answer: AnswerOf<Self>) -> Result<Response, Problem> {
        respond(answer, |predictions| Classification { predictions })
    }
}
