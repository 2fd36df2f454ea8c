//! `POST /v1/classify`.

use std::time::Instant;

use axum::http::HeaderMap;
use axum::response::Response;
use onnx_export::manifest::Task;
use serde::Serialize;

use super::params::Params;
use super::problem::Problem;
use super::respond::respond;
use super::task::{Pictures, TaskRoute};
use crate::app::App;
use crate::error::ServeError;
use crate::pipeline::{Answer, ClassifyRequest, classify_pictures};
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
    type Result = Vec<Prediction>;

    fn parse(params: &mut Params, _: &HeaderMap, _: &LoadedModel) -> Result<Self, ServeError> {
        let top_k = params.integer("top_k", 1..=MAX_TOP_K, DEFAULT_TOP_K)?;
        Ok(Self { top_k })
    }

    async fn answer(
        &self,
        app: &App,
        pictures: Pictures,
        deadline: Instant,
    ) -> Result<Answer<Vec<Prediction>>, ServeError> {
        let Pictures {
            model,
            orientation,
            images,
        } = pictures;
        let request = ClassifyRequest {
            model,
            top_k: self.top_k,
            orientation,
            images,
        };
        classify_pictures(app, request, deadline).await
    }

    fn respond(&self, answer: Answer<Vec<Prediction>>) -> Result<Response, Problem> {
        respond(answer, |predictions| Classification { predictions })
    }
}
