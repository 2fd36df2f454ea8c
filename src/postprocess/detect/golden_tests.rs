//! Tests of each postprocessing stage and each detector family against torchvision.
//!
//! The script `tests/golden/detect.py` computes the expected values.

use std::path::Path;

use onnx_export::formula::uniform;
use safetensors::SafeTensors;

use super::{
    AnchorGenerator, BoxHead, BoxHeadOutputs, BoxXyxy, DefaultBoxes, DetectOptions, Detection,
    FeatureMap, HeadLevel, LevelMapper, RetinaNet, Rpn, Ssd, Thresholds, batched_nms,
};
use crate::cancel::Cancel;
use crate::image::{DetectorSizes, ImageSize};

const fn size(height: u32, width: u32) -> ImageSize {
    ImageSize { width, height }
}

/// The bytes of a safetensors file with expected values, whose tensors are f32 or i32.
struct Golden(Vec<u8>);

impl Golden {
    fn open(name: &str) -> Self {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
        Self(std::fs::read(golden.join(name)).unwrap())
    }

    fn bytes(&self, name: &str) -> Vec<[u8; 4]> {
        let tensors = SafeTensors::deserialize(&self.0).unwrap();
        tensors.tensor(name).unwrap().data().as_chunks().0.to_vec()
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        let bytes = self.bytes(name);
        bytes.into_iter().map(f32::from_le_bytes).collect()
    }

    fn integers(&self, name: &str) -> Vec<usize> {
        let bytes = self.bytes(name).into_iter();
        bytes.map(|b| u32::from_le_bytes(b) as usize).collect()
    }

    fn boxes(&self, name: &str) -> Vec<BoxXyxy> {
        let rows = self.floats(name);
        rows.as_chunks::<4>()
            .0
            .iter()
            .map(|row| BoxXyxy::from(*row))
            .collect()
    }
}

/// Pseudo-random class scores and box deltas of each feature map level, equal to those of the
/// function `maps` in `tests/golden/detect.py`.
struct Maps {
    grids: Vec<ImageSize>,
    scores: Vec<Vec<f32>>,
    deltas: Vec<Vec<f32>>,
}

/// Factors and offset that give pseudo-random values the magnitude of a network's logits and box
/// deltas.
#[derive(Clone, Copy)]
struct Scales {
    logit_scale: f32,
    logit_shift: f32,
    delta_scale: f32,
}

const fn scales(logit_scale: f32, logit_shift: f32, delta_scale: f32) -> Scales {
    Scales {
        logit_scale,
        logit_shift,
        delta_scale,
    }
}

impl Maps {
    /// Returns pseudo-random maps for feature map levels of the sizes `grids`, with `anchors` boxes
    /// per point and `classes` logits per box. `name` is the seed, and `by` scales the values.
    fn new(name: &str, grids: &[ImageSize], anchors: usize, classes: usize, by: Scales) -> Self {
        let values = |what: &str, channels: usize, scale: f32, shift: f32| {
            let levels = grids.iter().enumerate();
            let level = |(i, grid): (usize, &ImageSize)| {
                let len = channels * grid.pixels() as usize;
                let name = format!("{name}.{what}.{i}");
                uniform(&name, len).map(|v| v * scale + shift).collect()
            };
            levels.map(level).collect()
        };
        Self {
            scores: values("scores", anchors * classes, by.logit_scale, by.logit_shift),
            deltas: values("deltas", anchors * 4, by.delta_scale, 0.0),
            grids: grids.to_vec(),
        }
    }

    fn levels(&self) -> Vec<HeadLevel<'_>> {
        let levels = self.scores.iter().zip(&self.deltas).zip(&self.grids);
        levels
            .map(|((scores, deltas), grid)| HeadLevel {
                scores: map(scores, *grid),
                deltas: map(deltas, *grid),
            })
            .collect()
    }
}

fn map(data: &[f32], grid: ImageSize) -> FeatureMap<'_> {
    let channels = data.len() / grid.pixels().max(1) as usize;
    FeatureMap::new(data, channels, grid).unwrap()
}

const SSD_GRIDS: [ImageSize; 6] = [
    size(20, 20),
    size(10, 10),
    size(5, 5),
    size(3, 3),
    size(2, 2),
    size(1, 1),
];
const MOBILENET_GRIDS: [ImageSize; 3] = [size(8, 10), size(8, 10), size(4, 5)];
const RESNET_GRIDS: [ImageSize; 5] = [
    size(64, 80),
    size(32, 40),
    size(16, 20),
    size(8, 10),
    size(4, 5),
];
const RETINA_GRIDS: [ImageSize; 5] = [
    size(24, 20),
    size(12, 10),
    size(6, 5),
    size(3, 3),
    size(2, 2),
];

fn wide() -> DetectorSizes {
    DetectorSizes {
        original: size(480, 601),
        resized: size(250, 313),
        padded: size(256, 320),
    }
}

fn tall() -> DetectorSizes {
    DetectorSizes {
        original: size(700, 483),
        resized: size(190, 131),
        padded: size(192, 160),
    }
}

fn square() -> DetectorSizes {
    DetectorSizes {
        original: size(480, 640),
        resized: size(320, 320),
        padded: size(320, 320),
    }
}

fn ratios(levels: usize) -> Vec<Vec<f32>> {
    vec![vec![0.5, 1.0, 2.0]; levels]
}

fn mobilenet() -> AnchorGenerator {
    let sizes = vec![vec![32.0, 64.0, 128.0, 256.0, 512.0]; 3];
    AnchorGenerator::new(&sizes, &ratios(3)).unwrap()
}

fn resnet() -> AnchorGenerator {
    let sizes = [32.0, 64.0, 128.0, 256.0, 512.0].map(|size| vec![size]);
    AnchorGenerator::new(&sizes, &ratios(5)).unwrap()
}

fn retina() -> AnchorGenerator {
    let sizes = [
        [32.0, 40.0, 50.0],
        [64.0, 80.0, 101.0],
        [128.0, 161.0, 203.0],
        [256.0, 322.0, 406.0],
        [512.0, 645.0, 812.0],
    ];
    AnchorGenerator::new(&sizes.map(Vec::from), &ratios(5)).unwrap()
}

fn ssdlite() -> DefaultBoxes {
    DefaultBoxes::new(&vec![vec![2.0, 3.0]; 6], 0.2, 0.95)
}

/// Returns the anchors of all levels in torchvision's order, for feature maps of the sizes `grids`
/// and images padded to `padded`.
fn all(anchors: &AnchorGenerator, grids: &[ImageSize], padded: ImageSize) -> Vec<BoxXyxy> {
    let levels = grids.iter().enumerate();
    levels
        .flat_map(|(level, points)| {
            let grid = anchors.grid(level, *points, padded);
            let len = points.pixels() as usize * grid.per_point();
            (0..len).map(move |anchor| grid.anchor(anchor))
        })
        .collect()
}

#[test]
fn anchors_are_torchvisions() {
    let golden = Golden::open("detect.safetensors");
    let got = all(&mobilenet(), &MOBILENET_GRIDS, wide().padded);
    assert_eq!(got[1000..2000], golden.boxes("anchors.mobilenet"));
    let got = all(&retina(), &RETINA_GRIDS, tall().padded);
    let last = got.len() - 2000;
    assert_eq!(got[last..], golden.boxes("anchors.retina"));
    let odd = [size(13, 9), size(7, 5), size(4, 3), size(2, 2), size(1, 1)];
    let got = all(&resnet(), &odd, size(101, 67));
    assert_eq!(got, golden.boxes("anchors.odd"));
}

#[test]
fn default_boxes_are_torchvisions() {
    let boxes = ssdlite();
    let mut got = Vec::new();
    for (level, points) in SSD_GRIDS.into_iter().enumerate() {
        let len = points.pixels() as usize * boxes.per_point(level);
        let grid = boxes.grid(level, points, square().padded);
        got.extend((0..len).map(|anchor| grid.anchor(anchor)));
    }
    let expected = Golden::open("detect.safetensors").boxes("anchors.ssdlite");
    assert_eq!(got.len(), expected.len());
    assert_boxes_close(&got, &expected, 1e-4, "anchors.ssdlite");
}

#[test]
fn suppression_keeps_what_torchvision_keeps() {
    let golden = Golden::open("nms.safetensors");
    let (boxes, scores) = (golden.boxes("nms.boxes"), golden.floats("nms.scores"));
    let labels: Vec<u32> = golden
        .integers("nms.labels")
        .iter()
        .map(|l| *l as u32)
        .collect();
    let one = vec![0; boxes.len()];
    for threshold in ["0.3", "0.5", "0.7"] {
        let iou: f64 = threshold.parse().unwrap();
        let expected = golden.integers(&format!("nms.keep_{threshold}"));
        assert_eq!(batched_nms(&boxes, &scores, &one, iou), expected);
        let expected = golden.integers(&format!("batched_nms.keep_{threshold}"));
        assert_eq!(batched_nms(&boxes, &scores, &labels, iou), expected);
    }
}

fn rpn(anchors: AnchorGenerator, top_n: usize, score_threshold: f32) -> Rpn {
    Rpn {
        anchors,
        pre_nms_top_n: top_n,
        post_nms_top_n: top_n,
        nms_threshold: 0.7,
        score_threshold,
    }
}

/// Returns the largest difference between the left, top, right or bottom edges of two boxes, in
/// pixels.
fn distance(a: BoxXyxy, b: BoxXyxy) -> f32 {
    let pairs = a.to_array().into_iter().zip(b.to_array());
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn assert_boxes_close(got: &[BoxXyxy], expected: &[BoxXyxy], tolerance: f32, what: &str) {
    let pairs = got.iter().zip(expected);
    let largest = pairs.map(|(a, b)| distance(*a, *b)).fold(0.0, f32::max);
    assert!(
        largest <= tolerance,
        "{what}: the edges of a box differ by {largest} pixels"
    );
}

#[test]
fn proposals_are_torchvisions() {
    let golden = Golden::open("detect.safetensors");
    let (few, wild) = (scales(4.0, -1.0, 0.5), scales(4.0, 0.0, 6.0));
    let pyramid = RESNET_GRIDS.as_slice();
    let two = MOBILENET_GRIDS.as_slice();
    let cases = [
        ("rpn.mobilenet", two, 15, few, rpn(mobilenet(), 1000, 0.05)),
        (
            "rpn.mobilenet_320",
            two,
            15,
            few,
            rpn(mobilenet(), 150, 0.05),
        ),
        ("rpn.resnet", pyramid, 3, few, rpn(resnet(), 1000, 0.0)),
        ("rpn.wild", pyramid, 3, wild, rpn(resnet(), 300, 0.5)),
    ];
    for (name, grids, per_point, scales, rpn) in cases {
        let maps = Maps::new(name, grids, per_point, 1, scales);
        let got = rpn.propose(&maps.levels(), &wide()).unwrap();
        let expected = golden.boxes(&format!("{name}.proposals"));
        assert_eq!(got.len(), expected.len(), "{name}");
        assert_boxes_close(&got, &expected, 1e-3, name);
    }
}

#[test]
fn levels_of_boxes_are_torchvisions() {
    let golden = Golden::open("detect.safetensors");
    for (name, strides) in [
        ("levels.resnet", [4, 8, 16, 32].as_slice()),
        ("levels.mobilenet", &[32, 32]),
        ("levels.small", &[32, 32]),
    ] {
        let mapper = LevelMapper::from_strides(strides);
        let boxes = golden.boxes(&format!("{name}.boxes"));
        let got: Vec<usize> = boxes.iter().map(|b| mapper.level(*b)).collect();
        assert_eq!(got, golden.integers(&format!("{name}.levels")), "{name}");
        let scales = golden.floats(&format!("{name}.scales"));
        let expected: Vec<f32> = strides.iter().map(|stride| 1.0 / *stride as f32).collect();
        assert_eq!(scales, expected, "{name}");
        assert_eq!(mapper.level(BoxXyxy::from([f32::NAN; 4])), 0);
        assert_eq!(mapper.level(BoxXyxy::from([5.0; 4])), 0);
    }
}

/// Asserts that `got` equals the detections in the tensor `{name}.detections` of `golden`.
/// Detections of equal score may be in another order.
fn assert_equal(got: &[Detection], golden: &Golden, name: &str) {
    let rows = golden.floats(&format!("{name}.detections"));
    let expected = rows.as_chunks::<6>().0;
    assert_eq!(got.len(), expected.len(), "{name}");
    let mut moved = 0;
    for (i, row) in expected.iter().enumerate() {
        let equal = |detection: &Detection| {
            let expected = BoxXyxy::new(row[0], row[1], row[2], row[3]);
            detection.class_id == row[5] as usize
                && (detection.score - row[4]).abs() < 1e-5
                && distance(detection.bounding_box, expected) < 1e-3
        };
        if !equal(&got[i]) {
            let tie = |d: &&Detection| (d.score - row[4]).abs() <= 1e-7;
            let found = got.iter().filter(tie).any(equal);
            assert!(
                found,
                "{name}: expected detection {i} is {row:?}, got {:?}",
                got[i]
            );
            moved += 1;
        }
    }
    println!(
        "{name}: {} detections, {moved} not in torchvision's order",
        got.len()
    );
    assert!(
        moved <= got.len() / 50,
        "{name}: {moved} detections are not in torchvision's order"
    );
}

fn thresholds(score: f32, iou: f64, max_detections: usize) -> Thresholds {
    Thresholds {
        score,
        iou,
        max_detections,
    }
}

#[test]
fn faster_rcnn_detections_are_torchvisions() {
    let golden = Golden::open("detect.safetensors");
    let proposals = golden.boxes("rpn.mobilenet.proposals");
    for (name, proposals, scale, delta, threshold) in [
        ("head.few", &proposals[..200], 6.0, 1.0, 0.05),
        ("head.many", &proposals[..300], 5.0, 4.0, 0.02),
    ] {
        let values = |what: &str, columns: usize, scale: f32| -> Vec<f32> {
            let (name, len) = (format!("{name}.{what}"), proposals.len() * columns);
            uniform(&name, len).map(|v| v * scale).collect()
        };
        let (logits, deltas) = (values("scores", 91, scale), values("deltas", 364, delta));
        let head = BoxHead {
            box_weights: [10.0, 10.0, 5.0, 5.0],
            thresholds: thresholds(threshold, 0.5, 100),
        };
        let edges: Vec<[f32; 4]> = proposals.iter().map(|b| b.to_array()).collect();
        let outputs = BoxHeadOutputs {
            proposals: &edges,
            class_logits: &logits,
            box_regression: &deltas,
        };
        let options = DetectOptions::default();
        let got = head.detect(&outputs, &wide(), &options, &Cancel::never());
        assert_equal(&got.unwrap(), &golden, name);
    }
}

#[test]
fn retinanet_detections_are_torchvisions() {
    let golden = Golden::open("detect.safetensors");
    let net = RetinaNet {
        box_weights: [1.0; 4],
        anchors: retina(),
        topk_candidates: 1000,
        thresholds: thresholds(0.05, 0.5, 300),
    };
    let (options, cancel) = (DetectOptions::default(), Cancel::never());
    for (name, classes, scales) in [
        ("retina.few", 7, scales(3.0, -5.5, 1.0)),
        ("retina.many", 13, scales(6.0, -3.0, 1.0)),
    ] {
        let maps = Maps::new(name, &RETINA_GRIDS, 9, classes, scales);
        let got = net.detect(&maps.levels(), &tall(), &options, &cancel);
        assert_equal(&got.unwrap(), &golden, name);
    }
}

#[test]
fn ssd_detections_are_torchvisions() {
    let golden = Golden::open("detect.safetensors");
    let net = Ssd {
        box_weights: [10.0, 10.0, 5.0, 5.0],
        boxes: ssdlite(),
        topk_candidates: 300,
        thresholds: thresholds(0.001, 0.55, 300),
    };
    let (options, cancel) = (DetectOptions::default(), Cancel::never());
    for (name, classes, scales) in [
        ("ssd.few", 91, scales(3.0, 0.0, 2.0)),
        ("ssd.many", 21, scales(8.0, 0.0, 4.0)),
    ] {
        let maps = Maps::new(name, &SSD_GRIDS, 6, classes, scales);
        let got = net.detect(&maps.levels(), &square(), &options, &cancel);
        assert_equal(&got.unwrap(), &golden, name);
    }
}
