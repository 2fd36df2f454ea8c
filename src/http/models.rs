//! What is loaded.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::response::IntoResponse;
use serde_json::{Value, json};

use super::problem::Problem;
use crate::app::App;
use crate::error::ServeError;
use crate::registry::LoadedModel;

/// `GET /v1/models`.
pub(super) async fn list(State(app): State<Arc<App>>) -> Result<impl IntoResponse, Problem> {
    let models: Vec<Value> = app
        .registry()?
        .models()
        .iter()
        .map(|m| describe(m))
        .collect();
    Ok(Json(json!({ "models": models })))
}

/// `GET /v1/models/{model}`: as in the list, and the labels.
pub(super) async fn show(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
) -> Result<impl IntoResponse, Problem> {
    let registry = app.registry()?;
    let Some(model) = registry.find(&name) else {
        let loaded = registry.models().iter().map(|model| model.id()).collect();
        return Err(ServeError::UnknownModel { name, loaded }.into());
    };
    let mut description = describe(model);
    description["labels"] = json!(model.labels);
    Ok(Json(description))
}

fn describe(model: &LoadedModel) -> Value {
    let LoadedModel { manifest, plan, .. } = model;
    json!({
        "name": manifest.name,
        "variant": model.variant,
        "task": manifest.task,
        "route": manifest.task.route(),
        "description": manifest.description,
        "precision": model.variant,
        "input": {
            "layout": "NCHW",
            "data_type": "float32",
            "preprocess": manifest.preprocess,
        },
        "num_classes": model.labels.len(),
        "batching": {
            "max_batch_size": plan.max_batch_size,
            "max_queue_delay_us": u64::try_from(plan.max_queue_delay.as_micros()).ok(),
            "max_queue_size": plan.max_queue_size,
            "instances": plan.instances,
            "intra_op_threads": plan.intra_op_threads,
        },
        "provenance": manifest.provenance,
    })
}
