//! Health probes for orchestrators.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::IntoResponse;
use serde_json::json;

use super::problem::Problem;
use crate::app::App;

/// `GET /health/live`: succeeds while the process runs.
pub(super) async fn live() -> impl IntoResponse {
    Json(json!({ "status": "live" }))
}

/// `GET /health/ready`: succeeds while every model of the start is loaded and warm, no worker is stuck, and the server
/// is not draining. Models that are loaded on first use do not count until they are loaded.
pub(super) async fn ready(State(app): State<Arc<App>>) -> Result<impl IntoResponse, Problem> {
    app.registry()?.check_workers()?;
    Ok(Json(json!({ "status": "ready" })))
}
