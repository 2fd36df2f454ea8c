//! The model repository: its index, and the control of models on the admin listener.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::super::body::refuse;
use super::super::control::NotFromPage;
use super::super::problem::Problem;
use super::Named;
use super::message::object;
use crate::admission::Deadline;
use crate::app::App;
use crate::error::ServeError;
use crate::inference;
use crate::parameters::bad;

/// Maximum size of a body in bytes. Models are not sent in requests.
const MAX_BODY: usize = 64 << 10;

#[derive(Default, Deserialize)]
#[serde(expecting = "an object, optionally with the field `ready`")]
struct IndexRequest {
    #[serde(default)]
    ready: bool,
}

#[derive(Default, Deserialize)]
#[serde(expecting = "an object, optionally with the field `parameters`")]
struct ControlRequest {
    #[serde(default)]
    parameters: Option<BTreeMap<String, Box<RawValue>>>,
}

/// `POST /v2/repository/index`: the names of all models and their states.
pub(super) async fn index(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, Problem> {
    let IndexRequest { ready } = read(&app, request).await?;
    let snapshot = app.registry()?.snapshot();
    Ok(Json(inference::index(&snapshot, ready)).into_response())
}

/// `POST /v2/repository/models/{model}/load`: loads a model from its files, as the control API of `/v1` does.
pub(super) async fn load(
    _: NotFromPage,
    State(app): State<Arc<App>>,
    named: Named,
    request: Request,
) -> Result<Response, Problem> {
    // A model cannot be sent or configured by a request.
    check_parameters(read(&app, request).await?, &[])?;
    let registry = app.registry()?;
    let name = inference::base_name(&registry.snapshot(), &named.model);
    registry.reload(&name).await?;
    Ok(StatusCode::OK.into_response())
}

/// `POST /v2/repository/models/{model}/unload`: unloads a model, as the control API of `/v1` does.
pub(super) async fn unload(
    _: NotFromPage,
    State(app): State<Arc<App>>,
    named: Named,
    request: Request,
) -> Result<Response, Problem> {
    // No model depends on another one, so that this parameter has no effect.
    check_parameters(read(&app, request).await?, &["unload_dependents"])?;
    let registry = app.registry()?;
    let name = inference::base_name(&registry.snapshot(), &named.model);
    registry.unload(&name).await?;
    Ok(StatusCode::OK.into_response())
}

/// Checks that a request to change a model has no parameters other than `known`.
fn check_parameters(request: ControlRequest, known: &[&str]) -> Result<(), ServeError> {
    let names = request.parameters.unwrap_or_default().into_keys();
    match names
        .into_iter()
        .find(|name| !known.contains(&name.as_str()))
    {
        None => Ok(()),
        Some(name) => {
            let expected = if known.is_empty() {
                "none: models are loaded from the server's files only".to_owned()
            } else {
                known.join(", ")
            };
            Err(bad("parameters", &expected, &name))
        }
    }
}

/// Reads a JSON body of at most [`MAX_BODY`] bytes. An empty body is the default value.
async fn read<T: Default + DeserializeOwned>(app: &App, request: Request) -> Result<T, ServeError> {
    let (parts, mut body) = request.into_parts();
    let collected = collect(app, &mut body).await;
    if collected.is_err() {
        refuse(&parts.headers, &mut body).await;
    }
    let bytes = collected?;
    if bytes.is_empty() {
        return Ok(T::default());
    }
    object(&bytes)
}

async fn collect(app: &App, body: &mut Body) -> Result<Vec<u8>, ServeError> {
    let limit = app.limits.request_timeout;
    let collect = async { Ok(Limited::new(body, MAX_BODY).collect().await) };
    let collected = Deadline::after(limit).bound(collect).await;
    match collected.map_err(|_| ServeError::BodyTimeout { limit })? {
        Ok(collected) => Ok(collected.to_bytes().into()),
        Err(error) if error.is::<LengthLimitError>() => {
            Err(ServeError::BodyTooLarge { limit: MAX_BODY })
        }
        Err(_) => Err(ServeError::BodyInterrupted),
    }
}
