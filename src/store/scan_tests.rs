//! Tests of reading a models directory: what is a model, what is ignored, and what is an error.

use std::fs;
use std::os::unix::fs::symlink;

use super::tests::{MANIFEST, directory};
use super::*;

/// Returns the store of the models directory `models`.
fn store(models: &Path) -> ModelStore {
    ModelStore::new(Some(models.to_path_buf()))
}

/// Creates the files `names` with a word as content in `folder`. A name that ends in `/` is a folder.
fn create(folder: &Path, names: &[&str]) {
    for name in names {
        let path = folder.join(name);
        if name.ends_with('/') {
            fs::create_dir_all(path).unwrap();
        } else {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "content").unwrap();
        }
    }
}

/// Returns the names of the models that are served from `models`.
fn served(models: &Path) -> Vec<String> {
    let models = store(models).served().unwrap();
    models
        .into_iter()
        .map(|model| model.manifest.name)
        .collect()
}

#[test]
fn entries_that_look_like_a_model_but_are_none_are_errors() {
    // Files of the entry, and a text of the error in which DIR is the models directory.
    let cases: &[(&[&str], &str)] = &[
        (
            &["cats/model.onnx", "cats/labels.txt"],
            "DIR/cats has model.onnx but no model.toml: `sightline inspect DIR/cats/model.onnx` prints",
        ),
        (
            &["cats/cats.onnx", "cats/cats.toml"],
            "DIR/cats has cats.toml but no model.toml: rename",
        ),
        (&["cats/"], "DIR/cats is empty: remove it"),
        (
            &["cats/model.toml/", "cats/labels.txt"],
            "cannot read DIR/cats/model.toml: expected a regular file, got a folder",
        ),
        (&["cats/.git/"], "DIR/cats is empty: remove it"),
        (
            &["cats/v1/model.toml", "cats/v1/model.onnx"],
            "DIR/cats has no model.toml, but its folder v1 has: move v1 one level up, or pass --models DIR/cats",
        ),
        (
            &["cats/1/model.onnx", "cats/config.pbtxt"],
            "DIR/cats/1 has model.onnx but no model.toml",
        ),
        (
            &["cats/best.pth", "cats/log.txt"],
            "DIR/cats has the checkpoint best.pth but no model.toml: `sightline export NAME --weights \
             DIR/cats/best.pth -o DIR/cats`",
        ),
        (
            &["cats.onnx"],
            "DIR/cats.onnx has no manifest: move it into a folder",
        ),
        (
            &["cats/model.toml"],
            "cannot use manifest DIR/cats/model.toml: ",
        ),
        (
            &["cats.toml", "cats.onnx"],
            "cannot use manifest DIR/cats.toml: ",
        ),
    ];
    for (files, expected) in cases {
        let models = directory(&[("birds/model.toml", MANIFEST.to_owned())]);
        create(models.path(), files);
        let place = models.path().to_str().unwrap();
        let expected = expected.replace("DIR", place);
        for result in [store(models.path()).list(), store(models.path()).served()] {
            let error = result.unwrap_err();
            assert!(matches!(error, StoreError::Directory(_)), "{error:?}");
            let message = error.to_string();
            let start = format!("cannot use the models directory {place}: ");
            assert!(message.starts_with(&start), "{files:?}: {message}");
            assert!(message.contains(&expected), "{files:?}: {message}");
        }
        let find = |name: &str| {
            let reference = name.parse().unwrap();
            store(models.path()).find(&reference)
        };
        assert!(find("birds").is_ok(), "{files:?}");
        assert!(find("efficientnet_lite0").is_ok(), "{files:?}");
        let message = find("cats").unwrap_err().to_string();
        assert!(message.contains(place), "{files:?}: {message}");
        let path = models.path().join("cats");
        if path.is_dir() && !path.join("model.toml").exists() {
            let message = find(path.to_str().unwrap()).unwrap_err().to_string();
            assert!(message.contains(&expected), "{files:?}: {message}");
        }
    }
}

#[test]
fn the_built_in_model_does_not_replace_a_broken_one_of_its_name() {
    let models = directory(&[]);
    create(models.path(), &["efficientnet_lite0/model.onnx"]);
    let reference = "efficientnet_lite0".parse().unwrap();
    let message = store(models.path())
        .find(&reference)
        .unwrap_err()
        .to_string();
    assert!(message.contains("but no model.toml"), "{message}");
}

#[test]
fn files_that_the_manifest_names_are_missed_before_the_start() {
    let int8 = "\n[variants.int8]\nprecision = \"int8\"\nranges = \"model.int8.json\"\n\
        stages = [{ role = \"network\", file = \"model.int8.onnx\" }]\n";
    let models = directory(&[("birds/model.toml", format!("{MANIFEST}{int8}"))]);
    let folder = models.path().join("birds");
    create(&folder, &["model.int8.onnx", "model.int8.json"]);
    assert_eq!(served(models.path()), ["birds"]);
    for file in ["model.onnx", "model.int8.onnx", "model.int8.json"] {
        fs::rename(folder.join(file), folder.join("moved")).unwrap();
        let message = store(models.path()).served().unwrap_err().to_string();
        assert!(message.contains(&format!("birds/{file}")), "{message}");
        assert_eq!(store(models.path()).list().unwrap().len(), 1, "{file}");
        fs::rename(folder.join("moved"), folder.join(file)).unwrap();
    }
}

#[test]
fn everything_else_in_the_directory_is_ignored() {
    let models = directory(&[
        ("birds/model.toml", MANIFEST.to_owned()),
        ("flat.toml", MANIFEST.replace("birds", "flat")),
    ]);
    create(
        models.path(),
        &[
            ".git/config",
            ".DS_Store",
            ".sightline-stage-1/model.onnx",
            "..data/model.onnx",
            "lost+found/",
            "README.md",
            "birds.pth",
            "docs/index.html",
            "shared/labels.txt",
            "birds/notes/",
            "birds/other.onnx",
            // Files that `export` and `quantize` write beside flat.onnx.
            "flat.onnx",
            "flat.fused.onnx",
            "flat.int8.onnx",
        ],
    );
    symlink("README.md", models.path().join("link")).unwrap();
    assert_eq!(served(models.path()), ["birds", "flat"]);
    // The file does not belong to flat.toml, although its name starts with the same letters.
    create(models.path(), &["flatter.onnx"]);
    let message = store(models.path()).served().unwrap_err().to_string();
    assert!(
        message.contains("flatter.onnx has no manifest"),
        "{message}"
    );
}

#[test]
fn all_broken_entries_are_named_up_to_a_limit() {
    let models = directory(&[]);
    let names: Vec<String> = (0..13).map(|index| format!("model_{index:02}/")).collect();
    create(
        models.path(),
        &names.iter().map(String::as_str).collect::<Vec<_>>(),
    );
    symlink("gone", models.path().join("link")).unwrap();
    create(models.path(), &["broken/model.toml"]);
    let message = store(models.path()).list().unwrap_err().to_string();
    for text in [
        ": 15 entries cannot be served:\n  - cannot use manifest ",
        "link is a link to gone, which does not exist",
        "\n  - and 5 more\n",
        "name the models to serve with --model",
    ] {
        assert!(message.contains(text), "{text}: {message}");
    }
    assert!(message.contains("model_07 is empty") && !message.contains("model_08 is"));
    let later = message.split('\n').skip(1);
    assert!(later.clone().count() > 11, "{message}");
    assert!(
        later
            .into_iter()
            .all(|line| line.is_empty() || line.starts_with("  "))
    );
}

#[test]
fn a_directory_without_a_model_is_an_error_unless_it_is_optional() {
    let models = directory(&[]);
    let place = models.path().to_str().unwrap();
    let message = |store: &ModelStore| store.served().unwrap_err().to_string();
    let empty = message(&store(models.path()));
    let expected = format!("the models directory {place} has no model: `sightline export");
    assert!(empty.starts_with(&expected), "{empty}");
    assert!(empty.contains("--model efficientnet_lite0"), "{empty}");
    create(models.path(), &["README.md", "birds.pth"]);
    let clutter = message(&store(models.path()));
    assert!(
        clutter.contains("has no model, only README.md, birds.pth: "),
        "{clutter}"
    );
    assert!(store(models.path()).list().unwrap().is_empty());

    let built_in = |store: ModelStore| {
        let models = store.served().unwrap();
        assert_eq!(models.len(), 1);
        assert_eq!(models[0].manifest.name, "efficientnet_lite0");
    };
    built_in(store(models.path()).optional());
    built_in(ModelStore::new(None));
    create(models.path(), &["birds/"]);
    let broken = message(&store(models.path()).optional());
    assert!(broken.contains("birds is empty"), "{broken}");
}

#[test]
fn a_path_that_is_no_directory_is_an_error() {
    let models = directory(&[("birds/model.toml", MANIFEST.to_owned())]);
    let at = |name: &str| models.path().join(name);
    create(models.path(), &["notes.txt"]);
    symlink("gone", at("link")).unwrap();
    let manifest = at("birds/model.toml");
    let pass = format!("is a file: pass --model {}", manifest.display());
    for (path, expected) in [
        (at("gone"), "does not exist"),
        (at("link"), "does not exist"),
        (at("notes.txt"), "is a file: --models expects the directory"),
        (manifest, &pass),
    ] {
        let store = store(&path);
        let reference = "efficientnet_lite0".parse().unwrap();
        for error in [
            store.check().unwrap_err(),
            store.list().unwrap_err(),
            store.served().unwrap_err(),
            store.find(&reference).unwrap_err(),
        ] {
            assert!(matches!(error, StoreError::Directory(_)), "{error:?}");
            assert!(error.to_string().contains(expected), "{error}");
        }
    }
    assert!(ModelStore::new(None).check().is_ok());
}

#[test]
fn two_folders_with_one_name_are_an_error_that_names_both() {
    let models = directory(&[
        ("a/model.toml", MANIFEST.to_owned()),
        ("b/model.toml", MANIFEST.to_owned()),
    ]);
    let path = models.path();
    let error = store(path).list().unwrap_err().to_string();
    let (a, b) = (path.join("a/model.toml"), path.join("b/model.toml"));
    let expected = format!(
        "two models are named `birds`, {} and {}: change `name`",
        a.display(),
        b.display()
    );
    assert!(error.contains(&expected), "{error}");
    let (installed, broken) = store(path).installed().unwrap();
    assert_eq!((installed.len(), broken.is_some()), (1, true));
}
