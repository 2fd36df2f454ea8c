//! Reads an inference request of the Open Inference Protocol as a message of gRPC.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sightline::grpc::fuzzing::read_request;

fuzz_target!(|bytes: &[u8]| {
    sightline_fuzz::timed(|| read_request(bytes));
});
