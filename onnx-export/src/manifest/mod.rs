//! The model manifest (`model.toml`): everything about a network that is data rather than code.
//!
//! One format serves the built-in catalogue in `models/` and a user's own model beside its `.onnx`
//! file. What is *not* here: finding manifests on disk (the server's registry) and building graphs
//! (the architecture modules).

mod architecture;
mod detection;
mod heads;
mod preprocess;
mod variant;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use architecture::{
    Architecture, Backbone, EfficientNetLite0Config, Head, MobileNetV2Config, MobileNetV3Config,
    MobileNetV3Size, ResNetBlock, ResNetConfig,
};
pub use detection::{Detection, Rpn};
pub use heads::{Anchors, DefaultBoxes, FasterRcnnHead, RetinanetHead, SsdliteHead};
pub use preprocess::{Filter, Preprocess, Resize};
pub use variant::{Precision, Variant};

/// A manifest that cannot be used.
#[derive(Debug, Error)]
pub enum ManifestError {
    /// Not TOML, an unknown field, or a field of the wrong type.
    #[error("not a valid model manifest: {0}")]
    Syntax(#[from] toml::de::Error),
    /// A field whose value is outside what it allows.
    #[error(transparent)]
    Value(#[from] Invalid),
    /// The manifest could not be written as TOML.
    #[error("cannot write the manifest: {0}")]
    Write(#[from] toml::ser::Error),
}

/// A field whose value is outside what it allows.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("field `{field}`: expected {expected}, got {got}")]
pub struct Invalid {
    /// Dotted path of the field.
    pub field: &'static str,
    /// The values it allows, in words.
    pub expected: &'static str,
    /// The value found.
    pub got: String,
}

/// What a network answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// One label per picture.
    Classification,
    /// One label per pixel.
    Segmentation,
    /// Labelled boxes.
    Detection,
}

impl Task {
    /// The task's name in manifests and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Classification => "classification",
            Self::Segmentation => "segmentation",
            Self::Detection => "detection",
        }
    }

    /// The path of the HTTP route that answers it.
    pub fn route(self) -> &'static str {
        match self {
            Self::Classification => "/v1/classify",
            Self::Segmentation => "/v1/segment",
            Self::Detection => "/v1/detect",
        }
    }
}

/// One network: what it is, how pictures become its input, and how it is batched.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelManifest {
    /// Name in URLs and on command lines, `[a-z0-9_.-]{1,64}`.
    pub name: String,
    /// What it answers.
    pub task: Task,
    /// One line for people.
    pub description: String,
    /// File of class labels, one a line: in `models/labels/` for the catalogue, else beside the manifest.
    pub labels: PathBuf,
    /// The ONNX file beside the manifest; absent in the catalogue, whose graphs are built from weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// The second ONNX file of a network in two stages, beside the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub box_head_file: Option<PathBuf>,
    /// How its graph is built; absent for a user's own ONNX file of unknown origin. A detector
    /// always has it, since its anchors decode the network's numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<Architecture>,
    /// From decoded picture to input tensor.
    pub preprocess: Preprocess,
    /// From a detector's outputs to boxes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detection: Option<Detection>,
    /// The same network on pictures of another size or with other numbers, by the name after the `@` in
    /// `name@variant`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub variants: BTreeMap<String, Variant>,
    /// Limits of the batching queue.
    #[serde(default)]
    pub batching: Batching,
    /// Checkpoints that fit the architecture, newest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub weights: Vec<WeightsFile>,
    /// Where the weights of an exported model came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provenance: Option<Provenance>,
}

/// Limits of a model's queue, in Triton's words. Absent fields are planned from the machine.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Batching {
    /// Most pictures in one run of the network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_batch_size: Option<usize>,
    /// Longest wait for a fuller batch, in microseconds. None or 0: a batch is cut when a worker is free.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_queue_delay_us: Option<u64>,
    /// Most pictures waiting; one more is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_queue_size: Option<usize>,
    /// Workers, each with a session of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instances: Option<usize>,
}

/// A published checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WeightsFile {
    /// Its name among the model's checkpoints, such as `IMAGENET1K_V1`.
    pub name: String,
    /// Where it is published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Its file beside the manifest, for weights that the binary carries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// First hexadecimal digits of its SHA-256.
    pub sha256_prefix: String,
    /// Parameters of the network, buffers excluded.
    pub parameters: u64,
    /// Published accuracy: metric name to percent.
    pub metrics: BTreeMap<String, f64>,
    /// The resize that this checkpoint was evaluated with, where it is not the model's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resize: Option<Resize>,
}

/// Where an exported model's weights came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// File name of the checkpoint.
    pub checkpoint: String,
    /// SHA-256 of its bytes, 64 hexadecimal digits.
    pub checkpoint_sha256: String,
    /// Parameters of the network, buffers excluded.
    pub parameters: u64,
}

impl ModelManifest {
    /// Parses and checks a manifest.
    ///
    /// # Errors
    /// [`ManifestError`] names the field, what it allows and what it held.
    pub fn parse(text: &str) -> Result<Self, ManifestError> {
        let manifest: Self = toml::from_str(text)?;
        manifest.check()?;
        Ok(manifest)
    }

    /// The manifest as TOML.
    ///
    /// # Errors
    /// [`ManifestError::Write`] if a value has no TOML form.
    pub fn to_toml(&self) -> Result<String, ManifestError> {
        Ok(toml::to_string(self)?)
    }

    fn check(&self) -> Result<(), ManifestError> {
        let name_ok = (1..=64).contains(&self.name.len())
            && !self.name.starts_with('.')
            && self
                .name
                .bytes()
                .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'.'));
        require(name_ok, "name", "[a-z0-9_-][a-z0-9_.-]{0,63}", &self.name)?;
        self.preprocess.check()?;
        self.check_task()?;
        for (name, variant) in &self.variants {
            variant.check(name, self)?;
        }
        Ok(self.batching.check()?)
    }

    /// Checks that task, architecture, thresholds and files go together.
    fn check_task(&self) -> Result<(), Invalid> {
        let head = self
            .architecture
            .as_ref()
            .map(|architecture| &architecture.head);
        if let Some(head) = head {
            let expected = "the task of `architecture.head`";
            require(
                head.task() == self.task,
                "task",
                expected,
                &self.task.as_str(),
            )?;
            head.check()?;
        }
        let two_files = head.is_some_and(Head::has_box_head) && self.file.is_some();
        let box_head = self.box_head_file.as_deref().map(|file| file.display());
        let (box_head_words, shown) = match box_head {
            Some(file) => ("none but beside `file`, for faster_rcnn", file.to_string()),
            None => ("the second file of faster_rcnn", "none".to_owned()),
        };
        require(
            self.box_head_file.is_some() == two_files,
            "box_head_file",
            box_head_words,
            &shown,
        )?;
        match (self.task, head, &self.detection) {
            (Task::Detection, Some(head), Some(detection)) => detection.check(head),
            (Task::Detection, None, _) => {
                let expected = "one with a detection head: its anchors decode the boxes";
                require(false, "architecture", expected, &"none")
            }
            (Task::Detection, Some(_), None) => {
                let expected = "a table of thresholds for a detector";
                require(false, "detection", expected, &"none")
            }
            (_, _, detection) => {
                let expected = "none but for detection";
                require(detection.is_none(), "detection", expected, &"one")
            }
        }
    }

    /// The published checkpoint whose SHA-256 starts as `sha256` does.
    pub fn published(&self, sha256: &str) -> Option<&WeightsFile> {
        self.weights
            .iter()
            .find(|weights| sha256.starts_with(&weights.sha256_prefix))
    }
}

impl Batching {
    fn check(&self) -> Result<(), Invalid> {
        let within = |v: Option<usize>, most| v.is_none_or(|v| (1..=most).contains(&v));
        let show = |v: Option<usize>| v.unwrap_or_default().to_string();
        let size = self.max_batch_size;
        require(
            within(size, 256),
            "batching.max_batch_size",
            "1..=256",
            &show(size),
        )?;
        let queue = self.max_queue_size;
        require(
            within(queue, 65_536),
            "batching.max_queue_size",
            "1..=65536",
            &show(queue),
        )?;
        let instances = self.instances;
        require(
            within(instances, 256),
            "batching.instances",
            "1..=256",
            &show(instances),
        )?;
        let delay = self.max_queue_delay_us.unwrap_or_default();
        require(
            delay <= 1_000_000,
            "batching.max_queue_delay_us",
            "0..=1000000",
            &delay,
        )
    }
}

fn require(
    holds: bool,
    field: &'static str,
    expected: &'static str,
    got: &dyn std::fmt::Display,
) -> Result<(), Invalid> {
    if holds {
        return Ok(());
    }
    Err(Invalid {
        field,
        expected,
        got: got.to_string(),
    })
}

#[cfg(test)]
mod tests;
