//! The control of models by an operator: `POST /v1/models/{model}/load` and `/unload`, on the admin
//! listener only.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{OriginalUri, Path, State};
use axum::response::Response;

use super::cut;
use super::models::{decoded, described};
use super::problem::Problem;
use crate::app::App;
use crate::error::ServeError;

/// `POST /v1/models/{model}/load`: loads a model from its files, also if it is loaded already, and
/// returns its description when it is warm. The old instance serves until then. The operation
/// continues if the client leaves.
pub(super) async fn load(
    State(app): State<Arc<App>>,
    OriginalUri(uri): OriginalUri,
    name: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    let registry = app.registry()?;
    let entry = registry.reload(&decoded(name, &uri)?).await?;
    Ok(described(&registry.snapshot(), &entry))
}

/// `POST /v1/models/{model}/unload`: unloads a model and returns its description. Requests that are
/// in its queue are finished.
pub(super) async fn unload(
    State(app): State<Arc<App>>,
    OriginalUri(uri): OriginalUri,
    name: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    let registry = app.registry()?;
    let entry = registry.unload(&decoded(name, &uri)?).await?;
    Ok(described(&registry.snapshot(), &entry))
}

/// The control of models on the public listener: an error that names the admin listener.
pub(super) async fn elsewhere(OriginalUri(uri): OriginalUri) -> Problem {
    let path = cut(uri.path());
    ServeError::ControlElsewhere { path }.into()
}
