//! Variants: the same model with another input size, data type or graph.

use std::fmt::Display;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{InvalidField, ModelManifest, Preprocess, Resize, require};

/// The data type of a network's weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit floating point.
    #[default]
    Fp32,
    /// 8-bit integers with scales and zero points.
    Int8,
}

impl Precision {
    /// Returns the name in manifests and responses, which is also the name of the variant of that data type.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fp32 => "fp32",
            Self::Int8 => "int8",
        }
    }
}

/// The fields of a model that a variant replaces: the resize, the graph, or both.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Variant {
    /// Resize of the variant. `None` keeps the model's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resize: Option<Resize>,
    /// Data type of the weights. `None` means fp32.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub precision: Option<Precision>,
    /// Another ONNX file of the same network, beside the manifest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// The second ONNX file to `file`, where the model has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub box_head_file: Option<PathBuf>,
    /// The ranges of the network's values, a file beside the manifest: 8-bit weights are made with them of
    /// those that the binary carries, or of the model's own `file` where a processor of another kind
    /// than that of this variant's `file` serves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ranges: Option<PathBuf>,
}

impl Variant {
    /// Checks the variant called `name` of `model`.
    pub(super) fn check(&self, name: &str, model: &ModelManifest) -> Result<(), InvalidField> {
        let (field, expected) = ("variants", "a name other than fp32, the model itself");
        require(name != Precision::Fp32.as_str(), field, expected, &name)?;
        let changes = self.resize.is_some() || self.has_graph();
        let (field, expected) = ("variants.NAME", "one of `resize`, `file`, `ranges`");
        require(changes, field, expected, &format!("none in {name}"))?;
        if let Some(resize) = self.resize.clone() {
            let model = model.preprocess.clone();
            Preprocess { resize, ..model }.check()?;
        }
        self.check_files(name, model)?;
        self.check_precision(name)
    }

    /// Whether its graph is another than the model's.
    fn has_graph(&self) -> bool {
        self.file.is_some() || self.ranges.is_some()
    }

    /// Its graph comes from where the model's does: a file, or weights in the binary.
    fn check_files(&self, name: &str, model: &ModelManifest) -> Result<(), InvalidField> {
        let show = |file: &Option<PathBuf>| {
            let file = file.as_deref().map(|file| file.display());
            let file = file.as_ref().map_or(&"none" as &dyn Display, |file| file);
            format!("{file} in {name}")
        };
        require(
            self.file.is_none() || model.file.is_some(),
            "variants.NAME.file",
            "none where the model has no `file`",
            &show(&self.file),
        )?;
        let carried = model.weights.iter().any(|weights| weights.file.is_some());
        require(
            self.ranges.is_none() || self.file.is_some() || (carried && model.file.is_none()),
            "variants.NAME.ranges",
            "none without `file`, but for weights in the binary",
            &show(&self.ranges),
        )?;
        require(
            self.box_head_file.is_some() == (self.file.is_some() && model.box_head_file.is_some()),
            "variants.NAME.box_head_file",
            "one beside `file` where the model has one, else none",
            &show(&self.box_head_file),
        )
    }

    fn check_precision(&self, name: &str) -> Result<(), InvalidField> {
        let precision = self.precision.unwrap_or_default();
        let field = "variants.NAME.precision";
        let got = format!("{} in {name}", precision.as_str());
        match precision {
            Precision::Int8 => {
                let expected = "fp32, the model's, without another `file`";
                require(self.has_graph(), field, expected, &got)
            }
            Precision::Fp32 => {
                let says_int8 = name == Precision::Int8.as_str() || self.ranges.is_some();
                let expected = "int8 for the variant of that name, and with `ranges`";
                require(!says_int8, field, expected, &got)
            }
        }
    }
}
