//! Tests with outputs that no valid network produces: NaN, infinities, empty maps and maps of wrong
//! shapes.

use super::{
    AnchorGenerator, BoxHead, BoxHeadOutputs, DefaultBoxes, DetectError, DetectOptions, FeatureMap,
    HeadLevel, RetinaNet, Rpn, Ssd, Thresholds,
};
use crate::cancel::{Cancel, Cancelled};
use crate::image::{DetectorSizes, ImageSize};

const CLASSES: usize = 4;

fn square(side: u32) -> ImageSize {
    ImageSize {
        width: side,
        height: side,
    }
}

fn sizes(side: u32) -> DetectorSizes {
    DetectorSizes {
        original: square(side),
        resized: square(side),
        padded: square(32),
    }
}

fn thresholds() -> Thresholds {
    Thresholds {
        score: 0.05,
        iou: 0.5,
        max_detections: 100,
    }
}

fn anchors() -> AnchorGenerator {
    AnchorGenerator::new(&[vec![16.0, 64.0]], &[vec![0.5, 1.0, 2.0]]).unwrap()
}

fn rpn() -> Rpn {
    Rpn {
        anchors: anchors(),
        pre_nms_top_n: 1000,
        post_nms_top_n: 1000,
        nms_threshold: 0.7,
        score_threshold: 0.05,
    }
}

fn retinanet() -> RetinaNet {
    RetinaNet {
        box_weights: [1.0; 4],
        anchors: anchors(),
        topk_candidates: 1000,
        thresholds: thresholds(),
    }
}

fn ssd() -> Ssd {
    Ssd {
        box_weights: [10.0, 10.0, 5.0, 5.0],
        boxes: DefaultBoxes::new(&[vec![2.0, 3.0]], 0.2, 0.95),
        topk_candidates: 300,
        thresholds: thresholds(),
    }
}

fn box_head() -> BoxHead {
    BoxHead {
        box_weights: [10.0, 10.0, 5.0, 5.0],
        thresholds: thresholds(),
    }
}

/// Returns the numbers of boxes from outputs in which every logit is `logit` and every box delta is
/// `delta`: region proposals of the RPN, then detections of the box head, of `RetinaNet` and of
/// SSD. `image` is the side of the image in pixels, `points` the side of the feature map.
fn counts(logit: f32, delta: f32, image: u32, points: u32) -> [usize; 4] {
    let (sizes, points) = (sizes(image), square(points));
    let values = |channels: usize, value| vec![value; channels * points.pixels() as usize];
    let (objectness, logits) = (values(6, logit), values(6 * CLASSES, logit));
    let deltas = values(24, delta);
    let level = |scores: &[f32], channels| {
        let scores = FeatureMap::new(scores, channels, points).unwrap();
        let deltas = FeatureMap::new(&deltas, 24, points).unwrap();
        counts_of_level(HeadLevel { scores, deltas }, channels, &sizes)
    };
    let [proposals, ..] = level(&objectness, 6);
    let [_, retinanet, ssd] = level(&logits, 6 * CLASSES);
    let outputs = BoxHeadOutputs {
        proposals: &[[0.0, 0.0, 9.0, 9.0]; 5],
        class_logits: &[logit; 5 * CLASSES],
        box_regression: &[delta; 20 * CLASSES],
    };
    let (options, cancel) = (DetectOptions::default(), Cancel::never());
    let found = box_head().detect(&outputs, &sizes, &options, &cancel);
    [proposals, found.unwrap().len(), retinanet, ssd]
}

fn counts_of_level(level: HeadLevel<'_>, channels: usize, sizes: &DetectorSizes) -> [usize; 3] {
    let (options, cancel) = (DetectOptions::default(), Cancel::never());
    if channels == 6 {
        return [rpn().propose(&[level], sizes).unwrap().len(), 0, 0];
    }
    let retinanet = retinanet()
        .detect(&[level], sizes, &options, &cancel)
        .unwrap();
    let ssd = ssd().detect(&[level], sizes, &options, &cancel).unwrap();
    [0, retinanet.len(), ssd.len()]
}

#[test]
fn nan_and_infinite_outputs_give_no_boxes() {
    let strange = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
    for (logit, delta) in strange.iter().flat_map(|l| strange.map(|d| (*l, d))) {
        for (image, points) in [(1, 1), (32, 4), (32, 0)] {
            let got = counts(logit, delta, image, points);
            if logit.is_nan() || delta.is_nan() || points == 0 {
                // The box head has logits even if `points` is 0, because it has no feature map. All
                // of them are NaN or infinite here, so their softmax is NaN and no box is above the
                // threshold.
                assert_eq!(got, [0; 4], "{logit} {delta} {image} {points}");
            }
        }
        assert_eq!(counts(logit, 0.0, 32, 4)[1], 0, "{logit}");
    }
    assert_eq!(counts(f32::NEG_INFINITY, 0.0, 32, 4), [0; 4]);
}

#[test]
fn only_scores_above_the_threshold_give_boxes() {
    assert_eq!(counts(-10.0, 0.0, 32, 4)[0], 0);
    assert_eq!(counts(-10.0, 0.0, 32, 4)[2], 0);
    let got = counts(5.0, 0.0, 32, 4);
    assert!(got.iter().all(|count| *count > 0), "{got:?}");
    let pixel = counts(5.0, 0.0, 1, 1);
    assert!(pixel.iter().all(|count| *count <= 24), "{pixel:?}");
}

#[test]
fn no_proposals_give_no_detections() {
    let (options, cancel) = (DetectOptions::default(), Cancel::never());
    let mut outputs = BoxHeadOutputs {
        proposals: &[],
        class_logits: &[],
        box_regression: &[],
    };
    let got = box_head().detect(&outputs, &sizes(32), &options, &cancel);
    assert_eq!(got, Ok(vec![]));
    outputs.class_logits = &[0.0; 4];
    let error = box_head().detect(&outputs, &sizes(32), &options, &cancel);
    assert!(matches!(error, Err(DetectError::Count { .. })));
}

#[test]
fn cancelled_work_returns_no_detections() {
    let (options, cancel) = (DetectOptions::default(), Cancel::never());
    cancel.cancel();
    let (logits, deltas) = ([0.0; 6 * CLASSES], [0.0; 24]);
    let level = HeadLevel {
        scores: FeatureMap::new(&logits, 6 * CLASSES, square(1)).unwrap(),
        deltas: FeatureMap::new(&deltas, 24, square(1)).unwrap(),
    };
    let outputs = BoxHeadOutputs {
        proposals: &[[0.0; 4]],
        class_logits: &[0.0; CLASSES],
        box_regression: &[0.0; 4 * CLASSES],
    };
    let sizes = sizes(32);
    for got in [
        retinanet().detect(&[level], &sizes, &options, &cancel),
        ssd().detect(&[level], &sizes, &options, &cancel),
        box_head().detect(&outputs, &sizes, &options, &cancel),
    ] {
        assert_eq!(got, Err(DetectError::Cancelled(Cancelled)));
    }
}

#[test]
fn maps_of_wrong_shapes_are_rejected() {
    let data = vec![0.0; 24 * 16];
    let map = |channels: usize, side: u32| {
        let len = channels * (side * side) as usize;
        FeatureMap::new(&data[..len], channels, square(side)).unwrap()
    };
    let level = |scores, deltas| HeadLevel { scores, deltas };
    for bad in [
        level(map(6, 4), map(24, 3)),
        level(map(6, 4), map(20, 4)),
        level(map(7, 4), map(24, 4)),
        level(map(0, 4), map(24, 4)),
        level(map(6, 4), map(0, 4)),
    ] {
        let (options, cancel) = (DetectOptions::default(), Cancel::never());
        assert!(rpn().propose(&[bad], &sizes(32)).is_err());
        let sizes = sizes(32);
        assert!(
            retinanet()
                .detect(&[bad], &sizes, &options, &cancel)
                .is_err()
        );
        assert!(ssd().detect(&[bad], &sizes, &options, &cancel).is_err());
    }
    assert!(rpn().propose(&[], &sizes(32)).is_err());
    assert!(FeatureMap::new(&data, 3, square(4)).is_err());
    let huge = FeatureMap::new(&data, usize::MAX, square(u32::MAX));
    assert!(matches!(huge, Err(DetectError::TooLarge { .. })));
}
