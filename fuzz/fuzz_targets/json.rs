//! Finds the images in a JSON body.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sightline::http::fuzzing::read_json;

fuzz_target!(|bytes: &[u8]| {
    sightline_fuzz::timed(|| read_json(bytes));
});
