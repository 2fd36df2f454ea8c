//! Checks the parameter and the setting `decode` through a server with the built-in model.

use crate::common::{Server, photo};
use image::imageops::{FilterType, resize};
use libjpeg_turbo_rs::{Encoder, PixelFormat, Subsampling};
use serde_json::Value;
use sightline::image::{DecodeOptions, Orientation, decode};

/// Returns a photograph of 4000x3000 pixels. With `restarts`, it has a restart marker after each 8
/// units.
fn large(restarts: bool) -> Vec<u8> {
    let options = DecodeOptions {
        max_pixels: 1 << 20,
        orientation: Orientation::Ignore,
    };
    let small = decode(&photo("coffee_500x375.jpg"), &options).unwrap();
    let large = resize(&small, 4_000, 3_000, FilterType::CatmullRom);
    let encoder = Encoder::new(large.as_raw(), 4_000, 3_000, PixelFormat::Rgb);
    let encoder = encoder.quality(90).subsampling(Subsampling::S420);
    let encoder = if restarts {
        encoder.restart_blocks(8)
    } else {
        encoder
    };
    encoder.encode().unwrap()
}

fn predictions(server: &Server, query: &str, image: &[u8]) -> Value {
    let result = server.classify(query, image).results().remove(0);
    result["predictions"].clone()
}

#[test]
fn the_parameter_wins_over_the_setting() {
    let image = large(false);
    let server = Server::start(&["--decode", "fast"]);
    let fast = predictions(&server, "", &image);
    assert_eq!(fast, predictions(&server, "?decode=fast", &image));
    let exact = predictions(&server, "?decode=exact", &image);
    assert_ne!(fast, exact);
    assert_eq!(fast[0]["label"], exact[0]["label"]);
    // An image that is not much larger than the network's input is decoded exactly.
    let small = photo("coffee_500x375.jpg");
    let [fast, exact] = ["?decode=fast", "?decode=exact"].map(|q| predictions(&server, q, &small));
    assert_eq!(fast, exact);
}

/// Checks that a large image that is decoded on several threads gives the same scores as on one.
#[test]
fn restart_markers_change_no_score() {
    let server = Server::start(&[]);
    let with = predictions(&server, "", &large(true));
    assert_eq!(with, predictions(&server, "", &large(false)));
}
