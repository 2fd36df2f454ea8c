//! Finds the images in a multipart body. The first line of the input is the header `content-type`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sightline::http::fuzzing::read_multipart;

fuzz_target!(|bytes: &[u8]| {
    sightline_fuzz::timed(|| read_multipart(bytes));
});
