//! The start-up cache: results with and without it, and what makes an entry unusable.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::common::{path, run, tiny};

/// Classifies a photograph with the model `model` and the further arguments `args`. Returns the predictions and the log.
fn predict(model: &Path, args: &[&str]) -> (serde_json::Value, String) {
    let photo = path("photos/coffee.png");
    let fixed = [
        "predict",
        photo.to_str().unwrap(),
        "--json",
        "--log",
        "sightline=debug",
    ];
    let model = ["--model", model.to_str().unwrap()];
    let (code, stdout, stderr) = run(&[&fixed[..], &model, args].concat());
    assert_eq!(code, Some(0), "{stderr}");
    let mut result: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    result.as_object_mut().unwrap().remove("timing_ms");
    (result, stderr)
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries.map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn entries_are_used_if_they_are_whole_and_only_their_user_can_write_them() {
    const FOUND: &str = "found in the start-up cache";
    let directory = tempfile::tempdir().unwrap();
    let model = directory.path().join("tiny");
    tiny::export(&model);
    let folder = directory.path().join("parent/cache");
    let cache = ["--cache", folder.to_str().unwrap()];

    let (expected, log) = predict(&model, &cache);
    assert!(log.contains("written to the start-up cache"), "{log}");
    let [entry] = &entries(&folder)[..] else {
        panic!("{:?}", entries(&folder));
    };
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&folder), mode(entry)), (0o700, 0o600));

    let (result, log) = predict(&model, &cache);
    assert_eq!(result, expected);
    assert!(
        log.contains(FOUND) && !log.contains("model optimized\n"),
        "{log}"
    );

    let whole = fs::read(entry).unwrap();
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 1;
    for content in [&damaged[..], &whole[..whole.len() / 3], b""] {
        fs::write(entry, content).unwrap();
        let (result, log) = predict(&model, &cache);
        assert_eq!(result, expected);
        assert!(log.contains("start-up cache entry ignored"), "{log}");
        assert_eq!(
            fs::read(entry).unwrap().len(),
            whole.len(),
            "the entry was not replaced"
        );
        assert!(predict(&model, &cache).1.contains(FOUND));
    }

    // The model was tried under another time limit.
    let (result, log) = predict(
        &model,
        &[&cache[..], &["--load-timeout-ms", "59000"]].concat(),
    );
    assert_eq!(result, expected);
    assert!(!log.contains(FOUND), "{log}");
    assert_eq!(entries(&folder).len(), 2);

    fs::set_permissions(&folder, Permissions::from_mode(0o777)).unwrap();
    let (result, log) = predict(&model, &cache);
    assert_eq!(result, expected);
    assert!(
        log.contains("the folder has mode 777") && !log.contains(FOUND),
        "{log}"
    );
}

#[test]
fn nothing_is_cached_if_the_cache_is_off_or_its_folder_cannot_be_created() {
    let directory = tempfile::tempdir().unwrap();
    let model = directory.path().join("tiny");
    tiny::export(&model);
    let (expected, log) = predict(&model, &["--cache", "off"]);
    assert!(!log.contains("start-up cache"), "{log}");
    let (result, log) = predict(&model, &["--cache", "/proc/sightline"]);
    assert_eq!(result, expected);
    assert!(log.contains("cannot write to the start-up cache"), "{log}");
}
