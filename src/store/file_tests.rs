//! Tests of the files that a model may consist of: their kinds, sizes and places.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use tempfile::TempDir;

use super::tests::{MANIFEST, directory};
use super::*;

const FILES: [&str; 3] = ["model.toml", "labels.txt", "model.onnx"];

/// Returns a models directory with the model `birds`.
fn birds() -> TempDir {
    directory(&[("birds/model.toml", MANIFEST.to_owned())])
}

/// Finds the model `reference` and reads all of its files.
fn load(store: &ModelStore, reference: &str) -> Result<ModelSource, StoreError> {
    let reference = reference.parse().unwrap();
    let source = store.find(&reference)?;
    source.graphs()?;
    Ok(source)
}

/// Returns the store of a models directory.
fn store(models: &Path) -> ModelStore {
    ModelStore::new(Some(models.to_path_buf()))
}

#[test]
fn only_regular_files_are_read() {
    type Make = fn(&Path);
    let kinds: [(Make, &str); 4] = [
        (
            |path| mknodat(CWD, path, FileType::Fifo, Mode::RUSR, 0).unwrap(),
            "a pipe (FIFO)",
        ),
        (|path| drop(UnixListener::bind(path).unwrap()), "a socket"),
        (|path| symlink("/dev/zero", path).unwrap(), "a device"),
        (|path| symlink("/", path).unwrap(), "a folder"),
    ];
    for (make, expected) in kinds {
        for file in FILES {
            let models = birds();
            let path = models.path().join("birds").join(file);
            fs::remove_file(&path).unwrap();
            make(&path);
            let message = load(&store(models.path()), "birds")
                .unwrap_err()
                .to_string();
            assert!(message.starts_with("cannot read"), "{message}");
            let expected = format!("{file}: expected a regular file, got {expected}");
            assert!(message.ends_with(&expected), "{message}");
        }
    }
    let folder = birds();
    let error = read_regular(folder.path(), 9).unwrap_err().to_string();
    assert!(
        error.ends_with("expected a regular file, got a folder"),
        "{error}"
    );
    assert!(read_labels(folder.path()).is_err());
}

#[test]
fn sizes_are_checked_before_reading() {
    let models = birds();
    for (file, size) in [
        ("model.toml", 17 << 20),
        ("labels.txt", 17 << 20),
        ("model.onnx", 3 << 30),
    ] {
        let path = models.path().join("birds").join(file);
        let content = fs::read(&path).unwrap();
        // A sparse file, which needs no space on the disk.
        fs::File::create(&path).unwrap().set_len(size).unwrap();
        let error = load(&store(models.path()), "birds").unwrap_err();
        assert!(
            matches!(error, StoreError::TooLarge { .. }),
            "{file}: {error}"
        );
        fs::write(&path, content).unwrap();
    }
    assert!(load(&store(models.path()), "birds").is_ok());
    // The size of this file is stated as 0.
    let error = read_regular(Path::new("/proc/self/maps"), 9).unwrap_err();
    assert!(matches!(error, StoreError::TooLarge { .. }), "{error}");
}

#[test]
fn links_inside_the_models_directory_are_followed() {
    // The layout of a Kubernetes volume: DIR/birds/model.toml -> ..data/model.toml, and
    // ..data -> ..2026.
    let models = birds();
    let folder = models.path().join("birds");
    fs::create_dir(folder.join("..2026")).unwrap();
    symlink("..2026", folder.join("..data")).unwrap();
    for file in FILES {
        fs::rename(folder.join(file), folder.join("..2026").join(file)).unwrap();
        symlink(Path::new("..data").join(file), folder.join(file)).unwrap();
    }
    let path = |rest: &str| folder.join(rest).display().to_string();
    for reference in ["birds", &path(""), &path("model.toml"), &path("model.onnx")] {
        let source = load(&store(models.path()), reference).unwrap();
        assert_eq!(source.labels, ["wren", "robin"], "{reference}");
    }
    // A volume that is the models directory itself lists its model once.
    assert_eq!(store(&folder).list().unwrap().len(), 1);
    // An absolute link, a link to another model's file, and a models directory that is a link.
    fs::create_dir(models.path().join("shared")).unwrap();
    let shared = models.path().join("shared/labels.txt");
    fs::write(&shared, "a\nb").unwrap();
    fs::remove_file(folder.join("labels.txt")).unwrap();
    symlink(&shared, folder.join("labels.txt")).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let link = elsewhere.path().join("models");
    symlink(models.path(), &link).unwrap();
    for directory in [models.path(), &link] {
        let source = load(&store(directory), "birds").unwrap();
        assert_eq!(source.labels, ["a", "b"]);
    }
}

#[test]
fn links_out_of_the_models_directory_need_the_flag() {
    for file in ["model.toml", "labels.txt", "model.onnx", ""] {
        let (models, elsewhere) = (birds(), tempfile::tempdir().unwrap());
        let inside = models.path().join("birds").join(file);
        let inside = inside.components().collect::<PathBuf>();
        let target = elsewhere.path().join("target");
        fs::rename(&inside, &target).unwrap();
        symlink(&target, &inside).unwrap();
        let store = store(models.path());
        let error = load(&store, "birds").unwrap_err();
        assert!(
            matches!(error, StoreError::LinkOutside { .. }),
            "{file}: {error}"
        );
        let message = error.to_string();
        assert!(message.contains("--follow-symlinks"), "{message}");
        assert!(message.contains(target.to_str().unwrap()), "{message}");
        if matches!(file, "model.toml" | "") {
            let message = store.list().unwrap_err().to_string();
            assert!(message.contains("--follow-symlinks"), "{message}");
        }
        let follows = store.following_symlinks(true);
        assert!(load(&follows, "birds").is_ok(), "{file}");
        assert_eq!(follows.list().unwrap().len(), 1, "{file}");
    }
}

#[test]
fn a_path_may_be_a_link_but_the_files_of_its_manifest_may_not() {
    let (models, elsewhere) = (birds(), tempfile::tempdir().unwrap());
    let store = ModelStore::new(None);
    let at = |name: &str| elsewhere.path().join(name);
    let found = |path: &Path| load(&store, path.to_str().unwrap());
    symlink(models.path().join("birds"), at("linked")).unwrap();
    for path in [
        at("linked"),
        at("linked/model.toml"),
        at("linked/model.onnx"),
    ] {
        assert!(found(&path).is_ok(), "{path:?}");
    }
    let folder = models.path().join("birds");
    fs::rename(folder.join("model.toml"), at("manifest")).unwrap();
    symlink(at("manifest"), folder.join("model.toml")).unwrap();
    // A link out of the folder is followed if the user names it, but not if the user names only the folder.
    assert!(found(&folder.join("model.toml")).is_ok());
    let error = found(&folder).unwrap_err();
    assert!(matches!(error, StoreError::LinkOutside { .. }), "{error}");
    for file in ["labels.txt", "model.onnx"] {
        fs::rename(folder.join(file), at(file)).unwrap();
        symlink(at(file), folder.join(file)).unwrap();
        let error = found(&folder.join("model.toml")).unwrap_err();
        assert!(
            matches!(error, StoreError::LinkOutside { .. }),
            "{file}: {error}"
        );
        let followed = store.clone().following_symlinks(true);
        assert!(load(&followed, folder.to_str().unwrap()).is_ok(), "{file}");
        fs::remove_file(folder.join(file)).unwrap();
        fs::rename(at(file), folder.join(file)).unwrap();
    }
}

#[test]
fn a_broken_link_is_an_error() {
    let models = birds();
    let path = models.path().join("birds/model.toml");
    fs::remove_file(&path).unwrap();
    symlink("gone", &path).unwrap();
    let error = load(&store(models.path()), "birds").unwrap_err();
    assert!(matches!(error, StoreError::Io { .. }), "{error}");
    let message = store(models.path()).list().unwrap_err().to_string();
    assert!(message.contains("birds/model.toml"), "{message}");
}

#[test]
fn a_file_is_hashed_in_parts() {
    let models = birds();
    let path = models.path().join("large");
    let content: Vec<u8> = (0..200_000_u32).map(|number| number as u8).collect();
    fs::write(&path, &content).unwrap();
    let hash = |limit| Boundary::None.sha256(&path, limit);
    assert_eq!(hash(200_000).unwrap(), crate::manifest::sha256(&content));
    assert!(matches!(hash(199_999), Err(StoreError::TooLarge { .. })));
}
