//! Every classification network against torchvision's own logits, with weights made by a formula.
//!
//! `tests/golden/README.md` says how the expected values were made.

#![allow(clippy::unwrap_used, reason = "a panic is a test's report")]

mod reference;

use std::collections::BTreeMap;
use std::path::Path;

use onnx_export::manifest::{
    Architecture, MobileNetV2Config, MobileNetV3Config, MobileNetV3Size, ResNetBlock, ResNetConfig,
};
use onnx_export::weights::StateDict;
use onnx_export::{DEFAULT_OPSET, OPSETS, formula};
use reference::{golden, read_tensor, relative_error, runtime};
use serde::Deserialize;
use sightline::engine::Engine;

/// One entry of `index.json`.
#[derive(Deserialize)]
struct Case {
    #[serde(rename = "case")]
    name: String,
    builder: String,
    args: Args,
    input: Input,
    params: u64,
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Args {
    width_mult: f64,
    reduced_tail: bool,
    dilated: bool,
}

impl Default for Args {
    fn default() -> Self {
        Self {
            width_mult: 1.0,
            reduced_tail: false,
            dilated: false,
        }
    }
}

#[derive(Deserialize)]
struct Input {
    name: String,
    shape: [usize; 4],
    low: f32,
    high: f32,
}

fn architecture(builder: &str, args: &Args, num_classes: usize) -> Architecture {
    let Args {
        width_mult,
        reduced_tail,
        dilated,
    } = *args;
    let v3 = |size| {
        let bn_eps = 1e-3;
        Architecture::MobilenetV3(MobileNetV3Config {
            size,
            width_mult,
            reduced_tail,
            dilated,
            bn_eps,
            num_classes,
        })
    };
    let resnet = |block, layers| {
        Architecture::Resnet(ResNetConfig {
            block,
            layers,
            bn_eps: 1e-5,
            num_classes,
        })
    };
    match builder {
        "mobilenet_v3_large" => v3(MobileNetV3Size::Large),
        "mobilenet_v3_small" => v3(MobileNetV3Size::Small),
        "mobilenet_v2" => Architecture::MobilenetV2(MobileNetV2Config {
            width_mult,
            bn_eps: 1e-5,
            num_classes,
        }),
        "resnet18" => resnet(ResNetBlock::Basic, [2, 2, 2, 2]),
        "resnet50" => resnet(ResNetBlock::Bottleneck, [3, 4, 6, 3]),
        other => panic!("no builder {other}"),
    }
}

/// Logits `[N, classes]` of a network on the formula's input.
fn logits(model: &[u8], input: &Input) -> Vec<f32> {
    let [count, channels, height, width] = input.shape;
    let span = input.high - input.low;
    let pixels = formula::uniform(&input.name, count * channels * height * width)
        .map(|v| input.low + span * (v + 1.0) / 2.0);
    let data: Vec<f32> = pixels.collect();
    let batch = reference::pictures(&data, width as u32, height as u32);
    let mut session = runtime().prepare(model).unwrap().session(2).unwrap();
    let outputs = session.run(batch).unwrap();
    outputs
        .into_iter()
        .flat_map(|mut picture| picture.remove(0).data)
        .collect()
}

#[test]
fn every_network_gives_torchvisions_logits() {
    let cases: Vec<Case> = serde_json::from_str(&golden("index.json")).unwrap();
    let shapes: BTreeMap<String, BTreeMap<String, Vec<usize>>> =
        serde_json::from_str(&golden("state_dicts.json")).unwrap();
    assert_eq!(cases.len(), 9);
    for Case {
        name: case,
        builder,
        args,
        input,
        params,
    } in cases
    {
        let state = formula::state_dict(&shapes[&case], &[]).unwrap();
        let architecture = architecture(&builder, &args, 1000);
        assert_eq!(
            onnx_export::tensor_shapes(&architecture).unwrap(),
            shapes[&case],
            "{case}"
        );
        let model = onnx_export::build(&case, &architecture, &state, DEFAULT_OPSET).unwrap();
        assert_eq!(model.info.parameters, params, "{case}");
        let expected = read_tensor(&format!("{case}.safetensors"), "logits");
        let error = relative_error(&logits(&model.to_bytes(), &input), &expected);
        println!("{case}: {error:.1e}");
        assert!(error < 1e-4, "{case}: {error:.1e} of the spread");
    }
}

/// The small network whose checkpoint comes in all containers.
fn small() -> (Architecture, Input) {
    let args = Args {
        width_mult: 0.25,
        ..Args::default()
    };
    let (name, shape) = ("input".to_owned(), [2, 3, 224, 224]);
    let input = Input {
        name,
        shape,
        low: -2.0,
        high: 2.0,
    };
    (architecture("mobilenet_v3_small", &args, 10), input)
}

const SMALL: &str = "mobilenet_v3_small-width_mult_0.25-num_classes_10";

#[test]
fn all_containers_give_the_same_logits() {
    let (architecture, input) = small();
    let expected = read_tensor(&format!("{SMALL}.safetensors"), "logits");
    let tolerance = [
        ("zip", 1e-4),
        ("legacy", 1e-4),
        ("checkpoint", 1e-4),
        ("fp16", 5e-3),
    ];
    for (container, tolerance) in tolerance {
        let path = format!("tests/golden/{SMALL}.{container}.pth");
        let state = StateDict::read(Path::new(&path)).unwrap();
        let model = onnx_export::build(SMALL, &architecture, &state, DEFAULT_OPSET).unwrap();
        let error = relative_error(&logits(&model.to_bytes(), &input), &expected);
        println!("{container}: {error:.1e}");
        assert!(error < tolerance, "{container}: {error:.1e} of the spread");
    }
}

#[test]
fn every_opset_loads_and_gives_the_same_logits() {
    let (architecture, input) = small();
    let expected = read_tensor(&format!("{SMALL}.safetensors"), "logits");
    let path = format!("tests/golden/{SMALL}.zip.pth");
    let state = StateDict::read(Path::new(&path)).unwrap();
    for opset in OPSETS {
        let model = onnx_export::build(SMALL, &architecture, &state, opset).unwrap();
        let error = relative_error(&logits(&model.to_bytes(), &input), &expected);
        assert!(error < 1e-4, "opset {opset}: {error:.1e}");
    }
    for opset in [OPSETS.start() - 1, OPSETS.end() + 1] {
        assert!(onnx_export::build(SMALL, &architecture, &state, opset).is_err());
    }
}

#[test]
fn pictures_in_a_batch_do_not_touch_each_other() {
    let (architecture, input) = small();
    let path = format!("tests/golden/{SMALL}.zip.pth");
    let state = StateDict::read(Path::new(&path)).unwrap();
    let model = onnx_export::build(SMALL, &architecture, &state, DEFAULT_OPSET).unwrap();
    let together = logits(&model.to_bytes(), &input);
    let alone = logits(
        &model.to_bytes(),
        &Input {
            shape: [1, 3, 224, 224],
            ..input
        },
    );
    let error = relative_error(&together[..10], &alone);
    assert!(error < 1e-6, "{error:.1e}");
}
