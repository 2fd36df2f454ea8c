//! Quantizes a small network that the input mutates, so that most inputs are valid protobuf.

#![no_main]

use libfuzzer_sys::fuzz_target;
use onnx_export::fuzzing::rewrite_onnx;

fuzz_target!(|bytes: &[u8]| {
    sightline_fuzz::bounded(bytes, rewrite_onnx);
});
