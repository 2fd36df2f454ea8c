//! Reads a checkpoint in any container: zip, legacy stream, tar or safetensors.

#![no_main]

use libfuzzer_sys::fuzz_target;
use onnx_export::fuzzing::read_checkpoint;

fuzz_target!(|bytes: &[u8]| {
    sightline_fuzz::bounded(bytes, read_checkpoint);
});
