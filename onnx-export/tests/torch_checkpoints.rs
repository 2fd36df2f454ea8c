//! Compares the readers with torch on the checkpoints of `tests/golden/checkpoints`, whose recipe,
//! `checkpoints.py`, recorded what `torch.load(weights_only=True)` reads from each.
//!
//! A file that both accept must have equal names, data types, shapes and elements. The two tables
//! list the files that only one of them accepts, with the reason.

#![expect(
    clippy::unwrap_used,
    reason = "a panic in a helper of a test is the report"
)]

#[path = "../examples/describe_weights.rs"]
#[expect(dead_code, reason = "the program's `main` is not used")]
mod describe_weights;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use describe_weights::describe;
use onnx_export::weights::StateDict;
use serde_json::Value;

/// Files that torch accepts and the readers reject, with the reason.
const STRICTER: &[(&str, &str)] = &[
    (
        "legacy_key_twice",
        "readers differ in which of two storages of one key they use",
    ),
    ("subclass", "subclasses of tensors are not supported"),
    (
        "zip_big_endian",
        "files of big-endian machines are not supported",
    ),
    (
        "zip_state_of_tensor",
        "torch replaces the elements of the tensor, and never writes such a state",
    ),
    (
        "zip_two_sizes",
        "torch ignores the second of two contradicting sizes of a storage",
    ),
];

/// Files that torch rejects and the readers accept, with the reason. Python's own pickle machine
/// must read the same tensors from them.
const WIDER: &[(&str, &str)] = &[
    (
        "date",
        "a training checkpoint may hold the time of its last epoch",
    ),
    ("defaultdict", "a dictionary like any other"),
    ("deque", "a training checkpoint may hold its latest losses"),
    ("frozenset", "a training checkpoint may hold options"),
    (
        "namespace",
        "a training checkpoint may hold the arguments of the script",
    ),
    ("numpy_array", "a training checkpoint may hold its losses"),
    (
        "numpy_scalar",
        "a training checkpoint may hold its best accuracy",
    ),
    (
        "path",
        "a training checkpoint may hold the paths of its data",
    ),
    ("legacy_protocol_4", "torch.save can write protocol 4"),
    ("zip_protocol_4", "torch.save can write protocol 4"),
    ("zip_protocol_5", "torch.save can write protocol 5"),
    (
        "zip_without_version",
        "the entry says nothing about the weights",
    ),
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/checkpoints")
}

fn results() -> BTreeMap<String, Value> {
    let text = std::fs::read(folder().join("results.json")).unwrap();
    let results: Value = serde_json::from_slice(&text).unwrap();
    serde_json::from_value(results["files"].clone()).unwrap()
}

#[test]
fn checkpoints_are_read_as_by_torch_or_rejected() {
    let results = results();
    assert!(results.len() > 100);
    let (mut stricter, mut wider, mut equal) = (Vec::new(), Vec::new(), 0);
    for (name, torch) in &results {
        let read = StateDict::read(&folder().join(format!("{name}.pth")));
        let described = read.map(|state| serde_json::to_value(describe(&state)).unwrap());
        match (described, torch.get("tensors")) {
            (Ok(got), Some(expected)) => {
                assert_eq!(&got, expected, "{name}");
                equal += 1;
            }
            (Ok(got), None) => {
                assert_eq!(Some(&got), torch.get("tensors_of_pickle"), "{name}");
                wider.push(name.as_str());
            }
            (Err(error), Some(_)) => stricter.push((name.as_str(), error.to_string())),
            (Err(_), None) => {}
        }
    }
    assert!(equal > 40, "{equal}");
    let listed: BTreeMap<_, _> = STRICTER.iter().copied().collect();
    let names: Vec<_> = stricter.iter().map(|(name, _)| *name).collect();
    assert!(names.iter().eq(listed.keys()), "stricter: {stricter:#?}");
    let listed: BTreeMap<_, _> = WIDER.iter().copied().collect();
    assert!(wider.iter().eq(listed.keys()), "wider: {wider:?}");
}

#[test]
fn every_file_has_a_result() {
    let files = std::fs::read_dir(folder()).unwrap();
    let paths = files.map(|file| file.unwrap().path());
    let checkpoints = paths.filter(|path| path.extension().is_some_and(|e| e == "pth"));
    let mut names: Vec<_> = checkpoints
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    names.sort();
    assert!(names.iter().eq(results().keys()));
}
