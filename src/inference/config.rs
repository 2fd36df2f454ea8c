//! The configuration of a model in the form of Triton's `ModelConfig`, which load generators read.

use serde::Serialize;

use super::describe::{OutputFacts, PLATFORM, input_of, outputs_of};
use super::face::{Face, Target};
use super::tensor::DataType;
use crate::app::App;
use crate::registry::LoadedModel;

/// Backend of all models, as clients know it.
const BACKEND: &str = "onnxruntime";

/// The configuration of one name of a model, in the form of Triton's `ModelConfig`.
#[derive(Debug, Clone, Serialize)]
pub struct ModelConfig {
    /// The name that the client has used.
    pub name: String,
    /// What runs the model.
    pub platform: &'static str,
    /// What runs the model, in newer configurations.
    pub backend: &'static str,
    /// The versions that are served.
    pub version_policy: VersionPolicy,
    /// Maximum number of images in a request.
    pub max_batch_size: usize,
    /// The only input.
    pub input: [ConfigInput; 1],
    /// The outputs.
    pub output: Vec<ConfigOutput>,
    /// The workers.
    pub instance_group: [InstanceGroup; 1],
    /// How requests share batches.
    pub dynamic_batching: DynamicBatching,
}

/// The versions that are served.
#[derive(Debug, Clone, Serialize)]
pub struct VersionPolicy {
    /// Only the latest versions are served.
    pub latest: Latest,
}

/// The number of the latest versions that are served.
#[derive(Debug, Clone, Serialize)]
pub struct Latest {
    /// Number of versions.
    pub num_versions: u32,
}

/// The input in a configuration. `dims` have no batch axis.
#[derive(Debug, Clone, Serialize)]
pub struct ConfigInput {
    /// Name of the input.
    pub name: &'static str,
    /// Data type, such as `TYPE_FP32`.
    pub data_type: String,
    /// `FORMAT_NCHW` or `FORMAT_NONE`.
    pub format: &'static str,
    /// Sizes of the axes; -1 for those that vary.
    pub dims: Vec<i64>,
}

/// An output in a configuration. `dims` have no batch axis.
#[derive(Debug, Clone, Serialize)]
pub struct ConfigOutput {
    /// Name of the output.
    pub name: String,
    /// Data type, such as `TYPE_FP32`.
    pub data_type: String,
    /// Sizes of the axes; -1 for those that vary.
    pub dims: Vec<i64>,
    /// File with the names of the classes. `None` if the output is not one value per class.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label_filename: Option<String>,
}

/// The workers of a model.
#[derive(Debug, Clone, Serialize)]
pub struct InstanceGroup {
    /// Name of the group.
    pub name: String,
    /// The processor, `KIND_CPU`.
    pub kind: &'static str,
    /// Number of workers.
    pub count: usize,
}

/// How requests share batches.
#[derive(Debug, Clone, Serialize)]
pub struct DynamicBatching {
    /// Longest time that an image waits for more images to join its batch.
    pub max_queue_delay_microseconds: u64,
}

/// Returns the configuration of `target`, whose loaded model is `model`.
pub fn config(app: &App, target: &Target, model: &LoadedModel) -> ModelConfig {
    let plan = &model.plan;
    let (datatype, dims) = input_of(model, target.face);
    let output = |output: OutputFacts| ConfigOutput {
        label_filename: output.labeled.then(|| file_name(model)),
        name: output.name,
        data_type: config_type(output.datatype),
        dims: output.axes,
    };
    let delay = plan.max_queue_delay.as_micros();
    ModelConfig {
        name: target.name.clone(),
        platform: PLATFORM,
        backend: BACKEND,
        version_policy: VersionPolicy {
            latest: Latest { num_versions: 1 },
        },
        max_batch_size: app.limits.max_images.min(plan.max_queue_size),
        input: [ConfigInput {
            name: target.face.input(),
            data_type: config_type(datatype),
            format: match target.face {
                Face::Tensor => "FORMAT_NCHW",
                Face::Image => "FORMAT_NONE",
            },
            dims,
        }],
        output: outputs_of(model, target.face).map(output).collect(),
        instance_group: [InstanceGroup {
            name: format!("{}_0", target.name),
            kind: "KIND_CPU",
            count: plan.instances,
        }],
        dynamic_batching: DynamicBatching {
            max_queue_delay_microseconds: u64::try_from(delay).unwrap_or(u64::MAX),
        },
    }
}

/// Returns the name of a data type in a configuration.
fn config_type(datatype: DataType) -> String {
    match datatype {
        DataType::Bytes => "TYPE_STRING".to_owned(),
        other => format!("TYPE_{}", other.as_str()),
    }
}

fn file_name(model: &LoadedModel) -> String {
    let name = model.manifest.labels.file_name();
    name.unwrap_or_default().to_string_lossy().into_owned()
}
