//! Runs of the functions that the fuzz targets run, on inputs that are the same in every run.

use std::panic::catch_unwind;
use std::path::Path;

use super::*;
use crate::testing::mutation::mutated;
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

/// Calls `read` on the `seeds` and on `count` mutations of each. Panics with the input that made
/// `read` panic, and if hardly any input or nearly every input is valid: the test would then cover
/// little of the reader.
fn check(seeds: &[Vec<u8>], count: usize, read: fn(&[u8]) -> bool) {
    let mut random = Random::new(1);
    let (mut accepted, mut total) = (0, 0);
    for seed in seeds {
        assert!(
            catch_unwind(|| read(seed)).is_ok(),
            "{}",
            seed.escape_ascii()
        );
        for _ in 0..count {
            let other = &seeds[random.below(seeds.len())];
            let input = mutated(seed, other, &mut random);
            let result = catch_unwind(|| read(&input));
            accepted += usize::from(result.unwrap_or_else(|_| panic!("{}", input.escape_ascii())));
            total += 1;
        }
    }
    assert!(
        accepted > total / 200 && accepted < total * 49 / 50,
        "{accepted} of {total}"
    );
}

#[test]
fn mutated_checkpoints() {
    check(&seeds("tests/golden/checkpoints"), 60, read_checkpoint);
}

#[test]
fn mutated_pickles() {
    check(&seeds("tests/fuzz-seeds/pickle"), 600, read_pickle);
}

#[test]
fn mutated_safetensors() {
    check(
        &seeds("tests/fuzz-seeds/safetensors"),
        1_000,
        read_safetensors,
    );
}

#[test]
fn mutated_ranges() {
    check(&seeds("tests/fuzz-seeds/ranges"), 1_000, read_ranges);
}

#[test]
fn mutated_onnx_files() {
    check(&[rewrite::unchanged()], 1_000, read_onnx);
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
