//! What no sane network says: no numbers, nothing, or maps of other shapes.

use super::{
    AnchorGenerator, BoxHead, DefaultBoxes, DetectError, DetectOptions, FeatureMap, HeadLevel,
    RetinaNet, Rpn, Ssd, Thresholds,
};
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

/// Numbers of answers of every family to maps that hold `logit` and `delta` everywhere.
fn answers(logit: f32, delta: f32, picture: u32, points: u32) -> [usize; 4] {
    let (sizes, points) = (sizes(picture), square(points));
    let values = |channels: usize, value| vec![value; channels * points.pixels() as usize];
    let (objectness, logits) = (values(6, logit), values(6 * CLASSES, logit));
    let deltas = values(24, delta);
    let level = |scores: &[f32], channels| {
        let scores = FeatureMap::new(scores, channels, points).unwrap();
        let deltas = FeatureMap::new(&deltas, 24, points).unwrap();
        // The shapes are right, so what is left to test are the values.
        counts(HeadLevel { scores, deltas }, channels, &sizes)
    };
    let [proposals, ..] = level(&objectness, 6);
    let [_, retinanet, ssd] = level(&logits, 6 * CLASSES);
    let head = BoxHead {
        box_weights: [10.0, 10.0, 5.0, 5.0],
        thresholds: thresholds(),
    };
    let rois = vec![[0.0, 0.0, 9.0, 9.0]; 5];
    let (logits, deltas) = ([logit; 5 * CLASSES], [delta; 20 * CLASSES]);
    let options = DetectOptions::default();
    let found = head.detect((&logits, &deltas), &rois, &sizes, &options);
    [proposals, found.unwrap().len(), retinanet, ssd]
}

fn counts(level: HeadLevel<'_>, channels: usize, sizes: &DetectorSizes) -> [usize; 3] {
    let options = DetectOptions::default();
    if channels == 6 {
        return [rpn().propose(&[level], sizes).unwrap().len(), 0, 0];
    }
    let retinanet = retinanet().detect(&[level], sizes, &options).unwrap();
    let ssd = ssd().detect(&[level], sizes, &options).unwrap();
    [0, retinanet.len(), ssd.len()]
}

#[test]
fn what_is_no_number_is_no_answer() {
    let strange = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
    for (logit, delta) in strange.iter().flat_map(|l| strange.map(|d| (*l, d))) {
        for (picture, points) in [(1, 1), (32, 4), (32, 0)] {
            let got = answers(logit, delta, picture, points);
            if logit.is_nan() || delta.is_nan() || points == 0 {
                // A box head has no points: five proposals of infinite logits are NaN too.
                assert_eq!(got, [0; 4], "{logit} {delta} {picture} {points}");
            }
        }
        assert_eq!(answers(logit, 0.0, 32, 4)[1], 0, "{logit}");
    }
    assert_eq!(answers(f32::NEG_INFINITY, 0.0, 32, 4), [0; 4]);
}

#[test]
fn below_the_threshold_there_is_nothing_and_above_something() {
    assert_eq!(answers(-10.0, 0.0, 32, 4)[0], 0);
    assert_eq!(answers(-10.0, 0.0, 32, 4)[2], 0);
    let got = answers(5.0, 0.0, 32, 4);
    assert!(got.iter().all(|count| *count > 0), "{got:?}");
    let pixel = answers(5.0, 0.0, 1, 1);
    assert!(pixel.iter().all(|count| *count <= 24), "{pixel:?}");
}

#[test]
fn no_proposals_give_no_detections() {
    let head = BoxHead {
        box_weights: [10.0, 10.0, 5.0, 5.0],
        thresholds: thresholds(),
    };
    let options = DetectOptions::default();
    assert_eq!(
        head.detect((&[], &[]), &[], &sizes(32), &options),
        Ok(vec![])
    );
    let error = head.detect((&[0.0; 4], &[]), &[], &sizes(32), &options);
    assert!(matches!(error, Err(DetectError::Count { .. })));
}

#[test]
fn maps_of_other_shapes_are_refused() {
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
        let options = DetectOptions::default();
        assert!(rpn().propose(&[bad], &sizes(32)).is_err());
        assert!(retinanet().detect(&[bad], &sizes(32), &options).is_err());
        assert!(ssd().detect(&[bad], &sizes(32), &options).is_err());
    }
    assert!(rpn().propose(&[], &sizes(32)).is_err());
    assert!(FeatureMap::new(&data, 3, square(4)).is_err());
    let huge = FeatureMap::new(&data, usize::MAX, square(u32::MAX));
    assert!(matches!(huge, Err(DetectError::TooLarge { .. })));
}
