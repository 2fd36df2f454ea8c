//! Variants: the same model with another input size, data type or graph.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{InvalidField, ModelManifest, NAME, Preprocess, Resize, StageFile, is_name, require};

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
    /// Returns the data type's name in manifests and responses. A model's standard variant of this
    /// data type has the same name.
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
    /// Resize of the variant. `None` keeps the resize of the model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resize: Option<Resize>,
    /// Data type of the weights. `None` means fp32.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub precision: Option<Precision>,
    /// ONNX files of the variant's stages. Empty if the variant uses the model's own files.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<StageFile>,
    /// File of activation ranges in the manifest's folder, from which int8 weights are computed.
    /// The model is quantized while it is loaded if `stages` is empty or its files were quantized
    /// for another CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ranges: Option<PathBuf>,
    /// SHA-256 of the file `ranges`, 64 hexadecimal digits. `None` if the file is not checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ranges_sha256: Option<String>,
    /// SHA-256 of the fp32 ONNX file of each stage from which `stages` was made, 64 hexadecimal digits
    /// each. If a file of the model has another one, the variant is stale and not loaded. Empty if
    /// unknown; the variant is then loaded.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub source_sha256: Vec<String>,
}

impl Variant {
    /// Checks this variant, called `name`, of `model`.
    pub(super) fn check(&self, name: &str, model: &ModelManifest) -> Result<(), InvalidField> {
        require(is_name(name), "variants", NAME, &name)?;
        let (field, expected) = (
            "variants",
            "a name other than fp32, which is the model itself",
        );
        require(name != Precision::Fp32.as_str(), field, expected, &name)?;
        let changes = self.resize.is_some() || self.has_graph();
        let (field, expected) = ("variants.NAME", "one of `resize`, `stages`, `ranges`");
        require(changes, field, expected, &format!("none in variant {name}"))?;
        if let Some(resize) = self.resize.clone() {
            let model = model.preprocess.clone();
            Preprocess { resize, ..model }.check()?;
        }
        self.check_stages(name, model)?;
        self.check_ranges(name, model)?;
        self.check_precision(name)
    }

    /// Returns whether the variant's graph differs from the model's.
    fn has_graph(&self) -> bool {
        !self.stages.is_empty() || self.ranges.is_some()
    }

    fn check_stages(&self, name: &str, model: &ModelManifest) -> Result<(), InvalidField> {
        let Some(first) = self.stages.first() else {
            return Ok(());
        };
        let field = "variants.NAME.stages";
        let got = format!("{} in variant {name}", first.file.display());
        let expected = "none unless the model has `stages`";
        require(!model.stages.is_empty(), field, expected, &got)?;
        model.check_roles(field, &self.stages, |roles| {
            format!("{roles} in variant {name}")
        })
    }

    /// Checks that `ranges` is set only together with `stages`, or for weights that are embedded in
    /// the binary.
    fn check_ranges(&self, name: &str, model: &ModelManifest) -> Result<(), InvalidField> {
        let Some(ranges) = &self.ranges else {
            return Ok(());
        };
        let is_embedded = model.weights.iter().any(|weights| weights.file.is_some());
        require(
            !self.stages.is_empty() || (is_embedded && model.stages.is_empty()),
            "variants.NAME.ranges",
            "none without `stages`, except for embedded weights",
            &format!("{} in variant {name}", ranges.display()),
        )
    }

    fn check_precision(&self, name: &str) -> Result<(), InvalidField> {
        let precision = self.precision.unwrap_or_default();
        let field = "variants.NAME.precision";
        let got = format!("{} in variant {name}", precision.as_str());
        match precision {
            Precision::Int8 => {
                let expected =
                    "fp32, the data type of the model, unless `stages` or `ranges` are set";
                require(self.has_graph(), field, expected, &got)
            }
            Precision::Fp32 => {
                let says_int8 = name == Precision::Int8.as_str() || self.ranges.is_some();
                let expected = "int8 for the variant `int8` and for a variant with `ranges`";
                require(!says_int8, field, expected, &got)
            }
        }
    }
}
