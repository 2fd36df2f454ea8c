//! Checks that the server's predictions for real photographs, with released weights, agree with
//! torchvision's predictions or, for the built-in model, with the predictions of the weights'
//! authors.
//!
//! The weights and most photographs cannot be published. If their folder (`SIGHTLINE_TEST_SHARED`, by default
//! `../shared/real`) does not exist, each test announces that it is skipped.

use crate::reference;
use std::collections::BTreeMap;
use std::path::Path;

use crate::common::{self, Server};
use image::RgbImage;
use onnx_export::weights::StateDict;
use serde::Deserialize;
use serde_json::Value;
use sightline::engine::Engine;
use sightline::image::{DecodeOptions, Orientation, Preprocessor, decode};

/// A predicted class and its score.
#[derive(Debug, Deserialize)]
struct Entry {
    class_id: u64,
    score: f64,
}

/// Counts of photographs for which the server's predictions agree with the labels or with the
/// expected predictions (torchvision's or those of the weights' authors).
#[derive(Debug, Default)]
struct Agreement {
    photographs: usize,
    /// Number of photographs whose best predicted class is the class in `labels.csv`.
    right: usize,
    /// Number of photographs whose best predicted class is the best expected class.
    same_top1: usize,
    /// Number of photographs that count in `same_top1` and whose scores all differ by less than
    /// 0.02 from the expected five scores. Expected classes that the server does not return are
    /// ignored.
    close: usize,
    worst_score_difference: f64,
}

impl Agreement {
    fn add(&mut self, got: &[Entry], expected: &[Entry], class: u64) {
        self.photographs += 1;
        self.right += usize::from(got[0].class_id == class);
        if got[0].class_id != expected[0].class_id {
            return;
        }
        self.same_top1 += 1;
        let difference = |entry: &Entry| {
            let own = got.iter().find(|own| own.class_id == entry.class_id);
            own.map_or(0.0, |own| (own.score - entry.score).abs())
        };
        let worst = expected.iter().map(difference).fold(0.0, f64::max);
        self.close += usize::from(worst < 0.02);
        self.worst_score_difference = self.worst_score_difference.max(worst);
    }
}

/// Reads `labels.csv` (columns: file, class index, synset, name) and returns the class index by file.
fn labels(folder: &Path) -> BTreeMap<String, u64> {
    let text = std::fs::read_to_string(folder.join("imagenet/labels.csv")).unwrap();
    let row = |line: &str| {
        let mut cells = line.split(',');
        (
            cells.next().unwrap().to_owned(),
            cells.next().unwrap().parse().unwrap(),
        )
    };
    text.lines().skip(1).map(row).collect()
}

/// Compares the server's predictions for all photographs with the expected predictions in
/// `answers`. Panics if they do not agree. Returns the largest difference between a score and the
/// expected score.
fn judge(server: &Server, folder: &Path, answers: &Value, test: &str) -> f64 {
    let expected = top5(answers);
    let mut agreement = Agreement::default();
    for (file, class) in labels(folder) {
        let photograph = std::fs::read(folder.join("imagenet").join(&file)).unwrap();
        agreement.add(&predictions(server, &photograph), &expected[&file], class);
    }
    println!("{test}: {agreement:?}");
    assert_eq!(agreement.photographs, 100);
    assert!(agreement.right >= 80, "{agreement:?}");
    assert_eq!(agreement.same_top1, 100, "{agreement:?}");
    assert_eq!(agreement.close, agreement.same_top1, "{agreement:?}");
    agreement.worst_score_difference
}

fn predictions(server: &Server, image: &[u8]) -> Vec<Entry> {
    // The expected predictions were computed without applying the EXIF orientation, which one of
    // these photographs has.
    let result = server
        .classify("?orientation=ignore", image)
        .results()
        .remove(0);
    serde_json::from_value(result["predictions"].clone()).unwrap()
}

fn top5(answers: &Value) -> BTreeMap<String, Vec<Entry>> {
    serde_json::from_value(answers["top5_by_file"].clone()).unwrap()
}

fn read_json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn mobilenet_v2_gives_torchvisions_predictions() {
    let test = "mobilenet_v2_gives_torchvisions_predictions";
    let Some(folder) = reference::real_data(test) else {
        return;
    };
    let models = tempfile::tempdir().unwrap();
    let weights = folder.join("weights/mobilenet_v2.pth");
    common::export(
        "mobilenet_v2",
        &weights,
        &models.path().join("mobilenet_v2"),
    );
    let server = Server::start(&["--models", models.path().to_str().unwrap()]);
    let expected = &read_json(&folder.join("torchvision.json"))["mobilenet_v2"];
    let worst = judge(&server, &folder, expected, test);
    assert!(worst < 1e-4, "largest score difference {worst}");
}

#[test]
fn the_built_in_model_gives_its_authors_predictions() {
    let test = "the_built_in_model_gives_its_authors_predictions";
    let Some(folder) = reference::real_data(test) else {
        return;
    };
    let server = Server::start(&[]);
    let expected = read_json(&folder.join("efficientnet_lite0.json"));
    let worst = judge(&server, &folder, &expected, test);
    // The tolerance is larger than for `mobilenet_v2`, since the built-in weights are stored in
    // half precision.
    assert!(worst < 0.005, "largest score difference {worst}");
}

#[test]
fn a_released_trunk_gives_torchvisions_pooled_features() {
    let test = "a_released_trunk_gives_torchvisions_pooled_features";
    let Some(folder) = reference::real_data(test) else {
        return;
    };
    let state = StateDict::read(&folder.join("weights/mobilenet_v3_small-features.pth")).unwrap();
    let manifest = sightline::catalogue::manifest("mobilenet_v3_small")
        .unwrap()
        .unwrap();
    let model = reference::trunk::pooled(&state, &manifest);
    let mut session = reference::runtime()
        .prepare(&model)
        .unwrap()
        .session()
        .unwrap();
    let expected = &read_json(&folder.join("torchvision.json"))["mobilenet_v3_small-features"];
    let expected: BTreeMap<String, Vec<f32>> = serde_json::from_value(expected.clone()).unwrap();
    let preprocessor = Preprocessor::new(&manifest.preprocess);
    let mut largest_error = |image: &RgbImage, expected: &[f32]| {
        let image = preprocessor.run(image).unwrap();
        let outputs = session.run(vec![image]).unwrap().remove(0);
        let pooled = &outputs.iter().next().unwrap().as_f32().unwrap().data;
        assert_eq!(pooled.len(), expected.len());
        pooled
            .iter()
            .zip(expected)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max)
    };
    let options = DecodeOptions {
        max_pixels: 1 << 26,
        orientation: Orientation::Apply,
    };
    for (file, expected) in expected {
        let path = folder.join("imagenet").join(&file);
        let image = decode(&std::fs::read(&path).unwrap(), &options).unwrap();
        let error = largest_error(&image, &expected);
        println!("{file}: {error:.1e}");
        assert!(error < 1e-3, "{file}: {error}");
    }
}
