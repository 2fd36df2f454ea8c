//! Certificates: the accuracy that `sightline eval` measured with the files of a model.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{ModelManifest, StageFile};

/// The accuracy of one variant on a data set, and what it was measured with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// SHA-256 of the ONNX file of each stage, 64 hexadecimal digits each.
    pub weights_sha256: Vec<String>,
    /// Kind of the data set: `imagenet`, `coco` or `voc`.
    pub dataset: String,
    /// SHA-256 of the names, images and annotations of the data set.
    pub dataset_sha256: String,
    /// Number of images.
    pub images: u64,
    /// Decoding of the images: `exact` or `fast`.
    pub decode: String,
    /// Size at which masks were compared: `input` or `network`. `None` unless the task is segmentation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask_size: Option<String>,
    /// Measured figures in percent, by name, such as `acc1`, `AP` or `miou`.
    pub figures: BTreeMap<String, f64>,
    /// Version of Sightline.
    pub sightline: String,
    /// File name of ONNX Runtime's library, which usually has its version.
    pub onnxruntime: String,
    /// Day of the measurement in UTC, `YYYY-MM-DD`.
    pub date: String,
}

impl ModelManifest {
    /// Returns the certificate of the variant `name`. `None` if there is none, or if the manifest states
    /// that the variant's files are others than those that were measured.
    pub fn certificate(&self, name: &str) -> Option<&Certificate> {
        let certificate = self.certificates.get(name)?;
        let stages = self.stages_of(name);
        let is_other = |(stage, measured): (&StageFile, &String)| {
            stage
                .sha256
                .as_ref()
                .is_some_and(|stated| !stated.eq_ignore_ascii_case(measured))
        };
        let mut pairs = stages.iter().zip(&certificate.weights_sha256);
        let differs = stages.len() != certificate.weights_sha256.len() || pairs.any(is_other);
        (!differs).then_some(certificate)
    }

    /// Returns the ONNX files of the variant `name`: its own, or those of the model.
    pub fn stages_of(&self, name: &str) -> &[StageFile] {
        let own = self.variants.get(name).map(|variant| &variant.stages);
        own.filter(|stages| !stages.is_empty())
            .unwrap_or(&self.stages)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = r#"
        name = "birds"
        task = "classification"
        description = "a test"
        labels = "labels.txt"
        stages = [ { role = "network", file = "a.onnx", sha256 = "SHA" } ]
        [preprocess]
        resize = { mode = "short_side", size = 8, filter = "bilinear" }
        mean = [0.5, 0.5, 0.5]
        std = [0.5, 0.5, 0.5]
        [certificates.fp32]
        weights_sha256 = ["SHA"]
        dataset = "imagenet"
        dataset_sha256 = "00"
        images = 3
        decode = "exact"
        figures = { acc1 = 81.0 }
        sightline = "0.1.0"
        onnxruntime = "1.23"
        date = "2026-01-01"
        "#;

    #[test]
    fn a_certificate_belongs_to_the_files_that_were_measured() {
        let sha = "ab".repeat(32);
        let text = MANIFEST.replace("SHA", &sha);
        let manifest = ModelManifest::parse(&text).unwrap();
        let certificate = manifest.certificate("fp32").unwrap();
        assert_eq!(certificate.figures["acc1"], 81.0);
        assert_eq!(manifest.certificate("int8"), None);
        assert_eq!(
            ModelManifest::parse(&manifest.to_toml().unwrap()).unwrap(),
            manifest
        );
        let other = text.replacen(&sha, &"cd".repeat(32), 1);
        assert_eq!(
            ModelManifest::parse(&other).unwrap().certificate("fp32"),
            None
        );
    }
}
