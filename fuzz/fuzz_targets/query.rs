//! Parses the query of a request with the parameters of every route.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sightline::http::fuzzing::read_query;

fuzz_target!(|bytes: &[u8]| {
    sightline_fuzz::timed(|| read_query(bytes));
});
