//! Runs the exported graphs of small detectors in ONNX Runtime: in every opset, and with pyramid
//! levels that have no proposals. Also checks that checkpoints with the tensor names of older
//! torchvision versions are read, and that invalid architectures are rejected.

use std::collections::BTreeMap;

use crate::reference::detection::{Input, Runner};
use crate::reference::relative_error;
use onnx_export::architecture::{
    Anchors, Architecture, Backbone, FasterRcnnHead, Head, ResNetBlock, ResNetConfig, RetinanetHead,
};
use onnx_export::{DEFAULT_OPSET, Model, OPSETS, Role, formula, tensor_shapes};
use sightline::catalogue;

/// Returns the architecture of a detector that consists of a small ResNet and `head`.
fn small(head: Head) -> Architecture {
    Architecture {
        num_classes: 3,
        backbone: Backbone::Resnet(ResNetConfig {
            block: ResNetBlock::Basic,
            layers: [1; 4],
            replace_stride_with_dilation: [false; 3],
            bn_eps: 1e-5,
            bn_frozen: true,
        }),
        head,
    }
}

fn anchors(levels: usize) -> Anchors {
    Anchors {
        sizes: vec![vec![32, 64]; levels],
        aspect_ratios: vec![1.0],
    }
}

#[test]
fn every_opset_gives_the_same_outputs() {
    let faster_rcnn = Head::FasterRcnn(FasterRcnnHead {
        backbone_maps: 4,
        anchors: anchors(5),
        roi_strides: vec![4, 8, 16, 32],
    });
    let retinanet = Head::Retinanet(RetinanetHead {
        backbone_maps: 3,
        anchors: anchors(5),
    });
    let ssdlite = catalogue::manifest("ssdlite320_mobilenet_v3_large").unwrap();
    let ssdlite = ssdlite.unwrap().architecture.unwrap();
    for architecture in [small(faster_rcnn), small(retinanet), ssdlite] {
        let state = formula::state_dict(&tensor_shapes(&architecture).unwrap(), &[]).unwrap();
        let mut first: Option<Vec<Vec<f32>>> = None;
        for opset in OPSETS {
            let model = onnx_export::build("small", &architecture, &state, opset).unwrap();
            let outputs = both_stages(&model, &architecture.head);
            let expected = first.get_or_insert_with(|| outputs.clone());
            for (got, expected) in outputs.iter().zip(expected) {
                let error = relative_error(got, expected);
                assert!(error < 1e-4, "opset {opset}: {error:.1e}");
            }
        }
    }
}

/// Runs all stages of a detector on two images and returns the values of each output. The box head
/// of a two-stage detector gets three proposals on the second pyramid level and none on all other
/// levels.
fn both_stages(model: &Model, head: &Head) -> Vec<Vec<f32>> {
    let pixels: Vec<f32> = formula::uniform("input", 2 * 3 * 96 * 128).collect();
    let images = Input::F32(vec![2, 3, 96, 128], pixels);
    let outputs = Runner::new(&model.to_bytes()).run(vec![("images".to_owned(), images)]);
    let mut all: Vec<Vec<f32>> = outputs.values().map(|output| output.data.clone()).collect();
    let files = model.to_files();
    let (Head::FasterRcnn(head), Some(second)) = (head, files.get(Role::BoxHead)) else {
        return all;
    };
    let mut inputs = Vec::new();
    for level in 0..head.roi_strides.len() {
        let map = &outputs[&format!("feature_{level}")];
        inputs.push((
            format!("feature_{level}"),
            Input::F32(map.shape.clone(), map.data.clone()),
        ));
        let count = if level == 1 { 3 } else { 0 };
        let corners = [4.0, 8.0, 60.5, 70.25].repeat(count);
        inputs.push((format!("rois_{level}"), Input::F32(vec![count, 4], corners)));
        inputs.push((format!("batch_indices_{level}"), Input::I64(vec![1; count])));
    }
    let outputs = Runner::new(second).run(inputs);
    assert_eq!(outputs["class_logits"].shape, [3, 3]);
    assert_eq!(outputs["box_regression"].shape, [3, 12]);
    all.extend(outputs.into_values().map(|output| output.data));
    all
}

#[test]
fn a_box_head_without_proposals_returns_empty_outputs() {
    let architecture = small(Head::FasterRcnn(FasterRcnnHead {
        backbone_maps: 4,
        anchors: anchors(5),
        roi_strides: vec![4, 8],
    }));
    let state = formula::state_dict(&tensor_shapes(&architecture).unwrap(), &[]).unwrap();
    let model = onnx_export::build("small", &architecture, &state, DEFAULT_OPSET).unwrap();
    let inputs = (0..2).flat_map(|level| {
        let map = Input::F32(vec![1, 256, 8, 8], vec![0.0; 256 * 64]);
        [
            (format!("feature_{level}"), map),
            (format!("rois_{level}"), Input::F32(vec![0, 4], vec![])),
            (format!("batch_indices_{level}"), Input::I64(vec![])),
        ]
    });
    let outputs = Runner::new(model.to_files().get(Role::BoxHead).unwrap()).run(inputs.collect());
    assert_eq!(outputs["class_logits"].shape, [0, 3]);
    assert_eq!(outputs["box_regression"].shape, [0, 12]);
}

#[test]
fn invalid_detectors_are_rejected() {
    let state = formula::state_dict(&BTreeMap::new(), &[]).unwrap();
    let ssdlite = catalogue::manifest("ssdlite320_mobilenet_v3_large").unwrap();
    let ssdlite = ssdlite.unwrap().architecture.unwrap();
    let levels = |backbone_maps| {
        small(Head::Retinanet(RetinanetHead {
            backbone_maps,
            anchors: anchors(5),
        }))
    };
    let many = Architecture {
        num_classes: 100_000,
        ..levels(3)
    };
    let cases = [
        (
            small(ssdlite.head),
            "`backbone`: expected a backbone that supports ssdlite, got resnet",
        ),
        (
            levels(4),
            "`head.anchors.sizes`: expected one list per level of the network",
        ),
        (
            many,
            "`num_classes`: expected 1 to 2000 for detection, got 100000",
        ),
    ];
    for (architecture, message) in cases {
        let error = onnx_export::build("small", &architecture, &state, DEFAULT_OPSET);
        let error = error.unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
        assert!(tensor_shapes(&architecture).is_err());
    }
}

#[test]
fn tensor_names_of_older_checkpoints_are_read() {
    let head = RetinanetHead {
        backbone_maps: 3,
        anchors: anchors(5),
    };
    let faster = FasterRcnnHead {
        backbone_maps: 4,
        anchors: anchors(5),
        roi_strides: vec![4, 8, 16, 32],
    };
    for head in [Head::Retinanet(head), Head::FasterRcnn(faster)] {
        let architecture = small(head);
        let shapes = tensor_shapes(&architecture).unwrap();
        let old: BTreeMap<String, Vec<usize>> = shapes
            .iter()
            .map(|(name, shape)| (old_name(name), shape.clone()))
            .collect();
        assert_ne!(shapes, old);
        let state = formula::state_dict(&old, &[]).unwrap();
        let built = onnx_export::build("old", &architecture, &state, DEFAULT_OPSET);
        assert!(built.is_ok(), "{}", built.unwrap_err());
    }
}

/// Returns the name that torchvision before 0.12 used for the tensor `name`.
///
/// Source: `_load_from_state_dict` of torchvision's detection modules, which renames the old
/// tensors.
fn old_name(name: &str) -> String {
    let mut name = name.to_owned();
    for index in 0..4 {
        for blocks in ["inner_blocks", "layer_blocks"] {
            name = name.replace(
                &format!("{blocks}.{index}.0."),
                &format!("{blocks}.{index}."),
            );
        }
        if name.contains("ation_head.conv.") || name.contains("regression_head.conv.") {
            let old = format!("head.conv.{}.", 2 * index);
            let new = format!("head.conv.{index}.0.");
            if name.contains(&new) {
                return name.replace(&new, &old);
            }
        }
    }
    name.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
}
