//! `GET /v1/models`: the served models, loaded or not.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{OriginalUri, Path, State};
use axum::http::Uri;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::cut;
use super::problem::Problem;
use crate::app::App;
use crate::cores::MeasuredWidth;
use crate::error::ServeError;
use crate::manifest::{
    Activation, Certificate, ModelManifest, Precision, Preprocess, Provenance, Task,
};
use crate::registry::{Entry, LoadState, Snapshot};
use crate::store::ModelSource;

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
    state: LoadState,
    /// Whether the variant is loaded and no fault of a worker withdraws it.
    ready: bool,
    /// Why the loaded variant is not ready. `None` if it is ready or not loaded.
    unready_reason: Option<String>,
    /// Why the last attempt to load or to replace the variant failed.
    error: Option<String>,
    /// Memory that the loaded variant takes. `None` if it is not loaded.
    memory_bytes: Option<u64>,
    input: Input<'a>,
    num_classes: usize,
    /// What the outputs of a classification network are. `None` for other tasks.
    activation: Option<Activation>,
    /// Number of values of an embedding. `None` if the variant is not loaded or has no embeddings.
    embedding_dimensions: Option<usize>,
    batching: Batching,
    /// License of the code that describes the network. `None` if it is not known.
    code_license: Option<&'a str>,
    provenance: Option<Source<'a>>,
    /// Measured accuracy of the variant's files.
    certificate: Option<&'a Certificate>,
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<&'a [String]>,
}

/// The checkpoint that the model was exported from, with null for what is not known.
#[derive(Serialize)]
struct Source<'a> {
    checkpoint: &'a str,
    checkpoint_sha256: &'a str,
    license: Option<&'a str>,
    training_data: Option<&'a str>,
    parameters: u64,
    /// Accuracy in percent that the publisher of the checkpoint states, by the name of the metric.
    published_accuracy: Option<&'a BTreeMap<String, f64>>,
}

impl<'a> Source<'a> {
    /// Describes `from`, the provenance in `manifest`.
    fn new(manifest: &'a ModelManifest, from: &'a Provenance) -> Self {
        let published = manifest.published(&from.checkpoint_sha256);
        Self {
            published_accuracy: published.map(|file| &file.metrics),
            checkpoint: &from.checkpoint,
            checkpoint_sha256: &from.checkpoint_sha256,
            license: from.license.as_deref(),
            training_data: from.training_data.as_deref(),
            parameters: from.parameters,
        }
    }
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
    /// Measured run times by thread count, for runs that take idle cores. Empty until they are measured.
    scaling: Vec<Width>,
}

/// The run time of the network on some threads.
#[derive(Serialize)]
struct Width {
    threads: usize,
    milliseconds: f64,
}

impl From<MeasuredWidth> for Width {
    fn from(measured: MeasuredWidth) -> Self {
        Self {
            threads: measured.threads,
            milliseconds: (measured.time.as_secs_f64() * 1e5).round() / 100.0,
        }
    }
}

/// `GET /v1/models`: the descriptions of all served models, without labels.
pub(super) async fn list(State(app): State<Arc<App>>) -> Result<impl IntoResponse, Problem> {
    let snapshot = app.registry()?.snapshot();
    let entries = snapshot.entries().iter();
    let models = entries.map(|entry| describe(entry, is_default(&snapshot, entry)));
    let models = models.collect();
    Ok(Json(List { models }).into_response())
}

/// `GET /v1/models/{model}`: the description of one served model, with its labels. Does not load it.
pub(super) async fn show(
    State(app): State<Arc<App>>,
    OriginalUri(uri): OriginalUri,
    name: Result<Path<String>, PathRejection>,
) -> Result<impl IntoResponse, Problem> {
    let snapshot = app.registry()?.snapshot();
    let name = decoded(name, &uri)?;
    Ok(described(&snapshot, snapshot.named(&name)?))
}

/// Returns the name of a model in the path of a request.
pub(super) fn decoded(
    name: Result<Path<String>, PathRejection>,
    uri: &Uri,
) -> Result<String, ServeError> {
    let Path(name) = name.map_err(|_| ServeError::BadParameter {
        field: "model".to_owned(),
        expected: "percent-encoded UTF-8".to_owned(),
        got: cut(uri.path()),
    })?;
    Ok(name)
}

/// Returns the response with the description of `entry` and its labels.
pub(super) fn described(snapshot: &Snapshot, entry: &Arc<Entry>) -> Response {
    let mut description = describe(entry, is_default(snapshot, entry));
    description.labels = Some(&entry.source().labels);
    Json(description).into_response()
}

/// Returns whether `entry` serves the requests of its task that name no model.
fn is_default(snapshot: &Snapshot, entry: &Arc<Entry>) -> bool {
    let default = snapshot.for_task(entry.source().manifest.task, None);
    default.is_ok_and(|default| Arc::ptr_eq(default, entry))
}

/// Returns the description of a served model, without labels. It comes from the manifest, except for
/// the settings of the queue and the workers of a loaded model. `default` states whether the model is
/// the default of its task.
fn describe(entry: &Entry, default: bool) -> Description<'_> {
    let (plan, source) = (entry.plan(), entry.source());
    let ModelSource {
        manifest,
        variant,
        precision,
        labels,
        ..
    } = source;
    let delay = plan.max_queue_delay.as_micros();
    let model = entry.model();
    let scaling = model.as_ref().map(|model| model.scaling.widths());
    let scaling = scaling.unwrap_or_default();
    let unready = model.as_ref().and_then(|model| model.batcher.unready());
    Description {
        name: &manifest.name,
        variant,
        task: manifest.task,
        route: super::route_of(manifest.task),
        default,
        description: &manifest.description,
        precision: *precision,
        state: entry.state(),
        ready: model.is_some() && unready.is_none(),
        unready_reason: unready.map(|reason| reason.to_string()),
        error: entry.error().map(|error| error.to_string()),
        memory_bytes: entry.model().and_then(|model| model.memory_bytes),
        input: Input {
            layout: "NCHW",
            data_type: "float32",
            preprocess: &manifest.preprocess,
        },
        num_classes: labels.len(),
        activation: (manifest.task == Task::Classification)
            .then(|| manifest.activation.unwrap_or_default()),
        embedding_dimensions: model.as_ref().and_then(|model| model.embedding),
        batching: Batching {
            max_batch_size: plan.max_batch_size,
            max_queue_delay_us: u64::try_from(delay).unwrap_or(u64::MAX),
            max_queue_size: plan.max_queue_size,
            instances: plan.instances,
            intra_op_threads: plan.intra_op_threads,
            scaling: scaling.into_iter().map(Width::from).collect(),
        },
        code_license: manifest.code_license.as_deref(),
        provenance: {
            let provenance = manifest.provenance.as_ref();
            provenance.map(|provenance| Source::new(manifest, provenance))
        },
        certificate: manifest.certificate(variant),
        labels: None,
    }
}
