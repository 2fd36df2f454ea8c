//! Probes and decodes a GIF file and applies the orientation of its metadata.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sightline::image::ImageFormat;

fuzz_target!(|bytes: &[u8]| -> libfuzzer_sys::Corpus {
    sightline_fuzz::image(ImageFormat::Gif, bytes)
});
