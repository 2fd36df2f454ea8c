use super::*;
use crate::manifest::{Head, MobileNetV2Config, ResNetBlock, ResNetConfig};
use crate::model::{DEFAULT_OPSET, build};
use crate::weights::DType;

fn mobilenet_v2() -> Architecture {
    Architecture {
        num_classes: 7,
        backbone: Backbone::MobilenetV2(MobileNetV2Config {
            width_mult: 0.1,
            bn_eps: 1e-5,
            relu6: true,
        }),
        head: Head::Classifier,
    }
}

fn resnet(block: ResNetBlock) -> Architecture {
    Architecture {
        num_classes: 7,
        backbone: Backbone::Resnet(ResNetConfig {
            block,
            layers: [1, 2, 1, 1],
            replace_stride_with_dilation: [false; 3],
            bn_eps: 1e-5,
            bn_frozen: false,
        }),
        head: Head::Classifier,
    }
}

/// `value` quantised per channel, as fbgemm has it.
fn quantised(shape: &[usize]) -> Tensor {
    let channels = shape[0];
    let bytes = vec![3; shape.iter().product()];
    let scales = (0..channels).map(|n| 0.01 * (n + 1) as f64).collect();
    let quantizer = Quantizer::per_channel(scales, vec![0; channels], 0).unwrap();
    let tensor = Tensor::new(DType::I8, shape.to_vec(), bytes).unwrap();
    tensor.quantized(quantizer).unwrap()
}

fn whole(values: &[i64]) -> Tensor {
    let bytes = values.iter().flat_map(|n| n.to_le_bytes()).collect();
    Tensor::new(DType::I64, vec![values.len()], bytes).unwrap()
}

/// What torchvision's quantised form of `architecture` holds.
fn checkpoint(architecture: &Architecture) -> BTreeMap<String, Tensor> {
    let shapes = tensor_shapes(architecture).unwrap();
    let layers = shapes.iter().filter(|(_, shape)| shape.len() >= 2);
    let mut tensors = BTreeMap::new();
    let mut output = |module: &str| {
        let scale = Tensor::from_f32(&[1], &[0.25]).unwrap();
        tensors.insert(format!("{module}.scale"), scale);
        tensors.insert(format!("{module}.zero_point"), whole(&[128]));
    };
    output(INPUT);
    layers.clone().for_each(|(name, _)| {
        output(name.strip_suffix(".weight").unwrap());
    });
    for (name, shape) in layers {
        let bias: Vec<f32> = (0..shape[0]).map(|n| n as f32).collect();
        let bias = Tensor::from_f32(&shape[..1], &bias).unwrap();
        tensors.insert(name.replace(".weight", ".bias"), bias);
        tensors.insert(name.clone(), quantised(shape));
    }
    tensors
}

#[test]
fn every_family_loads_into_its_float_network() {
    let cases = [
        ("mobilenet_v2", mobilenet_v2(), "features.2.conv.2"),
        ("basic", resnet(ResNetBlock::Basic), "layer2.0.downsample.0"),
        ("bottleneck", resnet(ResNetBlock::Bottleneck), "conv1"),
    ];
    for (name, architecture, conv) in cases {
        let state = StateDict::from_tensors(checkpoint(&architecture));
        let trained = import(&state, &architecture).unwrap();
        build(name, &architecture, &trained.state, DEFAULT_OPSET).unwrap();
        assert_eq!(trained.activations.len(), trained.weights.len() + 1);
        assert_eq!(trained.weights[conv].axis(), Some(0), "{name}");
        let affine = Affine {
            scale: 0.25,
            zero_point: 128,
        };
        assert_eq!(trained.activations[conv], affine, "{name}");
    }
}

#[test]
fn norms_are_named_as_torchvision_names_them() {
    let cases = [
        ("features.0.0", Some("features.0.1")),
        ("features.2.conv.2", Some("features.2.conv.3")),
        ("conv1", Some("bn1")),
        ("layer1.0.conv2", Some("layer1.0.bn2")),
        ("layer1.0.downsample.0", Some("layer1.0.downsample.1")),
        ("features.18.0", None),
        ("_conv_head", None),
    ];
    let norms = cases.iter().filter_map(|(_, norm)| *norm);
    let shapes = norms.map(|norm| (format!("{norm}.running_mean"), vec![1]));
    let shapes = shapes.collect();
    for (conv, expected) in cases {
        let got = norm_after(conv, &shapes).ok();
        assert_eq!(got.as_deref(), expected, "{conv}");
    }
}

#[test]
fn the_identity_is_exact_for_every_epsilon_in_use() {
    for eps in [0.0, 1e-5, 1e-3, 1e-2, 0.5] {
        let mut architecture = mobilenet_v2();
        if let Backbone::MobilenetV2(config) = &mut architecture.backbone {
            config.bn_eps = eps;
        }
        let variance = identity_variance(&architecture).unwrap();
        assert_eq!(1.0 / (variance + eps).sqrt(), 1.0, "{eps}");
    }
}

#[test]
fn disagreements_are_told_by_the_names_of_the_checkpoint() {
    let architecture = mobilenet_v2();
    let scalar = |value| Tensor::from_f32(&[], &[value]).unwrap();
    let floats = |shape: &[usize]| {
        let zeros = vec![0.0; shape.iter().product()];
        Tensor::from_f32(shape, &zeros).unwrap()
    };
    let stem = tensor_shapes(&architecture).unwrap()["features.0.0.weight"].clone();
    let cases = [
        (
            "features.0.0.weight",
            None,
            "missing (1): features.0.0.weight",
        ),
        ("features.0.0.bias", None, "missing (1): features.0.0.bias"),
        (
            "features.0.0.scale",
            None,
            "missing (1): features.0.0.scale",
        ),
        ("quant.scale", None, "missing (1): quant.scale"),
        ("quant.zero_point", None, "missing (1): quant.zero_point"),
        ("other", Some(scalar(1.0)), "unexpected (1): other"),
        (
            "features.0.0.bias",
            Some(scalar(1.0)),
            "features.0.0.bias: expected [8], got []",
        ),
        (
            "features.0.0.weight",
            Some(floats(&stem)),
            "features.0.0.weight: it is not quantised",
        ),
        (
            "quant.scale",
            Some(scalar(-1.0)),
            "`quant.scale`: expected one finite number above 0, got -1.0",
        ),
        (
            "quant.scale",
            Some(floats(&[2])),
            "`quant.scale`: expected one finite number above 0, got [2] f32",
        ),
        ("quant.scale", Some(scalar(f32::INFINITY)), "got inf"),
        (
            "quant.zero_point",
            Some(whole(&[256])),
            "`quant.zero_point`: expected one whole number, 0 to 255, got 256",
        ),
        ("quant.zero_point", Some(scalar(1.0)), "got [] f32"),
    ];
    for (name, tensor, expected) in cases {
        let mut tensors = checkpoint(&architecture);
        tensors.remove(name);
        tensors.extend(tensor.map(|tensor| (name.to_owned(), tensor)));
        let error = import(&StateDict::from_tensors(tensors), &architecture).unwrap_err();
        let error = error.to_string();
        assert!(error.ends_with(expected), "{name}: {error}");
    }
}
