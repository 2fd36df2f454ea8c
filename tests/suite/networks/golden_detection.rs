//! Compares the stages of exported detectors, with generated weights, with torchvision's: the
//! preprocessed input, the outputs of the region proposal network, and the outputs of the heads.
//!
//! `tests/golden/README.md` describes the expected values.

use std::collections::BTreeMap;

use crate::reference::detection::{DetectionCase, Input, Runner, detection_cases};
use crate::reference::{read_tensor, relative_error};
use onnx_export::architecture::{FasterRcnnHead, Head};
use onnx_export::graph::ops::{Regions, RoiAlign};
use onnx_export::graph::{Dim, Element, Graph, Loader};
use onnx_export::weights::StateDict;
use onnx_export::{DEFAULT_OPSET, Model, Role};
use sightline::engine::Tensor;
use sightline::manifest::ModelManifest;

/// Returns the preprocessed image of the case as the network's input `[1, 3, H, W]`. Prints the
/// largest difference of this input from torchvision's input.
fn input(case: &DetectionCase, manifest: &ModelManifest) -> Input {
    let [height, width] = case.padded;
    let (data, error) = case.input(manifest);
    println!(
        "{}: input differs by {error:.1e} standard deviations",
        case.name
    );
    Input::F32(vec![1, 3, height, width], data)
}

fn compare(case: &DetectionCase, name: &str, got: &[f32]) {
    let expected = read_tensor(&format!("{}.safetensors", case.name), name);
    let error = relative_error(got, &expected);
    println!(
        "{}: {name} differs by {error:.1e} standard deviations",
        case.name
    );
    assert!(error < TOLERANCE, "{}: {name} {error:.1e}", case.name);
}

/// Largest allowed difference from torchvision, in standard deviations of the expected values.
const TOLERANCE: f64 = 1e-4;

#[test]
fn one_stage_networks_give_torchvisions_scores_and_box_deltas() {
    for case in detection_cases() {
        let manifest = case.manifest();
        let architecture = manifest.architecture.as_ref().unwrap();
        if architecture.head.roles().contains(&Role::BoxHead) {
            continue;
        }
        let model = case.model(architecture);
        assert_eq!(model.stages.roles(), [Role::Network]);
        let images = vec![("images".to_owned(), input(&case, &manifest))];
        let outputs = Runner::new(&model.to_bytes()).run(images);
        for (name, columns) in [
            ("cls_logits", architecture.num_classes),
            ("bbox_regression", 4),
        ] {
            let got = first_anchors(&outputs[&format!("{name}_0")], columns, 256);
            compare(&case, &format!("{name}_head"), &got);
        }
    }
}

/// Returns the outputs for the first `count` anchors in torchvision's order, `[count, columns]`.
/// `map` is the head's output `[1, A * columns, h, w]` for A anchors per location. In torchvision's
/// order, locations are in row order and the A anchors of a location are adjacent.
fn first_anchors(map: &Tensor, columns: usize, count: usize) -> Vec<f32> {
    let [1, channels, height, width] = *map.shape.as_slice() else {
        panic!("{:?}", map.shape);
    };
    let anchors = channels / columns;
    let at = |index: usize| {
        let (anchor, column) = (index / columns, index % columns);
        let (point, anchor) = (anchor / anchors, anchor % anchors);
        map.data[(anchor * columns + column) * height * width + point]
    };
    (0..count * columns).map(at).collect()
}

#[test]
fn two_stage_networks_give_torchvisions_proposals_and_boxes() {
    for case in detection_cases() {
        let manifest = case.manifest();
        let architecture = manifest.architecture.as_ref().unwrap();
        let Head::FasterRcnn(head) = &architecture.head else {
            continue;
        };
        let model = case.model(architecture);
        let images = vec![("images".to_owned(), input(&case, &manifest))];
        let outputs = Runner::new(&model.to_bytes()).run(images);
        for level in 0..head.anchors.sizes.len() {
            for name in ["rpn_objectness", "rpn_deltas"] {
                let name = format!("{name}_{level}");
                compare(&case, &name, &outputs[&name].data);
            }
        }
        let mut proposals = read_tensor(&format!("{}.safetensors", case.name), "proposals");
        proposals.truncate(64 * 4);
        let (logits, boxes) = second_stage(&model, head, &outputs, &proposals);
        compare(&case, "class_logits", &logits);
        compare(&case, "box_regression", &boxes);
    }
}

/// Runs the box head on `proposals` `[n, 4]` and the feature maps in `outputs`. Returns class
/// logits and box deltas in the order of the proposals.
fn second_stage(
    model: &Model,
    head: &FasterRcnnHead,
    outputs: &BTreeMap<String, Tensor>,
    proposals: &[f32],
) -> (Vec<f32>, Vec<f32>) {
    let levels: Vec<usize> = proposals
        .chunks_exact(4)
        .map(|proposal| roi_level(proposal, &head.roi_strides))
        .collect();
    let mut order = Vec::new();
    let mut inputs = Vec::new();
    for level in 0..head.roi_strides.len() {
        let here = (0..levels.len()).filter(|index| levels[*index] == level);
        let here: Vec<usize> = here.collect();
        let corners = here
            .iter()
            .flat_map(|index| proposals[index * 4..index * 4 + 4].to_vec());
        let map = &outputs[&format!("feature_{level}")];
        inputs.push((
            format!("feature_{level}"),
            Input::F32(map.shape.clone(), map.data.clone()),
        ));
        inputs.push((
            format!("rois_{level}"),
            Input::F32(vec![here.len(), 4], corners.collect()),
        ));
        inputs.push((
            format!("batch_indices_{level}"),
            Input::I64(vec![0; here.len()]),
        ));
        order.extend(here);
    }
    let outputs = Runner::new(model.to_files().get(Role::BoxHead).unwrap()).run(inputs);
    let in_order = |name: &str| {
        let Tensor { shape, data } = &outputs[name];
        assert_eq!(shape[0], order.len());
        let mut rows: Vec<(usize, &[f32])> = order
            .iter()
            .copied()
            .zip(data.chunks_exact(shape[1]))
            .collect();
        rows.sort_by_key(|(index, _)| *index);
        rows.into_iter().flat_map(|(_, row)| row.to_vec()).collect()
    };
    (in_order("class_logits"), in_order("box_regression"))
}

/// Returns the index in `strides` of the pyramid level from which a proposal's features are pooled.
///
/// Source: `torchvision.ops.poolers.LevelMapper`.
fn roi_level(proposal: &[f32], strides: &[u32]) -> usize {
    let side = ((proposal[2] - proposal[0]) * (proposal[3] - proposal[1])).sqrt();
    let level = (4.0 + (side / 224.0).log2() + 1e-6).floor();
    let (first, last) = (strides[0].ilog2(), strides[strides.len() - 1].ilog2());
    (level.clamp(first as f32, last as f32) as u32 - first) as usize
}

#[test]
fn roi_align_equals_torchvisions() {
    let file = "roi_align.safetensors";
    let mut graph = Graph::new(DEFAULT_OPSET);
    let sizes = [2, 8, 25, 34];
    let map = graph.input("map", sizes.map(Dim::Fixed).to_vec(), Element::F32);
    let count = graph.axis("rois");
    let regions = Regions {
        boxes: graph.input("rois", vec![count, Dim::Fixed(4)], Element::F32),
        batch_indices: graph.input("batch_indices", vec![count], Element::I64),
    };
    let config = RoiAlign {
        output: 7,
        sampling_ratio: 2,
        stride: 16,
    };
    let cut = graph.roi_align(map, regions, config).unwrap();
    graph.output(cut, "cut");
    let state = StateDict::from_tensors(BTreeMap::new());
    let model = Loader::new(&state).finish("roi_align", graph).unwrap();
    let rois = read_tensor(file, "roi.rois");
    let rows = rois.chunks_exact(5);
    let indices = rows.clone().map(|row| row[0] as i64).collect();
    let corners: Vec<f32> = rows.flat_map(|row| row[1..].to_vec()).collect();
    let features = read_tensor(file, "roi.features");
    let outputs = Runner::new(&model.to_bytes()).run(vec![
        ("map".to_owned(), Input::F32(sizes.to_vec(), features)),
        ("rois".to_owned(), Input::F32(vec![40, 4], corners)),
        ("batch_indices".to_owned(), Input::I64(indices)),
    ]);
    let expected = read_tensor(file, "roi.align_7x7_scale_1_16_sampling_2");
    let pairs = outputs["cut"].data.iter().zip(&expected);
    let error = pairs.fold(0.0_f32, |most, (got, want)| most.max((got - want).abs()));
    println!("RoIAlign differs from torchvision's by at most {error:.1e}");
    assert_eq!(outputs["cut"].data.len(), expected.len());
    assert!(error < 1e-5, "{error:.1e}");
}
