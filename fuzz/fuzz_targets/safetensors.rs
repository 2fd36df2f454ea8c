//! Reads a safetensors file and writes what is read.

#![no_main]

use libfuzzer_sys::fuzz_target;
use onnx_export::fuzzing::read_safetensors;

fuzz_target!(|bytes: &[u8]| {
    sightline_fuzz::bounded(bytes, read_safetensors);
});
