//! Reads an inference request of the Open Inference Protocol: its JSON and its binary tensors.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sightline::http::fuzzing::read_inference;

fuzz_target!(|bytes: &[u8]| {
    sightline_fuzz::timed(|| read_inference(bytes));
});
