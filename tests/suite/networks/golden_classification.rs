//! Checks that exported classification networks with generated weights compute torchvision's logits.
//!
//! `tests/golden/README.md` describes the expected values.

use std::path::Path;

use crate::reference::cases::{Args, Case, Input, cases, run};
use crate::reference::{read_tensor, relative_error};
use onnx_export::architecture::{Architecture, Backbone};
use onnx_export::weights::StateDict;
use onnx_export::{DEFAULT_OPSET, OPSETS, formula};
use sightline::catalogue;
use sightline::manifest::{ModelManifest, Task};

/// Returns the architecture of the catalogue's network `builder`, changed as `args` would change
/// the network that torchvision's function of the same name builds.
fn architecture(builder: &str, args: &Args, num_classes: usize) -> Architecture {
    let manifest = catalogue::manifest(builder).unwrap().unwrap();
    let mut architecture = manifest.architecture.unwrap();
    architecture.num_classes = num_classes;
    if let Some(width_mult) = architecture.backbone.trunk_mut().width_mult() {
        *width_mult = args.width_mult;
    }
    if let Backbone::MobilenetV3(config) = &mut architecture.backbone {
        config.reduced_tail = args.reduced_tail;
        config.dilated = args.dilated;
    }
    architecture
}

/// Runs the ONNX file `model` on a generated input of N images. Returns the logits `[N, classes]`.
fn logits(model: &[u8], input: &Input) -> Vec<f32> {
    let outputs = run(model, input).into_iter();
    outputs.flat_map(|mut image| image.remove(0).data).collect()
}

/// Returns the names of the catalogue's classification networks that are part of torchvision.
fn torchvision_networks() -> Vec<String> {
    let manifests = catalogue::manifests().unwrap().into_iter();
    let published = |manifest: &ModelManifest| {
        let urls = manifest.weights.iter().filter_map(|file| file.url.as_ref());
        urls.into_iter()
            .any(|url| url.starts_with("https://download.pytorch.org/"))
    };
    manifests
        .filter(|manifest| manifest.task == Task::Classification && published(manifest))
        .map(|manifest| manifest.name)
        .collect()
}

#[test]
fn every_network_gives_torchvisions_logits() {
    let cases = cases("classification");
    for name in torchvision_networks() {
        let has_case = cases.iter().any(|case| case.name == name);
        assert!(has_case, "{name} has no case in tests/golden/index.json");
    }
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
        assert!(error < 1e-4, "{case}: {error:.1e} standard deviations");
    }
}

/// Returns the architecture and the input of the network [`SMALL`], whose checkpoint is stored in
/// several file formats.
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
        assert!(
            error < tolerance,
            "{container}: {error:.1e} standard deviations"
        );
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
fn images_in_a_batch_do_not_influence_each_other() {
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
