//! `POST /v1/classify`.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::response::Response;
use onnx_export::manifest::Task;
use serde::Serialize;
use tokio::time::timeout_at;

use super::extract::{Framing, discard, framing, read_images, refuse};
use super::params::Params;
use super::problem::Problem;
use super::respond::respond;
use crate::app::App;
use crate::error::ServeError;
use crate::image::Orientation;
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
pub(super) async fn classify(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, Problem> {
    let deadline = Instant::now() + app.limits.request_timeout;
    let (parts, mut body) = request.into_parts();
    let checked = match Checked::new(&app, &parts) {
        Ok(checked) => checked,
        Err(error) => {
            refuse(&parts.headers, &mut body).await;
            return Err(error.into());
        }
    };
    let model = Arc::clone(&checked.model);
    let answer = checked.answer(&app, parts, &mut body, deadline);
    let Ok(answer) = timeout_at(deadline.into(), answer).await else {
        discard(&mut body).await;
        let limit = app.limits.request_timeout;
        return Err(Problem::from(ServeError::DeadlinePassed { limit }).of(&model));
    };
    match answer {
        Ok(answer) => respond(answer, |predictions| Classification { predictions }),
        Err(error) => Err(Problem::from(error).of(&model)),
    }
}

/// All of a request but its body, which is not read for one that is refused anyway.
struct Checked {
    model: Arc<LoadedModel>,
    top_k: usize,
    orientation: Orientation,
    framing: Framing,
}

impl Checked {
    fn new(app: &App, parts: &Parts) -> Result<Self, ServeError> {
        let registry = app.registry()?;
        let mut params = Params::parse(&parts.uri)?;
        let model = params.take("model")?;
        let top_k = params.integer("top_k", 1..=MAX_TOP_K, DEFAULT_TOP_K)?;
        let orientation = params.orientation()?;
        params.finish("model, top_k, orientation")?;
        let model = registry.for_task(Task::Classification, model.as_deref())?;
        Ok(Self {
            model,
            top_k,
            orientation,
            framing: framing(&parts.headers)?,
        })
    }

    async fn answer(
        self,
        app: &App,
        parts: Parts,
        body: &mut Body,
        deadline: Instant,
    ) -> Result<Answer<Vec<Prediction>>, ServeError> {
        let Self {
            model,
            top_k,
            orientation,
            framing,
        } = self;
        let images = read_images(app, framing, parts, body).await?;
        let request = ClassifyRequest {
            model,
            top_k,
            orientation,
            images,
        };
        classify_pictures(app, request, deadline).await
    }
}
