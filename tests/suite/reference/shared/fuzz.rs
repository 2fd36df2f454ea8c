//! Bounded runs of the functions that the fuzz targets run, on the stable toolchain.

use std::panic::catch_unwind;
use std::path::Path;

use super::mutation::mutated;
use super::random::Random;

/// Number of mutated inputs that are made of each seed.
const MUTATIONS: usize = 2_000;

/// Calls `read`, the function that the fuzz target `name` runs, on the seeds of this target and on
/// mutations of the seeds. `read` returns whether an input is valid. Panics with the input that
/// made `read` panic.
pub fn check(name: &str, read: fn(&[u8]) -> bool) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/seeds")
        .join(name);
    let mut seeds: Vec<Vec<u8>> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| std::fs::read(entry.unwrap().path()).unwrap())
        .collect();
    seeds.sort();
    check_seeds(&seeds, MUTATIONS, read);
}

/// Calls `read` on the `seeds` and on `count` mutations of each. Panics with the input that made
/// `read` panic, and if hardly any input or nearly every input is valid: the test would then cover
/// little of the reader.
pub fn check_seeds(seeds: &[Vec<u8>], count: usize, read: fn(&[u8]) -> bool) {
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
