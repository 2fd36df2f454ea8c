//! `POST /v1/classify`.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::response::Response;
use serde::Serialize;

use super::extract::{Admission, admit, discard, read_images, refuse};
use super::middleware::respond;
use super::params::Params;
use super::problem::Problem;
use crate::app::App;
use crate::error::ServeError;
use crate::image::Orientation;
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
    let (head, mut body) = request.into_parts();
    let (query, admission) = match admit_query(&app, &head) {
        Ok(admitted) => admitted,
        Err(error) => {
            refuse(&head.headers, &mut body).await;
            return Err(error.into());
        }
    };
    let answer = async {
        let (images, _memory) = read_images(&app, admission, head, &mut body).await?;
        let request = ClassifyRequest {
            model: query.model,
            top_k: query.top_k,
            orientation: query.orientation,
            images,
        };
        classify_pictures(&app, request, deadline).await
    };
    let Ok(answer) = tokio::time::timeout_at(deadline.into(), answer).await else {
        discard(&mut body).await;
        return Err(ServeError::DeadlinePassed { limit }.into());
    };
    respond(answer?, |predictions| Classification { predictions })
}

struct Query {
    model: Option<String>,
    top_k: usize,
    orientation: Orientation,
}

/// Everything that can be refused before the body is read.
fn admit_query(app: &App, head: &Parts) -> Result<(Query, Admission), ServeError> {
    app.registry()?;
    let mut params = Params::parse(&head.uri)?;
    let query = Query {
        model: params.take("model")?,
        top_k: params.integer("top_k", 1..=MAX_TOP_K, DEFAULT_TOP_K)?,
        orientation: params.orientation()?,
    };
    params.finish("model, top_k, orientation")?;
    Ok((query, admit(app, &head.headers)?))
}
