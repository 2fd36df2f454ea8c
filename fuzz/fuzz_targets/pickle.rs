//! Runs the pickle machine of checkpoints on a pickle without a container.

#![no_main]

use libfuzzer_sys::fuzz_target;
use onnx_export::fuzzing::read_pickle;

fuzz_target!(|bytes: &[u8]| {
    sightline_fuzz::bounded(bytes, read_pickle);
});
