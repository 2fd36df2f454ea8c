//! Descriptions of the server and its models: metadata, readiness, and the index of the repository.

use std::collections::BTreeMap;

use serde::Serialize;

use super::face::{Face, Target, VERSION};
use super::outputs::Part;
use super::tensor::DataType;
use crate::engine::EMBEDDING;
use crate::registry::{Entry, LoadState, LoadedModel, OutputSpec, Snapshot};

/// Extensions of the protocol that the server implements.
pub const EXTENSIONS: [&str; 6] = [
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "schedule_policy",
    "statistics",
];
/// Platform of all models, as clients know it.
pub(super) const PLATFORM: &str = "onnxruntime_onnx";
/// State of a model in the index if requests to it are accepted.
const READY: &str = "READY";

/// The description of the server.
#[derive(Debug, Clone, Serialize)]
pub struct ServerMetadata {
    /// Name of the server.
    pub name: &'static str,
    /// Version of the server.
    pub version: &'static str,
    /// Extensions of the protocol.
    pub extensions: [&'static str; EXTENSIONS.len()],
}

/// The description of one name of a model.
#[derive(Debug, Clone, Serialize)]
pub struct ModelMetadata {
    /// The name that the client has used.
    pub name: String,
    /// Versions of the model.
    pub versions: [&'static str; 1],
    /// What runs the model.
    pub platform: &'static str,
    /// The only input.
    pub inputs: [TensorMetadata; 1],
    /// The outputs that a request gets if it names none.
    pub outputs: Vec<TensorMetadata>,
    /// Further facts: `embedding_dimensions`, the number of values of the output `embedding`, which only requests get that
    /// name it. Empty for a model without it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub properties: BTreeMap<&'static str, String>,
}

/// The description of an input or output.
#[derive(Debug, Clone, Serialize)]
pub struct TensorMetadata {
    /// Name of the input or output.
    pub name: String,
    /// Name of the data type, such as `FP32`.
    pub datatype: &'static str,
    /// Sizes of the axes, the batch first; -1 for those that vary.
    pub shape: Vec<i64>,
}

/// One name in the index of the repository.
#[derive(Debug, Clone, Serialize)]
pub struct IndexEntry {
    /// Name of the model or variant.
    pub name: String,
    /// Version of the model.
    pub version: &'static str,
    /// `READY`, `LOADING` or `UNAVAILABLE`.
    pub state: &'static str,
    /// Why the model is not ready. Empty if it is.
    pub reason: String,
}

/// Returns the description of the server.
pub fn server_metadata() -> ServerMetadata {
    ServerMetadata {
        name: "sightline",
        version: env!("CARGO_PKG_VERSION"),
        extensions: EXTENSIONS,
    }
}

/// Returns the description of `target`, whose loaded model is `model`.
pub fn metadata(target: &Target, model: &LoadedModel) -> ModelMetadata {
    let (datatype, axes) = input_of(model, target.face);
    let with_batch = |axes: Vec<i64>| [&[-1], &axes[..]].concat();
    let output = |output: OutputFacts| TensorMetadata {
        name: output.name,
        datatype: output.datatype.as_str(),
        shape: with_batch(output.axes),
    };
    ModelMetadata {
        name: target.name.clone(),
        versions: [VERSION],
        platform: PLATFORM,
        inputs: [TensorMetadata {
            name: target.face.input().to_owned(),
            datatype: datatype.as_str(),
            shape: with_batch(axes),
        }],
        outputs: outputs_of(model, target.face).map(output).collect(),
        properties: properties(model),
    }
}

fn properties(model: &LoadedModel) -> BTreeMap<&'static str, String> {
    let embedding = model.embedding.iter();
    embedding
        .map(|size| ("embedding_dimensions", size.to_string()))
        .collect()
}

/// Returns the data type and the axes of the input of `face`, without the batch.
pub(super) fn input_of(model: &LoadedModel, face: Face) -> (DataType, Vec<i64>) {
    match face {
        Face::Image => (DataType::Bytes, vec![1]),
        Face::Tensor => {
            let size = model.preprocessor.fixed_size();
            let side = |side: Option<u32>| side.map_or(-1, i64::from);
            let height = side(size.map(|size| size.height));
            let width = side(size.map(|size| size.width));
            (DataType::Fp32, vec![3, height, width])
        }
    }
}

/// What is known of an output, without the batch axis.
pub(super) struct OutputFacts {
    pub(super) name: String,
    pub(super) datatype: DataType,
    pub(super) axes: Vec<i64>,
    /// Whether the output has one value per class, or classes in their order.
    pub(super) labeled: bool,
}

/// Returns the outputs of `face`.
pub(super) fn outputs_of(model: &LoadedModel, face: Face) -> impl Iterator<Item = OutputFacts> {
    // The embedding is returned only to clients that name it, because most clients use all outputs that are listed.
    let listed = |spec: &&OutputSpec| model.embedding.is_none() || *spec.name != *EMBEDDING;
    let raw = model.outputs.iter().filter(listed).map(|spec| OutputFacts {
        name: spec.name.to_string(),
        datatype: DataType::of(spec.data_type),
        axes: axes_of(spec),
        labeled: spec.shape == [Some(model.labels.len())],
    });
    let parts = Part::of(model.manifest.task).iter();
    let task = parts.map(|part| OutputFacts {
        name: part.name().to_owned(),
        datatype: part.datatype(),
        axes: part.axes().to_vec(),
        labeled: false,
    });
    let raw = raw.filter(move |_| face == Face::Tensor);
    raw.chain(task.filter(move |_| face == Face::Image))
}

/// Returns the names of the outputs of `face`.
pub(super) fn output_names(model: &LoadedModel, face: Face) -> Vec<String> {
    outputs_of(model, face).map(|output| output.name).collect()
}

fn axes_of(spec: &OutputSpec) -> Vec<i64> {
    let axes = spec.shape.iter();
    axes.map(|size| size.map_or(-1, |size| size as i64))
        .collect()
}

/// Returns whether requests to the variant are accepted, as the state in the index and the reason if not. A variant that
/// is loaded on first use accepts requests.
pub fn readiness(entry: &Entry) -> (bool, &'static str, String) {
    let unready = |state, reason: String| (false, state, reason);
    match entry.state() {
        LoadState::Loaded => match entry.model().and_then(|model| model.batcher.unready()) {
            None => (true, READY, String::new()),
            Some(reason) => unready("UNAVAILABLE", reason.to_string()),
        },
        LoadState::NotLoaded => (true, READY, String::new()),
        LoadState::Loading => unready("LOADING", "the model is being loaded".to_owned()),
        LoadState::Unloaded => unready("UNAVAILABLE", "unloaded".to_owned()),
        LoadState::Failed => {
            let error = entry.error();
            let error = error.as_deref().unwrap_or("the last load failed");
            unready("UNAVAILABLE", format!("failed to load: {error}"))
        }
    }
}

/// Returns the index of the repository: all names of served models, or only those that are ready.
pub fn index(snapshot: &Snapshot, only_ready: bool) -> Vec<IndexEntry> {
    let entry = |target: Target| {
        let (ready, state, reason) = readiness(&target.entry);
        let entry = IndexEntry {
            name: target.name,
            version: VERSION,
            state,
            reason,
        };
        (ready || !only_ready).then_some(entry)
    };
    Target::all(snapshot)
        .into_iter()
        .filter_map(entry)
        .collect()
}
