//! Reads a configuration file of `serve`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sightline::config::fuzzing::read_config;

fuzz_target!(|bytes: &[u8]| {
    sightline_fuzz::bounded(bytes, read_config);
});
