//! The catalogue: the networks that Sightline knows, compiled into the binary from `models/`.

use std::path::Path;

use crate::manifest::{ManifestError, ModelManifest};

include!(concat!(env!("OUT_DIR"), "/catalogue.rs"));

/// The model that is served when nothing else is asked for; its weights are in the binary.
pub const DEFAULT_MODEL: &str = "efficientnet_lite0";

/// Every manifest of the catalogue, by name.
///
/// # Errors
/// [`ManifestError`] if a file of `models/` is malformed, which a test rules out.
pub fn manifests() -> Result<Vec<ModelManifest>, ManifestError> {
    MANIFESTS
        .iter()
        .map(|(_, text)| ModelManifest::parse(text))
        .collect()
}

/// The manifest of the model called `name`.
///
/// # Errors
/// As [`manifests`].
pub fn manifest(name: &str) -> Result<Option<ModelManifest>, ManifestError> {
    let found = MANIFESTS.iter().find(|(folder, _)| *folder == name);
    found
        .map(|(_, text)| ModelManifest::parse(text))
        .transpose()
}

/// The text of a label file of `models/labels/`.
pub fn labels(file: &Path) -> Option<&'static str> {
    LABELS
        .iter()
        .find(|(name, _)| Path::new(name) == file)
        .map(|(_, text)| *text)
}

/// The safetensors file of a model whose weights the binary carries.
pub fn weights(name: &str) -> Option<&'static [u8]> {
    WEIGHTS
        .iter()
        .find(|(folder, _)| *folder == name)
        .map(|(_, bytes)| *bytes)
}

/// The ranges of the network `name` in the file beside its manifest that is called `file`.
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
            let labels = labels(&manifest.labels).unwrap_or_else(|| panic!("{folder}: labels"));
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
