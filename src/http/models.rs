//! `GET /v1/models`: the loaded models.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{OriginalUri, Path, State};
use axum::response::IntoResponse;
use serde::Serialize;

use super::problem::Problem;
use crate::app::App;
use crate::error::ServeError;
use crate::manifest::{Precision, Preprocess, Provenance, Task};
use crate::registry::{LoadedModel, Registry};

#[derive(Serialize)]
struct List<'a> {
    models: Vec<Description<'a>>,
}

#[derive(Serialize)]
#[expect(clippy::struct_field_names, reason = "these are the JSON field names")]
struct Description<'a> {
    name: &'a str,
    variant: &'a str,
    task: Task,
    route: &'a str,
    /// Whether this variant of the model serves the requests of its route that name no model.
    default: bool,
    description: &'a str,
    precision: Precision,
    input: Input<'a>,
    num_classes: usize,
    batching: Batching,
    provenance: Option<&'a Provenance>,
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<&'a [String]>,
}

#[derive(Serialize)]
struct Input<'a> {
    layout: &'a str,
    data_type: &'a str,
    preprocess: &'a Preprocess,
}

#[derive(Serialize)]
struct Batching {
    max_batch_size: usize,
    max_queue_delay_us: u64,
    max_queue_size: usize,
    instances: usize,
    intra_op_threads: usize,
}

/// `GET /v1/models`: the descriptions of all loaded models, without labels.
pub(super) async fn list(State(app): State<Arc<App>>) -> Result<impl IntoResponse, Problem> {
    let registry = app.registry()?;
    let models = registry.models().iter();
    let models = models
        .map(|model| describe(model, is_default(&app, registry, model)))
        .collect();
    Ok(Json(List { models }).into_response())
}

/// `GET /v1/models/{model}`: the description of one loaded model, with its labels.
pub(super) async fn show(
    State(app): State<Arc<App>>,
    OriginalUri(uri): OriginalUri,
    name: Result<Path<String>, PathRejection>,
) -> Result<impl IntoResponse, Problem> {
    let registry = app.registry()?;
    let Path(name) = name.map_err(|_| ServeError::BadParameter {
        field: "model".to_owned(),
        expected: "percent-encoded UTF-8".to_owned(),
        got: uri.path().chars().take(64).collect(),
    })?;
    let model = registry.named(&name)?;
    let mut description = describe(model, is_default(&app, registry, model));
    description.labels = Some(&model.labels);
    Ok(Json(description).into_response())
}

/// Returns whether `model` serves the requests of its task that name no model.
fn is_default(app: &App, registry: &Registry, model: &Arc<LoadedModel>) -> bool {
    let task = model.manifest.task;
    let default = registry.for_task(task, app.default_model(task));
    default.is_ok_and(|default| Arc::ptr_eq(&default, model))
}

/// Returns the description of a loaded model, without labels. `default` states whether it is the default of its task.
fn describe(model: &LoadedModel, default: bool) -> Description<'_> {
    let LoadedModel { manifest, plan, .. } = model;
    let delay = plan.max_queue_delay.as_micros();
    Description {
        name: &manifest.name,
        variant: &model.variant,
        task: manifest.task,
        route: super::route_of(manifest.task),
        default,
        description: &manifest.description,
        precision: model.precision,
        input: Input {
            layout: "NCHW",
            data_type: "float32",
            preprocess: &manifest.preprocess,
        },
        num_classes: model.labels.len(),
        batching: Batching {
            max_batch_size: plan.max_batch_size,
            max_queue_delay_us: u64::try_from(delay).unwrap_or(u64::MAX),
            max_queue_size: plan.max_queue_size,
            instances: plan.instances,
            intra_op_threads: plan.intra_op_threads,
        },
        provenance: manifest.provenance.as_ref(),
        labels: None,
    }
}
