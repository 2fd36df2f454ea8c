use std::fs;

use onnx_export::{Role, Stages};

use super::*;
use crate::manifest::{Resize, sha256};

pub(super) const MANIFEST: &str = r#"
    name = "birds"
    task = "classification"
    description = "a test"
    stages = [{ role = "network", file = "model.onnx" }]
    labels = "labels.txt"
    [preprocess]
    resize = { mode = "short_side", size = 256, filter = "bilinear" }
    crop = 224
    mean = [0.5, 0.5, 0.5]
    std = [0.5, 0.5, 0.5]
"#;

/// Returns `MANIFEST` with three variants: int8 weights, a resize to 240 pixels, and both.
fn with_int8() -> String {
    format!(
        r#"{MANIFEST}
    [variants.int8]
    precision = "int8"
    stages = [{{ role = "network", file = "model.int8.onnx" }}]
    [variants.240]
    resize = {{ mode = "short_side", size = 240, filter = "bilinear" }}
    [variants.240-int8]
    precision = "int8"
    stages = [{{ role = "network", file = "model.int8.onnx" }}]
    resize = {{ mode = "short_side", size = 240, filter = "bilinear" }}"#
    )
}

/// Creates a models directory from pairs of a manifest's path and its text. Each manifest has a
/// label file and a placeholder ONNX file in its folder.
pub(super) fn directory(manifests: &[(&str, String)]) -> tempfile::TempDir {
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

/// Looks up `name`, a model reference such as `birds@int8`, in a models directory.
fn find(directory: &Path, name: &str) -> Result<ModelSource, StoreError> {
    let reference = name.parse().unwrap();
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
    assert_eq!(source.graphs().unwrap().network().as_ref(), b"graph");
}

#[test]
fn errors_about_missing_models_say_how_to_install_them() {
    let directory = directory(&[("birds/model.toml", MANIFEST.to_owned())]);
    let cases = [
        ("resnet50", "sightline export resnet50 --weights"),
        ("nonsense", "the catalogue has no model of this name"),
        ("birds@int8", "the variant must be one of fp32"),
        (
            "no/such/path",
            "the path must name a folder with model.toml",
        ),
    ];
    for (name, expected) in cases {
        let message = find(directory.path(), name).unwrap_err().to_string();
        assert!(message.contains(expected), "{name}: {message}");
    }
}

#[test]
fn a_variant_is_another_graph_or_resize() {
    let directory = directory(&[("birds/model.toml", with_int8())]);
    let folder = directory.path().join("birds");
    fs::write(folder.join("model.int8.onnx"), "int8 graph").unwrap();
    let (by_path, cases) = (
        format!("{}@int8", folder.display()),
        [
            ("birds", "graph", Precision::Fp32, 256),
            ("birds@fp32", "graph", Precision::Fp32, 256),
            ("birds@int8", "int8 graph", Precision::Int8, 256),
            ("birds@240", "graph", Precision::Fp32, 240),
            ("birds@240-int8", "int8 graph", Precision::Int8, 240),
        ],
    );
    for (name, graph, precision, side) in cases {
        let source = find(directory.path(), name).unwrap();
        assert_eq!(source.graphs().unwrap().network(), graph, "{name}");
        assert_eq!(source.precision, precision, "{name}");
        let Resize::ShortSide { size, .. } = source.manifest.preprocess.resize else {
            panic!("{name}: the resize mode must be `short_side`");
        };
        assert_eq!(size, side, "{name}");
        let variant = name.split_once('@').map_or("fp32", |(_, variant)| variant);
        assert_eq!(source.id(), format!("birds@{variant}"));
    }
    let source = find(directory.path(), &by_path).unwrap();
    assert_eq!(source.id(), "birds@int8");
    let source = find(directory.path(), "birds").unwrap();
    assert_eq!(source.int8().unwrap().id(), "birds@int8");
    let built_in = ModelSource::embedded().unwrap().int8().unwrap();
    assert_eq!(built_in.id(), "efficientnet_lite0@int8");

    fs::remove_file(folder.join("model.int8.onnx")).unwrap();
    let source = find(directory.path(), "birds@int8").unwrap();
    let message = source.graphs().unwrap_err().to_string();
    assert!(message.ends_with("birds/model.int8.onnx"), "{message}");
}

#[test]
fn a_file_with_another_hash_is_an_error() {
    let stated = |hash: String| {
        MANIFEST.replace(
            "\"model.onnx\"",
            &format!("\"model.onnx\", sha256 = \"{hash}\""),
        )
    };
    let (right, wrong) = (sha256(b"graph"), sha256(b"other"));
    for (hash, loads) in [
        (right.to_ascii_uppercase(), true),
        (right, true),
        (wrong, false),
    ] {
        let directory = directory(&[("birds/model.toml", stated(hash))]);
        let graphs = find(directory.path(), "birds").unwrap().graphs();
        match graphs {
            Ok(_) => assert!(loads),
            Err(error) => assert!(!loads && matches!(error, StoreError::Hash { .. })),
        }
    }
}

#[test]
fn a_variant_of_other_weights_is_stale() {
    let model = |stated: Option<&str>, source: Option<&str>| {
        let stated = stated.map(|hash| format!("\"model.onnx\", sha256 = \"{hash}\""));
        let stated = stated.unwrap_or_else(|| "\"model.onnx\"".to_owned());
        let source = source.map(|hash| format!("source_sha256 = [\"{hash}\"]"));
        let int8 = format!("[variants.int8]\n    {}", source.unwrap_or_default());
        let text = with_int8().replace("\"model.onnx\"", &stated);
        text.replace("[variants.int8]", &int8)
    };
    let (own, other) = (sha256(b"graph"), sha256(b"other"));
    let cases = [
        (None, None, false),
        (None, Some(&own), false),
        (None, Some(&other), true),
        (Some(&own), Some(&own), false),
        (Some(&own), Some(&other), true),
        (Some(&other), Some(&own), true),
        (Some(&other), None, false),
    ];
    for (stated, source, stale) in cases {
        let text = model(stated.map(String::as_str), source.map(String::as_str));
        let directory = directory(&[("birds/model.toml", text)]);
        let found = find(directory.path(), "birds").unwrap();
        assert_eq!(found.int8().is_none(), stale, "{stated:?} {source:?}");
        assert_eq!(found.stale().len(), usize::from(stale));
        match find(directory.path(), "birds@int8") {
            Ok(_) => assert!(!stale),
            Err(error) => {
                assert!(stale && matches!(error, StoreError::Stale { .. }));
                let message = error.to_string();
                assert!(message.contains("sightline quantize") && message.contains("model.toml"));
            }
        }
        let fresh = found.variants().into_iter().flatten().count();
        assert_eq!(
            fresh,
            found.manifest.variants.len() + 1 - usize::from(stale)
        );
        // Other variants stay usable.
        assert!(find(directory.path(), "birds@240-int8").is_ok());
    }
}

#[test]
fn a_stage_of_a_writer_is_not_a_model() {
    let directory = directory(&[
        ("birds/model.toml", MANIFEST.to_owned()),
        (".sightline-stage-0/model.toml", "name = ".to_owned()),
    ]);
    let store = ModelStore::new(Some(directory.path().to_path_buf()));
    assert_eq!(store.list().unwrap().len(), 1);
}

#[test]
fn a_variant_of_two_stages_has_two_files() {
    let manifest = include_str!("../../models/fasterrcnn_mobilenet_v3_large_320_fpn/model.toml");
    let manifest = manifest.replacen(
        "labels = \"coco91.txt\"",
        "labels = \"labels.txt\"\nstages = [{ role = \"network\", file = \"model.onnx\" }, \
         { role = \"box_head\", file = \"model.box_head.onnx\" }]",
        1,
    ) + "\n[variants.int8]\nprecision = \"int8\"\n\
           stages = [{ role = \"network\", file = \"model.int8.onnx\" }, \
           { role = \"box_head\", file = \"model.int8.box_head.onnx\" }]\n";
    let directory = directory(&[("boxes/model.toml", manifest)]);
    let name = "fasterrcnn_mobilenet_v3_large_320_fpn";
    let source = find(directory.path(), name).unwrap();
    let files = |source: &ModelSource| match &source.origin {
        Origin::Files { paths, .. } => paths.clone(),
        other => panic!("{other:?}"),
    };
    let at = |name: &str| directory.path().join("boxes").join(name);
    let expected = |network, box_head| Stages::new(at(network)).with(Role::BoxHead, at(box_head));
    assert_eq!(
        files(&source),
        expected("model.onnx", "model.box_head.onnx")
    );
    assert_eq!(
        files(&source.int8().unwrap()),
        expected("model.int8.onnx", "model.int8.box_head.onnx")
    );
}

#[test]
fn a_broken_manifest_does_not_affect_other_models() {
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
    assert!(matches!(store.list(), Err(StoreError::Directory(_))));
    // The broken manifest may be the one of a model that no other manifest names.
    let message = find(directory.path(), "resnet50").unwrap_err().to_string();
    assert!(message.contains("`resnet50` not found"), "{message}");
    assert!(message.contains("broken.toml"), "{message}");
}

#[test]
fn a_manifest_reads_files_beside_it_only() {
    let cases = [
        ("\"model.onnx\"", "\"../model.onnx\""),
        ("\"model.onnx\"", "\"/etc/passwd\""),
        ("\"labels.txt\"", "\"../../labels.txt\""),
        ("\"labels.txt\"", "\"..\""),
        ("\"model.int8.onnx\"", "\"../model.onnx\""),
        ("\"model.int8.onnx\"", "\"/etc/passwd\""),
    ];
    for (from, to) in cases {
        let directory = directory(&[("birds/model.toml", with_int8().replace(from, to))]);
        let error = find(directory.path(), "birds").unwrap_err();
        assert!(matches!(error, StoreError::Outside { .. }), "{to}: {error}");
    }
}
