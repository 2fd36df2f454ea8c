//! Benchmarks the detectors' preprocessing of images, and NMS and postprocessing on generated
//! network outputs. The outputs have the sizes that the networks compute for a 640x480 photograph.

use std::hint::black_box;
use std::ops::Range;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use image::RgbImage;
use onnx_export::formula::uniform;
use sightline::cancel::Cancel;
use sightline::image::{
    DetectorResize, DetectorSize, DetectorSizes, DetectorTransform, ImageSize, Normalizer,
};
use sightline::postprocess::detect::{
    AnchorGenerator, BoxHead, BoxHeadOutputs, BoxXyxy, DefaultBoxes, DetectOptions, FeatureMap,
    HeadLevel, RetinaNet, Rpn, Ssd, Thresholds, batched_nms,
};

const PHOTO: ImageSize = size(640, 480);
const LARGE: DetectorSizes = DetectorSizes {
    original: PHOTO,
    resized: size(1066, 800),
    padded: size(1088, 800),
};
const SMALL: DetectorSizes = DetectorSizes {
    original: PHOTO,
    resized: size(426, 320),
    padded: size(448, 320),
};
const SQUARE: DetectorSizes = DetectorSizes {
    original: PHOTO,
    resized: size(320, 320),
    padded: size(320, 320),
};

const fn size(width: u32, height: u32) -> ImageSize {
    ImageSize { width, height }
}

fn transform(c: &mut Criterion) {
    let photo = |width, height| {
        RgbImage::from_fn(width, height, |x, y| {
            image::Rgb([x as u8, y as u8, (x ^ y) as u8])
        })
    };
    let bounded = |min, max| DetectorSize::Bounded { min, max };
    let mut group = c.benchmark_group("transform");
    group.throughput(Throughput::Elements(1));
    for (name, image, size, multiple) in [
        (
            "640x480_to_1066x800",
            photo(640, 480),
            bounded(800, 1333),
            32,
        ),
        ("640x480_to_426x320", photo(640, 480), bounded(320, 640), 32),
        (
            "640x480_to_320x320",
            photo(640, 480),
            DetectorSize::Fixed(SQUARE.resized),
            1,
        ),
        (
            "4000x3000_to_1066x800",
            photo(4000, 3000),
            bounded(800, 1333),
            32,
        ),
    ] {
        let normalizer = Normalizer::new([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
        let transform = DetectorTransform::new(DetectorResize::new(size, multiple), normalizer);
        group.bench_function(name, |b| {
            let never = Cancel::never();
            b.iter(|| transform.run(black_box(&image), &never));
        });
    }
    group.finish();
}

fn values(name: &str, len: usize, scale: f32, shift: f32) -> Vec<f32> {
    uniform(name, len).map(|v| v * scale + shift).collect()
}

/// Returns `len` boxes (x1, y1, x2, y2 in pixels) with sides of up to 160 pixels, whose upper left
/// corners are spread over an area of 900x700 pixels.
fn boxes(len: usize) -> Vec<[f32; 4]> {
    let at = values("boxes", 4 * len, 0.5, 0.5);
    let corners = at.as_chunks::<4>().0.iter().map(|[x, y, w, h]| {
        let (x, y) = (x * 900.0, y * 700.0);
        [x, y, x + w * w * 160.0, y + h * h * 160.0]
    });
    corners.collect()
}

fn nms(c: &mut Criterion) {
    let mut group = c.benchmark_group("nms");
    for (len, kinds) in [(3000, 91), (1000, 91), (5000, 5), (3000, 1)] {
        let boxes: Vec<BoxXyxy> = boxes(len).into_iter().map(BoxXyxy::from).collect();
        let scores = values("scores", len, 0.5, 0.5);
        let classes: Vec<u32> = (0..len as u32).map(|i| i % kinds).collect();
        group.throughput(Throughput::Elements(len as u64));
        group.bench_function(format!("{len}x{kinds}"), |b| {
            b.iter(|| batched_nms(black_box(&boxes), &scores, &classes, 0.5));
        });
    }
    group.finish();
}

/// Generated outputs of a detection head: one map of scores and one of box deltas per feature map size in `grids`.
struct Maps {
    grids: Vec<ImageSize>,
    scores: Vec<Vec<f32>>,
    deltas: Vec<Vec<f32>>,
}

impl Maps {
    /// Generates outputs with `anchors` boxes per location and `classes` logits per box. The logits
    /// lie in the range `logits`. They are computed from high powers of uniform values, so that few
    /// logits are high, as in a trained network.
    fn new(grids: &[ImageSize], anchors: usize, classes: usize, logits: Range<f32>) -> Self {
        let level = |channels: usize, grid: &ImageSize| {
            let name = format!("{channels} of {}", grid.width);
            values(&name, channels * grid.pixels() as usize, 1.0, 0.0)
        };
        let scores = grids.iter().map(|grid| {
            let uniform = level(anchors * classes, grid);
            let spread = logits.end - logits.start;
            let logit = |v: f32| logits.start + spread * v.abs().powi(4).powi(4);
            uniform.into_iter().map(logit).collect()
        });
        let deltas = grids.iter().map(|grid| level(4 * anchors, grid));
        Self {
            scores: scores.collect(),
            deltas: deltas.collect(),
            grids: grids.to_vec(),
        }
    }

    fn levels(&self) -> Vec<HeadLevel<'_>> {
        let map = |data, grid: ImageSize| {
            let channels = <[f32]>::len(data) / grid.pixels() as usize;
            FeatureMap::new(data, channels, grid).expect("the data fills all channels")
        };
        let levels = self.scores.iter().zip(&self.deltas).zip(&self.grids);
        let level = levels.map(|((scores, deltas), grid)| HeadLevel {
            scores: map(scores, *grid),
            deltas: map(deltas, *grid),
        });
        level.collect()
    }
}

fn ratios(levels: usize) -> Vec<Vec<f32>> {
    vec![vec![0.5, 1.0, 2.0]; levels]
}

fn proposals(c: &mut Criterion) {
    let mobilenet = || {
        let sizes = vec![vec![32.0, 64.0, 128.0, 256.0, 512.0]; 3];
        AnchorGenerator::new(&sizes, &ratios(3)).expect("every level has sizes and ratios")
    };
    let resnet = || {
        let sizes = [32.0, 64.0, 128.0, 256.0, 512.0].map(|size| vec![size]);
        AnchorGenerator::new(&sizes, &ratios(5)).expect("every level has sizes and ratios")
    };
    let pyramid = [
        size(272, 200),
        size(136, 100),
        size(68, 50),
        size(34, 25),
        size(17, 13),
    ];
    let mut group = c.benchmark_group("proposals");
    for (name, grids, per_point, anchors, sizes, top_n) in [
        (
            "mobilenet_320",
            [size(14, 10), size(14, 10), size(7, 5)].as_slice(),
            15,
            mobilenet(),
            SMALL,
            150,
        ),
        (
            "mobilenet_800",
            &[size(34, 25), size(34, 25), size(17, 13)],
            15,
            mobilenet(),
            LARGE,
            1000,
        ),
        ("resnet_800", &pyramid, 3, resnet(), LARGE, 1000),
    ] {
        let rpn = Rpn {
            anchors,
            pre_nms_top_n: top_n,
            post_nms_top_n: top_n,
            nms_threshold: 0.7,
            score_threshold: 0.0,
        };
        let maps = Maps::new(grids, per_point, 1, -8.0..4.0);
        let levels = maps.levels();
        group.bench_function(name, |b| b.iter(|| rpn.propose(black_box(&levels), &sizes)));
    }
    group.finish();
}

fn thresholds(score: f32, iou: f64, max_detections: usize) -> Thresholds {
    Thresholds {
        score,
        iou,
        max_detections,
    }
}

fn final_stages(c: &mut Criterion) {
    let (options, cancel) = (DetectOptions::default(), Cancel::never());
    let mut group = c.benchmark_group("final");
    let head = BoxHead {
        box_weights: [10.0, 10.0, 5.0, 5.0],
        thresholds: thresholds(0.05, 0.5, 100),
    };
    let proposals = boxes(1000);
    let mut logits = values("logits", 1000 * 91, 3.0, 0.0);
    // Three of four proposals are classified as background.
    for (i, row) in logits.chunks_exact_mut(91).enumerate() {
        row[if i % 4 == 0 { i % 91 } else { 0 }] = 9.0;
    }
    let deltas = values("deltas", 1000 * 364, 1.0, 0.0);
    group.bench_function("box_head_1000x91", |b| {
        let outputs = BoxHeadOutputs {
            proposals: &proposals,
            class_logits: &logits,
            box_regression: &deltas,
        };
        b.iter(|| head.detect(black_box(&outputs), &LARGE, &options, &cancel));
    });
    let sizes = [32.0, 64.0, 128.0, 256.0, 512.0].map(|x| vec![x, x * 1.25, x * 1.58]);
    let retinanet = RetinaNet {
        box_weights: [1.0; 4],
        anchors: AnchorGenerator::new(&sizes, &ratios(5))
            .expect("every level has a list of sizes and a list of ratios"),
        topk_candidates: 1000,
        thresholds: thresholds(0.05, 0.5, 300),
    };
    let grids = [
        size(136, 100),
        size(68, 50),
        size(34, 25),
        size(17, 13),
        size(9, 7),
    ];
    let maps = Maps::new(&grids, 9, 91, -7.0..-1.5);
    let levels = maps.levels();
    group.bench_function("retinanet_800", |b| {
        b.iter(|| retinanet.detect(black_box(&levels), &LARGE, &options, &cancel));
    });
    let ssd = Ssd {
        box_weights: [10.0, 10.0, 5.0, 5.0],
        boxes: DefaultBoxes::new(&vec![vec![2.0, 3.0]; 6], 0.2, 0.95),
        topk_candidates: 300,
        thresholds: thresholds(0.001, 0.55, 300),
    };
    let grids = [
        size(20, 20),
        size(10, 10),
        size(5, 5),
        size(3, 3),
        size(2, 2),
        size(1, 1),
    ];
    let mut maps = Maps::new(&grids, 6, 91, -3.0..4.0);
    // As in a busy photograph, about 15,000 pairs of a box and a class other than the background
    // pass the score threshold, although the background has the highest score of every box.
    for (scores, grid) in maps.scores.iter_mut().zip(&maps.grids) {
        let planes = scores.chunks_exact_mut(grid.pixels() as usize);
        for (channel, plane) in planes.enumerate() {
            match channel % 91 {
                0 => plane.fill(4.0),
                class if class % 5 == 1 => {}
                _ => plane.iter_mut().for_each(|logit| *logit -= 8.0),
            }
        }
    }
    let levels = maps.levels();
    group.bench_function("ssdlite_320", |b| {
        b.iter(|| ssd.detect(black_box(&levels), &SQUARE, &options, &cancel));
    });
    group.finish();
}

criterion_group!(benches, transform, nms, proposals, final_stages);
criterion_main!(benches);
