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
use crate::registry::LoadedModel;

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
    let models = app.registry()?.models();
    let models = models.iter().map(|model| describe(model)).collect();
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
    let mut description = describe(model);
    description.labels = Some(&model.labels);
    Ok(Json(description).into_response())
}

/// Returns the description of a loaded model, without labels.
fn describe(model: &LoadedModel) -> Description<'_> {
    let LoadedModel { manifest, plan, .. } = model;
    let delay = plan.max_queue_delay.as_micros();
    Description {
        name: &manifest.name,
        variant: &model.variant,
        task: manifest.task,
        route: super::route_of(manifest.task),
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
