//! Reads manifests from arbitrary bytes. The fuzz target `manifest` and the test below call the
//! function.

use std::path::{Component, Path};

use super::ModelManifest;

/// Parses and checks `bytes` as a `model.toml`, and writes the manifest. Returns whether the
/// manifest is valid.
///
/// # Panics
/// If a valid manifest is not read back as written, names an ONNX file outside of its folder, or
/// has an architecture whose arguments are out of range.
pub fn read_manifest(bytes: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(bytes) else {
        return false;
    };
    let Ok(manifest) = ModelManifest::parse(text) else {
        return false;
    };
    for stage in &manifest.stages {
        assert!(is_file_name(&stage.file), "{}", stage.file.display());
    }
    let written = manifest.to_toml().ok();
    let again = written.and_then(|text| ModelManifest::parse(&text).ok());
    assert_eq!(again.as_ref(), Some(&manifest));
    assert!(
        manifest
            .architecture
            .is_none_or(|architecture| architecture.check().is_ok())
    );
    true
}

fn is_file_name(path: &Path) -> bool {
    let mut components = path.components();
    matches!(
        (components.next(), components.next()),
        (Some(Component::Normal(_)), None)
    )
}

#[cfg(test)]
mod tests {
    use super::read_manifest;
    use crate::testing::fuzz::check;

    #[test]
    fn mutated_manifests() {
        check("manifest", read_manifest);
    }
}
