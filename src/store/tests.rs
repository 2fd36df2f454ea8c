use std::fs;

use super::*;

const MANIFEST: &str = r#"
    name = "birds"
    task = "classification"
    description = "a test"
    file = "model.onnx"
    labels = "labels.txt"
    [preprocess]
    resize = { mode = "short_side", size = 256, filter = "bilinear" }
    crop = 224
    mean = [0.5, 0.5, 0.5]
    std = [0.5, 0.5, 0.5]
"#;

/// A models directory with these manifests, each at its path, with labels and a graph beside it.
fn directory(manifests: &[(&str, String)]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (path, manifest) in manifests {
        let path = directory.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path.with_file_name("labels.txt"), "wren\nrobin\n").unwrap();
        fs::write(path.with_file_name("model.onnx"), "graph").unwrap();
        fs::write(path, manifest).unwrap();
    }
    directory
}

fn find(directory: &Path, name: &str) -> Result<ModelSource, StoreError> {
    let Ok(reference) = name.parse();
    ModelStore::new(Some(directory.to_path_buf())).find(&reference)
}

#[test]
fn models_are_found_by_name_and_by_path() {
    let flat = MANIFEST.replace("birds", "flat");
    let directory = directory(&[
        ("birds/model.toml", MANIFEST.to_owned()),
        ("flat.toml", flat),
    ]);
    let path = |rest: &str| directory.path().join(rest).display().to_string();
    let cases = [
        ("birds".to_owned(), "birds"),
        ("birds@fp32".to_owned(), "birds"),
        ("flat".to_owned(), "flat"),
        ("efficientnet_lite0".to_owned(), "efficientnet_lite0"),
        (path("birds"), "birds"),
        (path("birds/model.toml"), "birds"),
        (path("birds/model.onnx"), "birds"),
        (path("flat.toml"), "flat"),
    ];
    for (reference, expected) in cases {
        let source = find(directory.path(), &reference).unwrap();
        assert_eq!(source.manifest.name, expected, "{reference}");
    }
    let source = find(directory.path(), "birds").unwrap();
    assert_eq!(source.labels, ["wren", "robin"]);
    assert_eq!(source.graphs().unwrap().network.as_ref(), b"graph");
}

#[test]
fn what_is_not_here_says_how_to_bring_it() {
    let directory = directory(&[("birds/model.toml", MANIFEST.to_owned())]);
    let cases = [
        ("resnet50", "sightline export resnet50 --weights"),
        ("nonsense", "the catalogue does not know it"),
        ("birds@int8", "Its variants: fp32"),
        ("no/such/path", "names no model.toml"),
    ];
    for (name, expected) in cases {
        let message = find(directory.path(), name).unwrap_err().to_string();
        assert!(message.contains(expected), "{name}: {message}");
    }
}

#[test]
fn a_broken_manifest_stands_in_nobody_elses_way() {
    let directory = directory(&[
        ("birds/model.toml", MANIFEST.to_owned()),
        ("broken.toml", "name = ".to_owned()),
    ]);
    assert!(find(directory.path(), "birds").is_ok());
    assert!(find(directory.path(), "efficientnet_lite0").is_ok());
    assert!(matches!(
        find(directory.path(), "broken"),
        Err(StoreError::Manifest { .. })
    ));
    let store = ModelStore::new(Some(directory.path().to_path_buf()));
    assert!(matches!(store.list(), Err(StoreError::Manifest { .. })));
}

#[test]
fn a_manifest_reads_files_beside_it_only() {
    let cases = [
        ("\"model.onnx\"", "\"../model.onnx\""),
        ("\"model.onnx\"", "\"/etc/passwd\""),
        ("\"labels.txt\"", "\"../../labels.txt\""),
        ("\"labels.txt\"", "\"..\""),
    ];
    for (from, to) in cases {
        let directory = directory(&[("birds/model.toml", MANIFEST.replace(from, to))]);
        let error = find(directory.path(), "birds").unwrap_err();
        assert!(matches!(error, StoreError::Outside { .. }), "{to}: {error}");
    }
}
