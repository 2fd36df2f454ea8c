//! The catalogue: manifests, labels and weights from `models/`, embedded in the binary.

use std::path::Path;

use crate::manifest::{ManifestError, ModelManifest};

include!(concat!(env!("OUT_DIR"), "/catalogue.rs"));

/// Name of the default model, whose weights are embedded in the binary.
pub const DEFAULT_MODEL: &str = "efficientnet_lite0";

/// Parses and returns every manifest of the catalogue, sorted by model name.
///
/// # Errors
/// [`ManifestError`] if a file of `models/` is malformed, which a test rules out.
pub fn manifests() -> Result<Vec<ModelManifest>, ManifestError> {
    MANIFESTS
        .iter()
        .map(|(_, text)| ModelManifest::parse(text))
        .collect()
}

/// Returns the names of the models of the catalogue, sorted.
pub fn names() -> impl Iterator<Item = &'static str> {
    MANIFESTS.iter().map(|(folder, _)| *folder)
}

/// Returns the manifest of the model called `name`, or `None` if the catalogue has no such model.
///
/// # Errors
/// [`ManifestError`] if the model's manifest is malformed, which a test rules out.
pub fn manifest(name: &str) -> Result<Option<ModelManifest>, ManifestError> {
    let found = MANIFESTS.iter().find(|(folder, _)| *folder == name);
    found
        .map(|(_, text)| ModelManifest::parse(text))
        .transpose()
}

/// Returns the text of a label file of `models/labels/`, or `None` if there is no such file.
pub fn labels(file: &Path) -> Option<&'static str> {
    LABELS
        .iter()
        .find(|(name, _)| Path::new(name) == file)
        .map(|(_, text)| *text)
}

/// Returns the embedded safetensors file of the model `name`, or `None` if the weights of this
/// model are not embedded.
pub fn weights(name: &str) -> Option<&'static [u8]> {
    WEIGHTS
        .iter()
        .find(|(folder, _)| *folder == name)
        .map(|(_, bytes)| *bytes)
}

/// Returns the text of the embedded ranges file `file` of the model `name`: the activation ranges
/// for its quantization to int8. `None` if no such file is embedded.
pub fn ranges(name: &str, file: &Path) -> Option<&'static str> {
    let wanted = Path::new(name).join(file);
    RANGES
        .iter()
        .find(|(path, _)| Path::new(path) == wanted)
        .map(|(_, text)| *text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_manifest_is_sound_and_named_as_its_folder() {
        for (folder, text) in MANIFESTS {
            let manifest = ModelManifest::parse(text).unwrap_or_else(|e| panic!("{folder}: {e}"));
            assert_eq!(manifest.name, *folder);
            let architecture = manifest.architecture.as_ref().unwrap();
            let labels = labels(&manifest.labels).unwrap_or_else(|| panic!("{folder}: no labels"));
            assert_eq!(labels.lines().count(), architecture.num_classes, "{folder}");
            for file in manifest.variants.values().flat_map(|v| &v.ranges) {
                assert!(ranges(folder, file).is_some(), "{folder}: {file:?}");
            }
            for weights in &manifest.weights {
                let file = weights.url.as_deref().unwrap_or(&weights.sha256_prefix);
                assert!(
                    file.contains(&weights.sha256_prefix),
                    "{folder}: {}",
                    weights.name
                );
            }
        }
    }

    #[test]
    fn the_default_model_is_in_the_binary() {
        assert!(manifest(DEFAULT_MODEL).unwrap().is_some());
        assert!(weights(DEFAULT_MODEL).is_some());
    }
}
