//! `POST /v1/embed`.

use axum::http::HeaderMap;
use serde::Serialize;

use super::respond::{Finished, respond};
use super::task::{ResponseOf, TaskRoute};
use crate::error::ServeError;
use crate::manifest::Task;
use crate::parameters::Params;
use crate::pipeline;
use crate::registry::LoadedModel;
use crate::store::ModelSource;

/// Bytes of one value in JSON, roughly.
const BYTES_PER_VALUE: usize = 12;

/// The JSON result for one image.
#[derive(Debug, Serialize)]
struct Embedding {
    embedding: Vec<f32>,
    /// Number of values in `embedding`.
    dimensions: usize,
}

/// The options of a request for embeddings, whose response has the pooled features of each image.
pub(super) struct Embed {
    normalize: bool,
}

impl TaskRoute for Embed {
    const TASK: Task = Task::Classification;
    const PARAMETERS: &'static [&'static str] = &["normalize"];
    type Postprocess = pipeline::Embed;

    fn parse(params: &mut Params, _: &HeaderMap, _: &ModelSource) -> Result<Self, ServeError> {
        let normalize = params.flag("normalize")?;
        Ok(Self { normalize })
    }

    fn check_model(&self, model: &LoadedModel) -> Result<(), ServeError> {
        match model.embedding {
            Some(_) => Ok(()),
            None => Err(ServeError::NoEmbedding { model: model.id() }),
        }
    }

    fn postprocess(&self) -> pipeline::Embed {
        pipeline::Embed {
            normalize: self.normalize,
        }
    }

    fn response_bytes(results: &ResponseOf<Self>) -> usize {
        results.results.iter().map(Vec::len).sum::<usize>() * BYTES_PER_VALUE
    }

    fn respond(&self, results: ResponseOf<Self>) -> Result<Finished, ServeError> {
        respond(results, |embedding: Vec<f32>| Embedding {
            dimensions: embedding.len(),
            embedding,
        })
    }
}
