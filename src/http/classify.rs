//! `POST /v1/classify`.

use axum::http::HeaderMap;
use serde::Serialize;

use super::respond::{Finished, respond};
use super::task::{ResponseOf, TaskRoute};
use crate::error::ServeError;
use crate::manifest::Task;
use crate::parameters::{Params, tasks};
use crate::pipeline;
use crate::postprocess::classify::Prediction;
use crate::store::ModelSource;

/// Bytes of one class in JSON, roughly.
const BYTES_PER_PREDICTION: usize = 64;

/// The JSON result for one image.
#[derive(Debug, Serialize)]
struct Classification {
    predictions: Vec<Prediction>,
}

/// The options of a classification request, whose response has the most probable classes of each image.
pub(super) struct Classify {
    /// Number of classes to return for each image.
    top_k: usize,
}

impl TaskRoute for Classify {
    const TASK: Task = Task::Classification;
    const PARAMETERS: &'static [&'static str] = &["top_k"];
    type Postprocess = pipeline::Classify;

    fn parse(params: &mut Params, _: &HeaderMap, _: &ModelSource) -> Result<Self, ServeError> {
        let top_k = tasks::top_k(params)?;
        Ok(Self { top_k })
    }

    fn postprocess(&self) -> pipeline::Classify {
        pipeline::Classify { top_k: self.top_k }
    }

    fn response_bytes(results: &ResponseOf<Self>) -> usize {
        results.results.iter().map(Vec::len).sum::<usize>() * BYTES_PER_PREDICTION
    }

    fn respond(&self, results: ResponseOf<Self>) -> Result<Finished, ServeError> {
        respond(results, |predictions| Classification { predictions })
    }
}
