//! Each stage and each family against torchvision, and against input that makes no sense.

use std::path::Path;

use onnx_export::formula::uniform;
use safetensors::SafeTensors;

use super::{
    AnchorGenerator, BoxHead, Corners, DefaultBoxes, DetectOptions, Detection, FeatureMap,
    HeadLevel, LevelMapper, RetinaNet, Rpn, Ssd, Thresholds, batched_nms,
};
use crate::image::{DetectorSizes, ImageSize};

fn size(height: u32, width: u32) -> ImageSize {
    ImageSize { width, height }
}

/// A file of tensors of f32 or i32.
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

    fn corners(&self, name: &str) -> Vec<Corners> {
        self.floats(name).as_chunks().0.to_vec()
    }
}

/// `maps` of `tests/golden/detect.py`: per level, logits and deltas.
struct Maps {
    grids: Vec<ImageSize>,
    scores: Vec<Vec<f32>>,
    deltas: Vec<Vec<f32>>,
}

/// Scale and shift of the logits, scale of the deltas.
type Scales = ([f32; 2], f32);

impl Maps {
    fn new(name: &str, grids: &[(u32, u32)], [per_point, classes]: [usize; 2], by: Scales) -> Self {
        let ([scale, shift], delta) = by;
        let grids: Vec<ImageSize> = grids.iter().map(|(h, w)| size(*h, *w)).collect();
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
            scores: values("scores", per_point * classes, scale, shift),
            deltas: values("deltas", per_point * 4, delta, 0.0),
            grids,
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

const SSD_GRIDS: [(u32, u32); 6] = [(20, 20), (10, 10), (5, 5), (3, 3), (2, 2), (1, 1)];
const MOBILENET_GRIDS: [(u32, u32); 3] = [(8, 10), (8, 10), (4, 5)];
const RESNET_GRIDS: [(u32, u32); 5] = [(64, 80), (32, 40), (16, 20), (8, 10), (4, 5)];
const RETINA_GRIDS: [(u32, u32); 5] = [(24, 20), (12, 10), (6, 5), (3, 3), (2, 2)];

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

/// All anchors of a picture, in torchvision's order.
fn all(anchors: &AnchorGenerator, grids: &[(u32, u32)], padded: ImageSize) -> Vec<Corners> {
    let levels = grids.iter().enumerate();
    levels
        .flat_map(|(level, (h, w))| {
            let grid = anchors.grid(level, size(*h, *w), padded);
            let len = (h * w) as usize * grid.per_point();
            (0..len).map(move |anchor| grid.anchor(anchor))
        })
        .collect()
}

#[test]
fn anchors_are_torchvisions() {
    let golden = Golden::open("detect.safetensors");
    let got = all(&mobilenet(), &MOBILENET_GRIDS, wide().padded);
    assert_eq!(got[1000..2000], golden.corners("anchors.mobilenet"));
    let got = all(&retina(), &RETINA_GRIDS, tall().padded);
    let last = got.len() - 2000;
    assert_eq!(got[last..], golden.corners("anchors.retina"));
    let odd = [(13, 9), (7, 5), (4, 3), (2, 2), (1, 1)];
    let got = all(&resnet(), &odd, size(101, 67));
    assert_eq!(got, golden.corners("anchors.odd"));
}

#[test]
fn default_boxes_are_torchvisions() {
    let boxes = ssdlite();
    let mut got = Vec::new();
    for (level, (h, w)) in SSD_GRIDS.into_iter().enumerate() {
        let len = (h * w) as usize * boxes.per_point(level);
        let anchors = 0..len;
        got.extend(anchors.map(|a| boxes.anchor(level, size(h, w), square().padded, a)));
    }
    let expected = Golden::open("detect.safetensors").corners("anchors.ssdlite");
    assert_eq!(got.len(), expected.len());
    let pairs = got.iter().flatten().zip(expected.iter().flatten());
    let largest = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(largest < 1e-4, "{largest}");
}

#[test]
fn suppression_keeps_what_torchvision_keeps() {
    let golden = Golden::open("nms.safetensors");
    let (boxes, scores) = (golden.corners("nms.boxes"), golden.floats("nms.scores"));
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

fn assert_close(got: &[f32], expected: &[f32], tolerance: f32, what: &str) {
    let pairs = got.iter().zip(expected);
    let largest = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(largest <= tolerance, "{what}: {largest}");
}

#[test]
fn proposals_are_torchvisions() {
    let golden = Golden::open("detect.safetensors");
    let (few, wild): (Scales, Scales) = (([4.0, -1.0], 0.5), ([4.0, 0.0], 6.0));
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
        let maps = Maps::new(name, grids, [per_point, 1], scales);
        let got = rpn.propose(&maps.levels(), &wide()).unwrap();
        let expected = golden.corners(&format!("{name}.proposals"));
        assert_eq!(got.len(), expected.len(), "{name}");
        assert_close(got.as_flattened(), expected.as_flattened(), 1e-3, name);
    }
}

#[test]
fn levels_of_boxes_are_torchvisions() {
    let golden = Golden::open("detect.safetensors");
    for (name, grids, resized) in [
        ("levels.resnet", [(200, 272), (25, 34)], size(800, 1066)),
        ("levels.mobilenet", [(25, 34), (25, 34)], size(800, 1066)),
        ("levels.small", [(10, 14), (10, 14)], size(320, 426)),
    ] {
        let [first, last] = grids.map(|(h, w)| size(h, w));
        let mapper = LevelMapper::new(first, last, resized);
        let boxes = golden.corners(&format!("{name}.boxes"));
        let got: Vec<usize> = boxes.iter().map(|corners| mapper.level(*corners)).collect();
        assert_eq!(got, golden.integers(&format!("{name}.levels")), "{name}");
        let scales = golden.floats(&format!("{name}.scales"));
        let ends = [first, last].map(|map| LevelMapper::spatial_scale(map, resized));
        assert_eq!(ends, [scales[0], scales[scales.len() - 1]], "{name}");
        assert_eq!(mapper.level([f32::NAN; 4]), 0);
        assert_eq!(mapper.level([5.0, 5.0, 5.0, 5.0]), 0);
    }
}

/// Equal one by one, except that equal scores may come in another order.
fn assert_equal(got: &[Detection], golden: &Golden, name: &str) {
    let rows = golden.floats(&format!("{name}.detections"));
    let expected = rows.as_chunks::<6>().0;
    assert_eq!(got.len(), expected.len(), "{name}");
    let mut moved = 0;
    for (i, row) in expected.iter().enumerate() {
        let equal = |detection: &Detection| {
            let corners = detection.corners.iter().zip(row);
            detection.class_id == row[5] as usize
                && (detection.score - row[4]).abs() < 1e-5
                && corners.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) < 1e-3
        };
        if !equal(&got[i]) {
            let tie = |d: &&Detection| (d.score - row[4]).abs() <= 1e-7;
            let found = got.iter().filter(tie).any(equal);
            assert!(found, "{name} {i}: {row:?}, got {:?}", got[i]);
            moved += 1;
        }
    }
    println!("{name}: {} detections, {moved} in another order", got.len());
    assert!(moved <= got.len() / 50, "{name}: {moved} moved");
}

fn thresholds(score: f32, iou: f64, max_detections: usize) -> Thresholds {
    Thresholds {
        score,
        iou,
        max_detections,
    }
}

#[test]
fn faster_rcnn_answers_as_torchvision() {
    let golden = Golden::open("detect.safetensors");
    let proposals = golden.corners("rpn.mobilenet.proposals");
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
        let options = DetectOptions::default();
        let got = head.detect((&logits, &deltas), proposals, &wide(), &options);
        assert_equal(&got.unwrap(), &golden, name);
    }
}

#[test]
fn retinanet_answers_as_torchvision() {
    let golden = Golden::open("detect.safetensors");
    let net = RetinaNet {
        box_weights: [1.0; 4],
        anchors: retina(),
        topk_candidates: 1000,
        thresholds: thresholds(0.05, 0.5, 300),
    };
    for (name, classes, logits) in [
        ("retina.few", 7, [3.0, -5.5]),
        ("retina.many", 13, [6.0, -3.0]),
    ] {
        let maps = Maps::new(name, &RETINA_GRIDS, [9, classes], (logits, 1.0));
        let got = net.detect(&maps.levels(), &tall(), &DetectOptions::default());
        assert_equal(&got.unwrap(), &golden, name);
    }
}

#[test]
fn ssd_answers_as_torchvision() {
    let golden = Golden::open("detect.safetensors");
    let net = Ssd {
        box_weights: [10.0, 10.0, 5.0, 5.0],
        boxes: ssdlite(),
        topk_candidates: 300,
        thresholds: thresholds(0.001, 0.55, 300),
    };
    for (name, classes, scale, delta) in [("ssd.few", 91, 3.0, 2.0), ("ssd.many", 21, 8.0, 4.0)] {
        let maps = Maps::new(name, &SSD_GRIDS, [6, classes], ([scale, 0.0], delta));
        let got = net.detect(&maps.levels(), &square(), &DetectOptions::default());
        assert_equal(&got.unwrap(), &golden, name);
    }
}
