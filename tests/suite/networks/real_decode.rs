//! Compares the results for large photographs between `decode=exact` and `decode=fast`, with released
//! weights.
//!
//! The photographs are those of the tests `real_weights` and `real_detection`, enlarged to the size of
//! photographs from phones. If their folder (`SIGHTLINE_TEST_SHARED`, by default `../shared/real`) does
//! not exist, each test announces that it is skipped.

use crate::common;
use std::path::{Path, PathBuf};

use crate::common::Server;
use crate::common::coco::{coco, detect_with};
use crate::reference::{self, average_precision};
use image::imageops::{FilterType, resize};
use libjpeg_turbo_rs::{Encoder, PixelFormat, Subsampling};
use sightline::image::{DecodeOptions, Orientation, decode, probe};

const DETECTOR: &str = "ssdlite320_mobilenet_v3_large";

/// Returns the files of `folder`, sorted.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// Returns the photograph `path` as a JPEG of quality 90 with the sampling 4:2:0, enlarged to a short
/// side of `short` pixels.
fn enlarged(path: &Path, short: u32) -> Vec<u8> {
    let options = DecodeOptions {
        max_pixels: 1 << 26,
        orientation: Orientation::Ignore,
    };
    let image = decode(&std::fs::read(path).unwrap(), &options).unwrap();
    let (width, height) = image.dimensions();
    let factor = f64::from(short) / f64::from(width.min(height));
    let side = |side: u32| (f64::from(side) * factor).round() as u32;
    let large = resize(&image, side(width), side(height), FilterType::CatmullRom);
    let (width, height) = (large.width() as usize, large.height() as usize);
    let encoder = Encoder::new(large.as_raw(), width, height, PixelFormat::Rgb);
    let encoder = encoder.quality(90).subsampling(Subsampling::S420);
    encoder.encode().unwrap()
}

/// Checks that the most probable class of at least 98 of 100 photographs is the same, decoded at 1/2,
/// 1/4 or 1/8.
#[test]
fn fast_decoding_keeps_the_most_probable_class() {
    let Some(folder) = reference::real_data("fast_decoding_keeps_the_most_probable_class") else {
        return;
    };
    let server = Server::start(&[]);
    let best = |query: &str, photograph: &[u8]| {
        let result = server.classify(query, photograph).results().remove(0);
        let best = &result["predictions"][0];
        (
            best["class_id"].as_u64().unwrap(),
            best["score"].as_f64().unwrap(),
        )
    };
    let images = files(&folder.join("imagenet"));
    let images = images
        .iter()
        .filter(|path| path.extension().is_some_and(|end| end != "csv"));
    let (mut same, mut all, mut largest) = (0, 0, 0.0_f64);
    // The network's input is made from images of a short side of 256 pixels: they are still reduced by 1.41.
    for (path, short) in images.zip([720, 1_440, 2_880].into_iter().cycle()) {
        let photograph = enlarged(path, short);
        let exact = best("?decode=exact", &photograph);
        let fast = best("?decode=fast", &photograph);
        all += 1;
        same += usize::from(exact.0 == fast.0);
        if exact.0 == fast.0 {
            largest = largest.max((exact.1 - fast.1).abs());
        }
    }
    println!("the same class for {same} of {all}; largest difference of its score {largest:.3}");
    assert_eq!(all, 100);
    assert!(same >= 98, "{same} of {all}");
}

/// Checks that the average precision of a detector changes by less than 0.005, with boxes in pixels of
/// the whole image.
#[test]
fn fast_decoding_keeps_the_average_precision() {
    let test = "fast_decoding_keeps_the_average_precision";
    let Some(folder) = reference::real_data(test) else {
        return;
    };
    let models = tempfile::tempdir().unwrap();
    let weights = folder.join(format!("weights/{DETECTOR}.pth"));
    common::export(DETECTOR, &weights, &models.path().join(DETECTOR));
    let server = Server::start(&["--models", models.path().to_str().unwrap()]);
    let (mut exact, mut fast) = (Vec::new(), Vec::new());
    for path in files(&folder.join("coco/images")) {
        let name = path.file_name().unwrap().to_str().unwrap();
        let small = probe(&std::fs::read(&path).unwrap()).unwrap().size;
        let short = 1_800;
        let photograph = enlarged(&path, short);
        // The annotations are in pixels of the original photograph.
        let factor = small.width.min(small.height) as f32 / short as f32;
        for (query, written) in [("&decode=exact", &mut exact), ("&decode=fast", &mut fast)] {
            for mut object in detect_with(&server, DETECTOR, query, &photograph) {
                object.corners = object.corners.map(|corner| corner * factor);
                written.push(coco(name, &object));
            }
        }
    }
    assert!(
        exact != fast,
        "no photograph was decoded at a reduced scale"
    );
    let instances = folder.join("coco/instances.json");
    let precision = |written: &[serde_json::Value]| average_precision(test, &instances, written);
    if let (Some(exact), Some(fast)) = (precision(&exact), precision(&fast)) {
        println!("average precision {exact:.4} with decode=exact, {fast:.4} with decode=fast");
        assert!((exact - fast).abs() < 0.005, "{exact}, {fast}");
    }
}
