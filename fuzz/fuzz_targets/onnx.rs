//! Reads an ONNX file, searches it for external data and quantizes it.

#![no_main]

use libfuzzer_sys::fuzz_target;
use onnx_export::fuzzing::read_onnx;

fuzz_target!(|bytes: &[u8]| {
    sightline_fuzz::bounded(bytes, read_onnx);
});
