//! Reads a file of API keys.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sightline::keys::fuzzing::read_keys;

fuzz_target!(|bytes: &[u8]| {
    sightline_fuzz::bounded(bytes, read_keys);
});
