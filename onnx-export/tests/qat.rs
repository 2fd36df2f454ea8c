//! Tests of the import of a quantized checkpoint in torchvision's layout, from the file to the fp32 network.
//!
//! `tests/golden/quantized.py` wrote the state dict of a quantized MobileNetV3-Large with torch 2.15.

#![expect(
    clippy::unwrap_used,
    reason = "a panic in a helper of a test is the report"
)]

use std::path::{Path, PathBuf};

use onnx_export::{
    BuildError, DEFAULT_OPSET,
    architecture::{Architecture, Backbone},
    build,
    qat::{self, Layout, QatError},
    quantize::Affine,
    read_initializers,
    weights::{DType, StateDict},
};

fn tests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

fn fixture() -> StateDict {
    let name = "quantized_mobilenet_v3_large-width_mult_0.5-num_classes_100.pth";
    StateDict::read(&tests().join("golden").join(name)).unwrap()
}

/// Returns the architecture of the fixture, but with `num_classes` classes instead of 100.
fn architecture(num_classes: usize) -> Architecture {
    let path = tests().join("models/mobilenet_v3_large.toml");
    let text = std::fs::read_to_string(path).unwrap();
    let manifest: toml::Table = text.parse().unwrap();
    let mut architecture: Architecture = manifest["architecture"].clone().try_into().unwrap();
    architecture.num_classes = num_classes;
    let Backbone::MobilenetV3(config) = &mut architecture.backbone else {
        panic!("expected a MobileNetV3 backbone, got {architecture:?}");
    };
    config.width_mult = 0.5;
    architecture
}

#[test]
fn integers_and_their_scales_are_read() {
    let state = fixture();
    assert_eq!(Layout::of(&state), Some(Layout::Converted));
    assert_eq!(
        state.sha256(),
        "5b67f736dff5c55f2f01f466b474432ca56f5cec7765d07cc8b9a498e7caddb1"
    );
    let mut count = 0;
    for (name, tensor) in state.iter() {
        let Some(quantizer) = tensor.quantizer() else {
            continue;
        };
        count += 1;
        assert_eq!(tensor.dtype(), DType::I8, "{name}");
        assert_eq!(
            (quantizer.axis(), quantizer.zero_points()),
            (None, &[0][..])
        );
        let scale = quantizer.scales()[0] as f32;
        let integers = tensor.to_i64().unwrap();
        let floats = tensor.to_f32().unwrap();
        let expected = integers.iter().map(|q| *q as f32 * scale);
        assert!(expected.eq(floats), "{name}");
    }
    assert_eq!(count, 64);
    // The file stores this weight in channels-last order, with the strides 27, 1, 9, 3.
    let stem = state.get("features.0.0.weight").unwrap();
    assert_eq!(stem.shape(), [8, 3, 3, 3]);
    assert_eq!(
        stem.quantizer().unwrap().scales(),
        [0.005_499_127_320_945_263]
    );
    // The expected integers come from
    // torch.load(path)["features.0.0.weight"].int_repr()[0].flatten().tolist().
    #[rustfmt::skip]
    let first = [
        78, -57, 26, 70, -97, -42, -103, -56, 54,
        102, 101, -31, 96, 31, -21, 65, 52, -34,
        79, 31, 10, 82, -97, 34, -15, 53, -100,
    ];
    assert_eq!(stem.to_i64().unwrap()[..27], first);
}

#[test]
fn packed_layers_become_weight_and_bias() {
    let state = fixture();
    assert!(!state.names().any(|name| name.contains("_packed_params")));
    for (layer, shape) in [("classifier.0", [640, 480]), ("classifier.3", [100, 640])] {
        let weight = state.get(&format!("{layer}.weight")).unwrap();
        let bias = state.get(&format!("{layer}.bias")).unwrap();
        assert_eq!(weight.shape(), shape);
        assert!(weight.quantizer().is_some());
        assert_eq!((bias.shape(), bias.dtype()), (&shape[..1], DType::F32));
    }
    let bias = state.get("classifier.0.bias").unwrap().to_f32().unwrap();
    assert_eq!(bias[..2], [0.030_901_957, 0.010_707_51]);
}

#[test]
fn the_fp32_network_has_the_trained_weights() {
    let (state, architecture) = (fixture(), architecture(100));
    let trained = qat::import(&state, &architecture).unwrap();
    assert_eq!(trained.state.sha256(), state.sha256());
    assert_eq!(Layout::of(&trained.state), None);
    let model = build("quantized", &architecture, &trained.state, DEFAULT_OPSET).unwrap();
    assert_eq!(model.info.checkpoint_sha256, state.sha256());
    // The fp32 network folds the batch norms into the convolutions, which leaves weights and biases
    // bit-identical to those of the checkpoint.
    let mut found = 0;
    for built in read_initializers(&model.to_bytes(), 1).unwrap() {
        let Some(tensor) = state.get(&built.name) else {
            continue;
        };
        found += 1;
        assert_eq!(tensor.to_f32().unwrap(), built.data, "{}", built.name);
    }
    assert_eq!(found, 2 * 64);
    // The bias of the quantized convolution becomes the bias of the batch norm, whose other tensors
    // make it the identity.
    let norm = |name: &str| trained.state.get(&format!("features.0.1.{name}")).unwrap();
    assert_eq!(Some(norm("bias")), state.get("features.0.0.bias"));
    assert_eq!(norm("weight").to_f32().unwrap(), [1.0; 8]);
    assert_eq!(norm("running_mean").to_f32().unwrap(), [0.0; 8]);
    let variance = norm("running_var").to_f32().unwrap();
    assert!(variance.iter().all(|variance| variance + 1e-3 == 1.0));
}

#[test]
fn all_trained_scales_are_kept() {
    let trained = qat::import(&fixture(), &architecture(100)).unwrap();
    assert_eq!(trained.activations.len(), 109);
    assert_eq!(trained.weights.len(), 64);
    let expected = [
        ("quant", 0.015_678_59, 128),
        ("features.0.0", 0.064_242_84, 127),
        ("features.0.2", 0.035_131_354, 11),
        ("features.1.skip_add", 0.102_239_355, 116),
        ("features.2.skip_add", 1.0, 0), // unused: the block changes the size, so it has no addition
        ("features.4.block.2.fc1", 0.028_656_93, 0),
        ("features.4.block.2.fc2", 0.048_657_198, 136),
        ("features.4.block.2.skip_mul", 0.146_461_52, 0),
        ("classifier.1", 9.036_445, 0),
        ("classifier.3", 13.173_152, 110),
    ];
    for (module, scale, zero_point) in expected {
        let affine = Affine { scale, zero_point };
        assert_eq!(trained.activations[module], affine, "{module}");
    }
    let scale = trained.weights["classifier.0"].scales();
    assert_eq!(scale, [0.000_876_882_520_969_957_1]);
}

#[test]
fn checkpoints_of_other_networks_are_rejected() {
    let Err(QatError::Build(BuildError::StateDict(problems))) =
        qat::import(&fixture(), &architecture(10))
    else {
        panic!(
            "importing a checkpoint of 100 classes as one of 10 must fail with a StateDictError"
        );
    };
    assert_eq!(problems.num_classes_hint(10), Some(100));
    let mut wide = architecture(100);
    if let Backbone::MobilenetV3(config) = &mut wide.backbone {
        config.bn_eps = 1e9;
    }
    let error = qat::import(&fixture(), &wide).unwrap_err().to_string();
    assert_eq!(
        error,
        "argument `bn_eps`: expected a small epsilon such as 0.001, got 1000000000"
    );
}

#[test]
fn quantized_tensors_are_not_written_to_safetensors() {
    let error = fixture().to_half().to_safetensors().unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("expected a tensor that is not quantized, got i8 with scales"),
        "{error}"
    );
}
