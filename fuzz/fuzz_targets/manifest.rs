//! Parses and checks a `model.toml`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sightline::manifest::fuzzing::read_manifest;

fuzz_target!(|bytes: &[u8]| {
    sightline_fuzz::bounded(bytes, read_manifest);
});
