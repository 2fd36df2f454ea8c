//! Reads a label file.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sightline::store::fuzzing::read_labels;

fuzz_target!(|bytes: &[u8]| {
    sightline_fuzz::bounded(bytes, read_labels);
});
