//! Chooses the media type of a response by the header `Accept`. Each line of the input is one header field.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sightline::http::fuzzing::read_accept;

fuzz_target!(|bytes: &[u8]| {
    sightline_fuzz::timed(|| read_accept(bytes));
});
