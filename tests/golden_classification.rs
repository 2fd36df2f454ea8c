//! Every classification network against torchvision's own logits, with weights made by a formula.
//!
//! `tests/golden/README.md` says how the expected values were made.

#![allow(clippy::unwrap_used, reason = "a panic is a test's report")]

mod reference;

use std::path::Path;

use onnx_export::architecture::{
    Architecture, Backbone, Head, MobileNetV2Config, MobileNetV3Config, MobileNetV3Size,
    ResNetBlock, ResNetConfig,
};
use onnx_export::weights::StateDict;
use onnx_export::{DEFAULT_OPSET, OPSETS, formula};
use reference::cases::{Args, Case, Input, cases, run};
use reference::{read_tensor, relative_error};

fn architecture(builder: &str, args: &Args, num_classes: usize) -> Architecture {
    let Args {
        width_mult,
        reduced_tail,
        dilated,
        ..
    } = *args;
    let v3 = |size| {
        let bn_eps = 1e-3;
        Backbone::MobilenetV3(MobileNetV3Config {
            size,
            width_mult,
            reduced_tail,
            dilated,
            bn_eps,
            bn_frozen: false,
        })
    };
    let resnet = |block, layers| {
        Backbone::Resnet(ResNetConfig {
            block,
            layers,
            replace_stride_with_dilation: [false; 3],
            bn_eps: 1e-5,
            bn_frozen: false,
        })
    };
    let backbone = match builder {
        "mobilenet_v3_large" => v3(MobileNetV3Size::Large),
        "mobilenet_v3_small" => v3(MobileNetV3Size::Small),
        "mobilenet_v2" => Backbone::MobilenetV2(MobileNetV2Config {
            width_mult,
            bn_eps: 1e-5,
            relu6: true,
        }),
        "resnet18" => resnet(ResNetBlock::Basic, [2, 2, 2, 2]),
        "resnet50" => resnet(ResNetBlock::Bottleneck, [3, 4, 6, 3]),
        other => panic!("no builder {other}"),
    };
    Architecture {
        num_classes,
        backbone,
        head: Head::Classifier,
    }
}

/// Logits `[N, classes]` of a network on the formula's input.
fn logits(model: &[u8], input: &Input) -> Vec<f32> {
    let outputs = run(model, input).into_iter();
    outputs
        .flat_map(|mut picture| picture.remove(0).data)
        .collect()
}

#[test]
fn every_network_gives_torchvisions_logits() {
    let cases = cases("classification");
    assert_eq!(cases.len(), 9);
    for Case {
        name: case,
        builder,
        args,
        input,
        params,
        shapes,
        ..
    } in cases
    {
        let state = formula::state_dict(&shapes, &[]).unwrap();
        let architecture = architecture(&builder, &args, 1000);
        assert_eq!(
            onnx_export::tensor_shapes(&architecture).unwrap(),
            shapes,
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
