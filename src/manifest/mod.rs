//! The model manifest (`model.toml`): everything about a model that is data rather than code.
//!
//! The built-in catalogue in `models/` and a user's own model next to its `.onnx` file share one format.
//! This module parses, checks and writes manifests. `store` finds them on disk; the exporter builds the graph
//! that [`ModelManifest::architecture`] describes.

mod activation;
mod batching;
mod certificate;
mod detection;
mod edit;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod hash;
mod normalization;
mod preprocess;
mod stage;
mod task;
mod variant;
mod weights;

use std::collections::BTreeMap;
use std::path::PathBuf;

use onnx_export::architecture::{Architecture, Head};
use onnx_export::{FusedOptions, Role};
use serde::{Deserialize, Serialize};

pub use activation::Activation;
pub use batching::Batching;
pub use certificate::Certificate;
pub use detection::{Detection, Rpn};
pub use edit::{Difference, ManifestText};
use error::require;
pub use error::{InvalidField, ManifestError};
pub use hash::same_sha256;
pub use onnx_export::weights::sha256;
pub use preprocess::{ChannelOrder, Filter, Preprocess, Resize};
pub use stage::StageFile;
use stage::show_roles;
pub use task::Task;
pub use variant::{Precision, Variant};
pub use weights::{Parity, Provenance, WeightsFile};

/// A model's description: its task, files, labels, preprocessing and queue limits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelManifest {
    /// Name in URLs and on command lines, `[a-z0-9_.-]{1,64}`.
    pub name: String,
    /// The kind of result that the model returns.
    pub task: Task,
    /// Description for humans, one line.
    pub description: String,
    /// Variant that the model's name selects without a variant: `fp32` or a name in `variants`.
    /// `None` for `fp32`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
    /// File of class labels, one per line. A model of the catalogue has it in `models/labels/`, a
    /// user's own model in the manifest's folder.
    pub labels: PathBuf,
    /// What the output of a classification network already is. `None` means logits, unless the file
    /// shows that it is something else, which is an error. Always `None` for other tasks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activation: Option<Activation>,
    /// ONNX files of the stages, in the order in which they run. Empty in the catalogue, whose graphs are built
    /// from weights.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<StageFile>,
    /// Description of the graph for the exporter. `None` for a user's own ONNX file, unless the
    /// model is a detector: a detector needs it for the anchors, which decode its boxes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<Architecture>,
    /// Conversion of a decoded image into the input tensor.
    pub preprocess: Preprocess,
    /// Conversion of a detector's outputs into boxes. `None` for other tasks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detection: Option<Detection>,
    /// Variants of the model with another input size or another graph, by the name after the `@` in
    /// `name@variant`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub variants: BTreeMap<String, Variant>,
    /// Limits of the batching queue.
    #[serde(default)]
    pub batching: Batching,
    /// License of the code that the network was described by, as an SPDX expression. `None` if it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code_license: Option<String>,
    /// Published checkpoints that fit the architecture, the newest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub weights: Vec<WeightsFile>,
    /// Origin of the weights. `None` for a model that was not exported from a checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provenance: Option<Provenance>,
    /// Measured accuracy of variants, by the name of the variant. [`ModelManifest::certificate`] checks
    /// that a certificate belongs to the model's files.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub certificates: BTreeMap<String, Certificate>,
}

impl ModelManifest {
    /// Parses and checks a manifest in TOML.
    ///
    /// # Errors
    /// [`ManifestError`] if the text is not TOML, or if a field is unknown, missing or out of
    /// range; the error names the field.
    pub fn parse(text: &str) -> Result<Self, ManifestError> {
        let manifest: Self = toml::from_str(text)?;
        manifest.check()?;
        Ok(manifest)
    }

    /// Returns the manifest as TOML.
    ///
    /// # Errors
    /// [`ManifestError::Write`] if TOML cannot represent a value.
    pub fn to_toml(&self) -> Result<String, ManifestError> {
        Ok(toml::to_string(self)?)
    }

    /// Returns the published checkpoint whose SHA-256 prefix matches `sha256` (hexadecimal), or `None` if none does.
    pub fn published(&self, sha256: &str) -> Option<&WeightsFile> {
        self.weights
            .iter()
            .find(|weights| sha256.starts_with(&weights.sha256_prefix))
    }

    /// Returns the options of [`onnx_export::build_fused`], or `None` if the model is not a detector.
    pub fn fused_options(&self) -> Option<FusedOptions> {
        let detection = self.detection.as_ref()?;
        Some(detection.fused_options(&self.preprocess.resize))
    }

    fn check(&self) -> Result<(), ManifestError> {
        require(is_name(&self.name), "name", NAME, &self.name)?;
        self.preprocess.check()?;
        require(
            self.activation.is_none() || self.task == Task::Classification,
            "activation",
            "none unless `task` is classification",
            &self.activation.unwrap_or_default().as_str(),
        )?;
        self.check_architecture()?;
        self.check_stages()?;
        self.check_detection()?;
        for (name, variant) in &self.variants {
            variant.check(name, self)?;
        }
        self.check_default()?;
        self.check_sha256()?;
        Ok(self.batching.check()?)
    }

    fn check_default(&self) -> Result<(), InvalidField> {
        let Some(default) = &self.default else {
            return Ok(());
        };
        let exists = default == Precision::Fp32.as_str() || self.variants.contains_key(default);
        require(
            exists,
            "default",
            "fp32 or the name of a variant of the model",
            default,
        )
    }

    /// Returns the head of the model's architecture, or `None` if the manifest has no architecture.
    fn head(&self) -> Option<&Head> {
        self.architecture
            .as_ref()
            .map(|architecture| &architecture.head)
    }

    fn check_architecture(&self) -> Result<(), InvalidField> {
        let Some(architecture) = &self.architecture else {
            return Ok(());
        };
        require(
            Task::of(&architecture.head) == self.task,
            "task",
            "the task of `architecture.head`",
            &self.task.as_str(),
        )?;
        architecture.check().map_err(InvalidField::in_architecture)
    }

    /// Returns the roles of the stages that the model's head needs, in order. A model without an
    /// architecture has the single stage `network`.
    fn roles(&self) -> &'static [Role] {
        self.head().map_or(&[Role::Network], Head::roles)
    }

    fn check_stages(&self) -> Result<(), InvalidField> {
        if self.stages.is_empty() {
            return Ok(());
        }
        self.check_roles("stages", &self.stages, |roles| roles)
    }

    /// Checks that `stages` have the roles that the model's head needs, in order. `show` converts
    /// the list of the actual roles to the text that the error reports.
    fn check_roles(
        &self,
        field: &'static str,
        stages: &[StageFile],
        show: impl Fn(String) -> String,
    ) -> Result<(), InvalidField> {
        let got = stages.iter().map(|stage| stage.role);
        if got.clone().eq(self.roles().iter().copied()) {
            return Ok(());
        }
        let expected = show_roles(self.roles().iter().copied());
        Err(InvalidField {
            field: field.into(),
            expected: format!("the roles {expected} in this order").into(),
            got: show(show_roles(got)),
        })
    }

    fn check_detection(&self) -> Result<(), InvalidField> {
        match (self.task, self.head(), &self.detection) {
            (Task::Detection, Some(head), Some(detection)) => detection.check(head),
            (Task::Detection, None, _) => require(
                false,
                "architecture",
                "an architecture with a detection head, whose anchors decode the boxes",
                &"none",
            ),
            (Task::Detection, Some(_), None) => {
                let expected = "a table of thresholds for a detector";
                require(false, "detection", expected, &"none")
            }
            (_, _, detection) => {
                let expected = "none unless `task` is detection";
                require(detection.is_none(), "detection", expected, &"a table")
            }
        }
    }
}

/// The names that [`is_name`] allows, as a regular expression.
const NAME: &str = "[a-z0-9_-][a-z0-9_.-]{0,63}";

/// Returns whether `name` is allowed as the name of a model or a variant. These names are parts of URLs, logs and
/// metrics.
fn is_name(name: &str) -> bool {
    let allowed = |b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'.');
    (1..=64).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(allowed)
}

#[cfg(test)]
mod tests;
