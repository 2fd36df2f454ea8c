//! Health probes for orchestrators.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::IntoResponse;
use serde::Serialize;

use super::problem::Problem;
use crate::app::App;
use crate::config::ListenAddress;
use crate::identity::Identity;

/// Body of a health response.
#[derive(Serialize)]
struct Health<'a> {
    status: &'static str,
    #[serde(flatten)]
    identity: &'a Identity,
    /// Address of the first public listener. `None` in `/health/live`.
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<&'a ListenAddress>,
    /// Loaded models that are not ready, as `name@variant`, while others are. Empty in `/health/live`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unready_models: Vec<String>,
}

/// `GET /health/live`: succeeds while the process runs.
pub(super) async fn live(State(app): State<Arc<App>>) -> impl IntoResponse {
    Json(Health {
        status: "live",
        identity: &app.identity,
        address: None,
        unready_models: Vec::new(),
    })
    .into_response()
}

/// `GET /health/ready`: succeeds once every model of the start is loaded and warm, while at least one loaded model is
/// ready and the server is not draining. Models that are loaded on first use do not count until they are loaded.
pub(super) async fn ready(State(app): State<Arc<App>>) -> Result<impl IntoResponse, Problem> {
    let unready_models = app.ready()?.snapshot().check_workers()?;
    let ready = Health {
        status: "ready",
        identity: &app.identity,
        address: app.identity.address(),
        unready_models,
    };
    Ok(Json(ready).into_response())
}
