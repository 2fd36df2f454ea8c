//! `POST /v1/classify`.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::response::Response;
use serde::Serialize;

use super::extract::read_images;
use super::middleware::respond;
use super::params::Params;
use super::problem::Problem;
use crate::app::App;
use crate::error::ServeError;
use crate::pipeline::{ClassifyRequest, classify_pictures};
use crate::postprocess::classify::Prediction;

/// Classes in an answer unless the client asks for another number.
const DEFAULT_TOP_K: usize = 5;
/// No network of the catalogue's families has more classes.
const MAX_TOP_K: usize = 100_000;

#[derive(Debug, Serialize)]
struct Classification {
    predictions: Vec<Prediction>,
}

/// Answers with the most probable classes of each picture.
pub(super) async fn classify(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, Problem> {
    let limit = app.limits.request_timeout;
    let deadline = Instant::now() + limit;
    let answer = async {
        app.registry()?;
        let mut params = Params::parse(request.uri())?;
        let model = params.take("model")?;
        let top_k = params.integer("top_k", 1..=MAX_TOP_K, DEFAULT_TOP_K)?;
        let orientation = params.orientation()?;
        params.finish("model, top_k, orientation")?;
        let (images, _memory) = read_images(&app, request).await?;
        let request = ClassifyRequest {
            model,
            top_k,
            orientation,
            images,
        };
        classify_pictures(&app, request, deadline).await
    };
    let answer = tokio::time::timeout_at(deadline.into(), answer).await;
    let answer = answer.map_err(|_| ServeError::DeadlinePassed { limit })??;
    respond(answer, |predictions| Classification { predictions })
}
