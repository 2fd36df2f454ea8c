//! Runs of the functions that the fuzz targets run, on inputs that are the same in every run.

use std::panic::catch_unwind;
use std::path::Path;

use super::*;
use crate::testing::fuzz::check_seeds;
use crate::testing::random::Random;

/// Returns the content of each file in `folder`, a path below this crate's folder.
fn seeds(folder: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    files.sort();
    files
        .iter()
        .map(|file| std::fs::read(file).unwrap())
        .collect()
}

#[test]
fn mutated_checkpoints() {
    check_seeds(&seeds("tests/golden/checkpoints"), 60, read_checkpoint);
}

#[test]
fn mutated_pickles() {
    check_seeds(&seeds("tests/fuzz-seeds/pickle"), 600, read_pickle);
}

#[test]
fn mutated_safetensors() {
    check_seeds(
        &seeds("tests/fuzz-seeds/safetensors"),
        1_000,
        read_safetensors,
    );
}

#[test]
fn mutated_ranges() {
    check_seeds(&seeds("tests/fuzz-seeds/ranges"), 1_000, read_ranges);
}

#[test]
fn mutated_onnx_files() {
    check_seeds(&[rewrite::unchanged()], 1_000, read_onnx);
}

#[test]
fn mutated_networks() {
    let mut random = Random::new(2);
    let (mut quantized, total) = (0, 2_000);
    for _ in 0..total {
        let length = 1 + random.below(48);
        let choices: Vec<u8> = (0..length).map(|_| random.bits() as u8).collect();
        let result = catch_unwind(|| rewrite_onnx(&choices));
        quantized += usize::from(result.unwrap_or_else(|_| panic!("{choices:?}")));
    }
    assert!(
        quantized > total / 20 && quantized < total * 19 / 20,
        "{quantized} of {total}"
    );
}
