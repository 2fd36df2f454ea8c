//! Checks, for every detector with generated weights, that the region proposals and detections of
//! the server's engine and postprocessing equal torchvision's.
//!
//! `tests/golden/README.md` describes the expected values.

use crate::reference::detection::{DetectionCase, detection_cases};
use crate::reference::{iou, matched, read_integers, runtime};
use sightline::cancel::Cancel;
use sightline::engine::{Outputs, REGIONS};
use sightline::image::{ImageSize, PreparedImage};
use sightline::manifest::Precision;
use sightline::postprocess::detect::{BoxXyxy, DetectOptions, Detection, Detector};
use sightline::registry::networks::Networks;
use sightline::store::{FP32, ModelSource, Origin};

/// Smallest intersection over union of a server's box and torchvision's box at which the boxes
/// match.
const MIN_IOU: f32 = 0.99;
/// Largest difference in score at which a detection of the server matches a detection of
/// torchvision.
const MAX_SCORE_DIFFERENCE: f32 = 1e-3;
/// Smallest share of torchvision's region proposals or detections that must have a match.
const MIN_SHARE: f64 = 0.99;

fn image_size([height, width]: [usize; 2]) -> ImageSize {
    ImageSize {
        width: width as u32,
        height: height as u32,
    }
}

/// Runs the server's engine on the image of the case. Returns the engine's outputs and the
/// detections that postprocessing computes from the outputs.
fn answer(case: &DetectionCase) -> (Outputs, Vec<Detection>) {
    let manifest = case.manifest();
    let model = case.model(manifest.architecture.as_ref().unwrap());
    let image = PreparedImage {
        size: image_size(case.padded),
        content: image_size(case.resized),
        data: case.input(&manifest).0.into(),
    };
    let detector = Detector::of(&manifest).unwrap().unwrap();
    let source = ModelSource {
        manifest,
        variant: FP32.to_owned(),
        precision: Precision::Fp32,
        path: None,
        manifest_text: None,
        labels: Vec::new(),
        origin: Origin::Memory(model.to_files().map(|_, file| file.into())),
        requantize: None,
    };
    let networks = Networks::prepare(&source, Some(&detector), &runtime()).unwrap();
    let mut engine = networks.engine().unwrap();
    let outputs = engine.run(vec![image]).unwrap().remove(0);
    let original = image_size([case.input.height, case.input.width]);
    let options = DetectOptions::default();
    let detections = detector.detect(&outputs, original, &options, &Cancel::never());
    (outputs, detections.unwrap())
}

fn boxes(values: &[f32]) -> Vec<BoxXyxy> {
    let rows = values.as_chunks::<4>().0.iter();
    rows.map(|row| BoxXyxy::from(*row)).collect()
}

/// Returns torchvision's detections for the case.
fn expected(case: &DetectionCase) -> Vec<Detection> {
    let labels = read_integers(&case.file(), "labels");
    let (boxes, scores) = (boxes(&case.tensor("boxes")), case.tensor("scores"));
    let rows = labels.into_iter().zip(scores).zip(boxes);
    rows.map(|((label, score), bounding_box)| Detection {
        class_id: label as usize,
        score,
        bounding_box,
    })
    .collect()
}

/// Prints how many of torchvision's `all` proposals or detections (named by `what`) have a match,
/// which is `found`, and checks that their share is at least [`MIN_SHARE`].
fn check(case: &str, what: &str, found: usize, all: usize) {
    println!("{case}: {found} of torchvision's {all} {what} have a match");
    assert!(all >= 100, "{case}: only {all} {what}");
    assert!(found as f64 >= MIN_SHARE * all as f64, "{case}: {what}");
}

#[test]
fn the_served_path_gives_torchvisions_proposals_and_detections() {
    for case in detection_cases() {
        let (outputs, got) = answer(&case);
        if let Ok(regions) = outputs.f32(REGIONS) {
            let (got, expected) = (boxes(&regions.data), case.tensor("proposals"));
            let expected = boxes(&expected);
            assert_eq!(got.len(), expected.len(), "{}", case.name);
            let same = |a: &BoxXyxy, b: &BoxXyxy| iou(a.to_array(), b.to_array()) > MIN_IOU;
            let found = matched(&got, &expected, same);
            check(&case.name, "proposals", found, expected.len());
        }
        let expected = expected(&case);
        assert_eq!(got.len(), expected.len(), "{}", case.name);
        let same = |a: &Detection, b: &Detection| {
            a.class_id == b.class_id
                && iou(a.bounding_box.to_array(), b.bounding_box.to_array()) > MIN_IOU
                && (a.score - b.score).abs() < MAX_SCORE_DIFFERENCE
        };
        let found = matched(&got, &expected, same);
        check(&case.name, "detections", found, expected.len());
    }
}
