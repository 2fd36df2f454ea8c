//! Checks that detectors exported as one ONNX graph with postprocessing (`--fused`) return the same detections as
//! the server, which runs the network in ONNX Runtime and postprocessing in Rust.
//!
//! The networks run in sessions of the test instead of the server's engine, since ONNX Runtime
//! allows one environment per process.

use std::collections::BTreeMap;

use crate::reference::detection::{DetectionCase, Input, Runner, detection_cases};
use crate::reference::{iou, matched};
use image::RgbImage;
use onnx_export::weights::StateDict;
use onnx_export::{DEFAULT_OPSET, Model, OPSETS, Role, formula};
use sightline::cancel::Cancel;
use sightline::catalogue;
use sightline::engine::{
    BOX_REGRESSION, CLASS_LOGITS, Output, Outputs, REGIONS, Region, Tensor, TensorView,
};
use sightline::image::{ImageSize, PreparedImage, Preprocessor};
use sightline::manifest::{ModelManifest, Resize};
use sightline::postprocess::detect::{DetectOptions, Detector};

/// A detection; `corners` are x1, y1, x2, y2 in pixels of the resized image.
#[derive(Debug, Clone, Copy)]
struct Found {
    class: usize,
    score: f32,
    corners: [f32; 4],
}

fn state(case: &DetectionCase) -> StateDict {
    let scale: Vec<(String, f32)> = case.scale.clone().into_iter().collect();
    formula::state_dict(&case.shapes, &scale).unwrap()
}

fn image(case: &DetectionCase) -> RgbImage {
    let planes = case.image();
    let (width, height) = (case.input.width, case.input.height);
    let at = |x: u32, y: u32, c: usize| {
        (planes[(c * height + y as usize) * width + x as usize] * 255.0).round() as u8
    };
    RgbImage::from_fn(width as u32, height as u32, |x, y| {
        image::Rgb([0, 1, 2].map(|c| at(x, y, c)))
    })
}

/// Runs the network that is exported without postprocessing, then postprocessing in Rust as the
/// server does, and returns the detections.
fn native(manifest: &ModelManifest, state: &StateDict, image: &RgbImage) -> Vec<Found> {
    let architecture = manifest.architecture.as_ref().unwrap();
    let model = onnx_export::build(&manifest.name, architecture, state, DEFAULT_OPSET).unwrap();
    let detector = Detector::of(manifest).unwrap().unwrap();
    let input = Preprocessor::new(&manifest.preprocess).run(image).unwrap();
    let original = ImageSize {
        width: image.width(),
        height: image.height(),
    };
    let resized = input.content;
    let maps = Runner::new(&model.to_bytes()).run(vec![images(&input)]);
    let levels = |name: &str| {
        let named = (0..).map(|level| maps.get(&format!("{name}_{level}")));
        let named = named.map_while(|map| map);
        named.map(first_image).collect::<Vec<_>>()
    };
    let files = model.to_files();
    let two_stages = (files.get(Role::BoxHead), detector.proposer());
    let outputs = if let (Some(second), Some(proposer)) = two_stages {
        let pairs: Vec<_> = levels("rpn_objectness")
            .into_iter()
            .zip(levels("rpn_deltas"))
            .collect();
        let views: Vec<_> = pairs.iter().map(|(s, d)| (view(s), view(d))).collect();
        let regions = proposer.propose(&views, input.size, resized).unwrap();
        second_stage(second, &maps, &regions)
    } else {
        let named = |prefix: &str| {
            let levels = levels(prefix).into_iter().enumerate();
            let output = |(level, map)| Output::f32(&format!("{prefix}_{level}"), map);
            levels.map(output).collect::<Vec<_>>()
        };
        let outputs = [named("cls_logits"), named("bbox_regression")];
        outputs.into_iter().flatten().collect()
    };
    let options = DetectOptions::default();
    let found = detector.detect(&outputs, original, &options, &Cancel::never());
    let found = found.unwrap();
    let across = resized.width as f32 / original.width as f32;
    let down = resized.height as f32 / original.height as f32;
    let scale = [across, down, across, down];
    let found = found.into_iter().map(|detection| Found {
        class: detection.class_id,
        score: detection.score,
        corners: std::array::from_fn(|i| detection.bounding_box.to_array()[i] * scale[i]),
    });
    found.collect()
}

/// Returns an output tensor of shape `[1, ...]`, which is for one image, without its batch axis.
fn first_image(map: &Tensor) -> Tensor {
    Tensor {
        shape: map.shape[1..].to_vec(),
        data: map.data.clone(),
    }
}

fn view(map: &Tensor) -> TensorView<'_> {
    TensorView {
        shape: map.shape.clone(),
        data: &map.data,
    }
}

/// Runs the box head on the region proposals `regions`. Returns the regions and their class logits
/// and box deltas, ordered by pyramid level, as the outputs of the server's engine.
fn second_stage(model: &[u8], maps: &BTreeMap<String, Tensor>, regions: &[Region]) -> Outputs {
    let (mut inputs, mut order) = (Vec::new(), Vec::new());
    let named = (0..).map(|level| maps.get(&format!("feature_{level}")));
    for (level, map) in named.map_while(|map| map).enumerate() {
        let here = regions.iter().filter(|region| region.level == level);
        let corners: Vec<f32> = here.flat_map(|region| region.corners).collect();
        let map = Input::F32(map.shape.clone(), map.data.clone());
        let count = corners.len() / 4;
        inputs.extend([
            (format!("feature_{level}"), map),
            (format!("batch_indices_{level}"), Input::I64(vec![0; count])),
            (
                format!("rois_{level}"),
                Input::F32(vec![count, 4], corners.clone()),
            ),
        ]);
        order.extend(corners);
    }
    let mut outputs = Runner::new(model).run(inputs);
    let regions = Tensor {
        shape: vec![order.len() / 4, 4],
        data: order,
    };
    let [logits, deltas] = [CLASS_LOGITS, BOX_REGRESSION].map(|name| outputs.remove(name).unwrap());
    Outputs::from_iter([
        Output::f32(REGIONS, regions),
        Output::f32(CLASS_LOGITS, logits),
        Output::f32(BOX_REGRESSION, deltas),
    ])
}

fn images(input: &PreparedImage) -> (String, Input) {
    let shape = vec![1, 3, input.size.height as usize, input.size.width as usize];
    ("images".to_owned(), Input::F32(shape, input.data.to_vec()))
}

fn build_fused(manifest: &ModelManifest, state: &StateDict, opset: i64) -> Model {
    let architecture = manifest.architecture.as_ref().unwrap();
    let options = manifest.fused_options().unwrap();
    let name = format!("{}_fused", manifest.name);
    onnx_export::build_fused(&name, architecture, &options, state, opset).unwrap()
}

/// Runs the fused graph and returns its detections. Panics if building the graph twice gives different bytes.
fn fused(manifest: &ModelManifest, state: &StateDict, input: &PreparedImage) -> Vec<Found> {
    let model = build_fused(manifest, state, DEFAULT_OPSET);
    let bytes = model.to_bytes();
    let again = build_fused(manifest, state, DEFAULT_OPSET);
    assert!(
        bytes == again.to_bytes(),
        "{}: two builds of the fused graph differ",
        manifest.name
    );
    run(&bytes, manifest, input)
}

fn run(model: &[u8], manifest: &ModelManifest, input: &PreparedImage) -> Vec<Found> {
    let mut inputs = vec![images(input)];
    if !matches!(manifest.preprocess.resize, Resize::Fixed { .. }) {
        let size = [input.content.height, input.content.width].map(i64::from);
        inputs.push(("image_size".to_owned(), Input::I64(size.to_vec())));
    }
    let outputs = Runner::new(model).run(inputs);
    let (boxes, labels) = (&outputs["boxes"], &outputs["labels"]);
    let scores = &outputs["scores"];
    assert_eq!(boxes.shape, [scores.data.len(), 4]);
    assert_eq!(labels.shape, scores.shape);
    let corners = boxes.data.as_chunks::<4>().0.iter();
    let rest = labels.data.iter().zip(&scores.data);
    let found = corners.zip(rest).map(|(corners, (label, score))| Found {
        class: *label as usize,
        score: *score,
        corners: *corners,
    });
    found.collect()
}

/// Returns whether two detections have the same class and differ only by rounding: in the score by
/// less than 0.001, with an `IoU` of the boxes above 0.99.
fn same(a: &Found, b: &Found) -> bool {
    a.class == b.class && (a.score - b.score).abs() < 1e-3 && iou(a.corners, b.corners) > 0.99
}

/// Compares the detections of [`fused`] and [`native`] for the case `name` of
/// `tests/golden/index.json`. Also checks that the fused graph returns no detections if the score
/// threshold is 1.
fn check(name: &str) {
    let case = detection_cases().into_iter().find(|case| case.name == name);
    let case = case.unwrap();
    let (mut manifest, state, image) = (case.manifest(), state(&case), image(&case));
    let input = Preprocessor::new(&manifest.preprocess).run(&image).unwrap();
    let expected = native(&manifest, &state, &image);
    let got = fused(&manifest, &state, &input);
    let matches = matched(&got, &expected, same);
    println!(
        "{name}: {} fused detections, {} native detections, {matches} matches",
        got.len(),
        expected.len()
    );
    assert!(expected.len() >= 50, "{name}: {}", expected.len());
    assert_eq!(got.len(), expected.len(), "{name}");
    assert!(
        matches as f64 >= 0.99 * expected.len() as f64,
        "{name}: {matches} matches"
    );
    assert!(
        got.is_sorted_by(|a, b| a.score >= b.score),
        "{name}: scores must descend"
    );

    let detection = manifest.detection.as_mut().unwrap();
    detection.score_threshold = 1.0;
    if let Some(rpn) = &mut detection.rpn {
        rpn.score_threshold = 1.0;
    }
    assert_eq!(fused(&manifest, &state, &input).len(), 0, "{name}");
}

#[test]
fn fused_ssdlite_equals_the_served_path() {
    check("ssdlite320_mobilenet_v3_large");
}

#[test]
fn fused_retinanet_equals_the_served_path() {
    check("retinanet_resnet50_fpn");
}

#[test]
fn fused_faster_rcnn_with_one_feature_map_equals_the_served_path() {
    check("fasterrcnn_mobilenet_v3_large_320_fpn");
}

#[test]
fn fused_faster_rcnn_with_four_feature_maps_equals_the_served_path() {
    check("fasterrcnn_resnet50_fpn");
}

#[test]
fn every_opset_gives_the_same_detections() {
    let manifest = catalogue::manifest("ssdlite320_mobilenet_v3_large").unwrap();
    let manifest = manifest.unwrap();
    let mut cases = detection_cases().into_iter();
    let case = cases.find(|case| case.name == manifest.name);
    let case = case.unwrap();
    let (state, image) = (state(&case), image(&case));
    let input = Preprocessor::new(&manifest.preprocess).run(&image).unwrap();
    let expected = fused(&manifest, &state, &input);
    for opset in OPSETS {
        let model = build_fused(&manifest, &state, opset);
        let got = run(&model.to_bytes(), &manifest, &input);
        assert_eq!(
            matched(&got, &expected, same),
            expected.len(),
            "opset {opset}"
        );
    }
}
