//! `GET` routes: the server, its health, its models, and their statistics.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::json;

use super::super::problem::Problem;
use super::Named;
use crate::admission::Deadline;
use crate::app::App;
use crate::error::ServeError;
use crate::inference::{self, ModelStatistics, Target};
use crate::registry::LoadedModel;

/// `GET /v2`.
pub(super) async fn server() -> impl IntoResponse {
    Json(inference::server_metadata())
}

/// `GET /v2/health/live`.
pub(super) async fn live() -> impl IntoResponse {
    Json(json!({ "live": true }))
}

/// `GET /v2/health/ready`, which succeeds as `/health/ready` does.
pub(super) async fn ready(State(app): State<Arc<App>>) -> Result<Response, Problem> {
    app.ready()?.snapshot().check_workers()?;
    Ok(Json(json!({ "ready": true })).into_response())
}

/// `GET /v2/models`: the names of the served models.
pub(super) async fn list(State(app): State<Arc<App>>) -> Result<Response, Problem> {
    let snapshot = app.registry()?.snapshot();
    let names = inference::index(&snapshot, false).into_iter();
    let names: Vec<String> = names.map(|entry| entry.name).collect();
    Ok(Json(json!({ "models": names })).into_response())
}

/// `GET /v2/models/{model}`.
pub(super) async fn metadata(
    State(app): State<Arc<App>>,
    named: Named,
) -> Result<Response, Problem> {
    let (target, model) = loaded(&app, &named).await?;
    Ok(Json(inference::metadata(&target, &model)).into_response())
}

/// `GET /v2/models/{model}/config`.
pub(super) async fn config(State(app): State<Arc<App>>, named: Named) -> Result<Response, Problem> {
    let (target, model) = loaded(&app, &named).await?;
    Ok(Json(inference::config(&app, &target, &model)).into_response())
}

/// `GET /v2/models/{model}/ready`.
pub(super) async fn model_ready(
    State(app): State<Arc<App>>,
    named: Named,
) -> Result<Response, Problem> {
    let (target, _) = named.target(&app)?;
    let (ready, _, reason) = inference::readiness(&target.entry);
    if !ready {
        let model = target.entry.id();
        return Err(ServeError::ModelNotReady { model, reason }.into());
    }
    Ok(Json(json!({ "name": target.name, "ready": true })).into_response())
}

#[derive(Serialize)]
struct Statistics {
    model_stats: Vec<ModelStatistics>,
}

/// `GET /v2/models/stats`: the statistics of all models.
pub(super) async fn all_statistics(State(app): State<Arc<App>>) -> Result<Response, Problem> {
    let snapshot = app.registry()?.snapshot();
    let model_stats = inference::statistics(&app, &snapshot, None);
    Ok(Json(Statistics { model_stats }).into_response())
}

/// `GET /v2/models/{model}/stats`.
pub(super) async fn statistics(
    State(app): State<Arc<App>>,
    named: Named,
) -> Result<Response, Problem> {
    let (target, snapshot) = named.target(&app)?;
    let model_stats = inference::statistics(&app, &snapshot, Some(target));
    Ok(Json(Statistics { model_stats }).into_response())
}

/// Returns the loaded model that the path names. Waits until it is loaded if it is loaded on first use, because only the
/// loaded network shows its outputs.
async fn loaded(app: &App, named: &Named) -> Result<(Target, Arc<LoadedModel>), ServeError> {
    let (target, _) = named.target(app)?;
    if let Some(model) = target.entry.model() {
        return Ok((target, model));
    }
    let deadline = Deadline::after(app.limits.request_timeout);
    let load = app.ready()?.load(&target.entry);
    let model = deadline.bound(load).await?;
    Ok((target, model))
}
