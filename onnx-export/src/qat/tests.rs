use super::layer::norm_after;
use super::*;
use crate::architecture::{Head, MobileNetV2Config, ResNetBlock, ResNetConfig};
use crate::quantize::Network;
use crate::weights::{DType, Tensor};
use crate::{DEFAULT_OPSET, build};

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

/// Returns a tensor quantized to int8 with one scale per output channel, as torch's fbgemm backend
/// stores weights.
fn quantized(shape: &[usize]) -> Tensor {
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

/// Returns the tensors of a converted checkpoint of `architecture`, named as in torchvision.
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
        tensors.insert(name.clone(), quantized(shape));
    }
    tensors
}

#[test]
fn every_family_loads_into_its_fp32_network() {
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
fn mismatches_have_the_names_of_the_checkpoint() {
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
            "missing tensors (1): features.0.0.weight",
        ),
        (
            "features.0.0.bias",
            None,
            "missing tensors (1): features.0.0.bias",
        ),
        (
            "features.0.0.scale",
            None,
            "missing tensors (1): features.0.0.scale",
        ),
        ("quant.scale", None, "missing tensors (1): quant.scale"),
        (
            "quant.zero_point",
            None,
            "missing tensors (1): quant.zero_point",
        ),
        ("other", Some(scalar(1.0)), "unexpected tensors (1): other"),
        (
            "features.0.0.bias",
            Some(scalar(1.0)),
            "features.0.0.bias has shape [], expected [8]",
        ),
        (
            "features.0.0.weight",
            Some(floats(&stem)),
            "features.0.0.weight: it is not quantized",
        ),
        (
            "quant.scale",
            Some(scalar(-1.0)),
            "tensor `quant.scale`: expected one finite scale above 0, got -1.0",
        ),
        (
            "quant.scale",
            Some(floats(&[2])),
            "tensor `quant.scale`: expected one finite scale above 0, got shape [2] of f32",
        ),
        ("quant.scale", Some(scalar(f32::INFINITY)), "got inf"),
        (
            "quant.zero_point",
            Some(whole(&[256])),
            "tensor `quant.zero_point`: expected one integer zero point from 0 to 255, got 256",
        ),
        ("quant.zero_point", Some(scalar(1.0)), "got shape [] of f32"),
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

/// Returns the tensors of a prepared checkpoint of `architecture`, named as in torchvision.
fn in_training(architecture: &Architecture) -> BTreeMap<String, Tensor> {
    let shapes = tensor_shapes(architecture).unwrap();
    let formula = crate::formula::state_dict(&shapes, &[]).unwrap();
    let mut tensors = BTreeMap::new();
    let mut scale = |holder: String| {
        let scale = Tensor::from_f32(&[1], &[0.25]).unwrap();
        tensors.insert(format!("{holder}.scale"), scale);
        tensors.insert(format!("{holder}.zero_point"), whole(&[0]));
        tensors.insert(format!("{holder}.observer_enabled"), whole(&[1]));
    };
    scale(format!("{INPUT}.activation_post_process"));
    let layers = shapes.iter().filter(|(_, shape)| shape.len() >= 2);
    let layers: Vec<&str> = layers
        .filter_map(|(name, _)| name.strip_suffix(".weight"))
        .collect();
    for layer in &layers {
        scale(format!("{layer}.activation_post_process"));
        scale(format!("{layer}.weight_fake_quant"));
        // As in torch, where the observer of a hard sigmoid contains another observer. Import
        // ignores it.
        let part = "activation_post_process.activation_post_process";
        scale(format!("{layer}.{part}"));
    }
    let norms = layers.iter().filter_map(|layer| {
        let norm = norm_after(layer, &shapes).ok()?;
        Some((format!("{norm}."), format!("{layer}.bn.")))
    });
    let norms: BTreeMap<String, String> = norms.collect();
    for (name, tensor) in formula.iter() {
        let (module, own) = name.split_at(name.rfind('.').unwrap() + 1);
        let module = norms.get(module).map_or(module, String::as_str);
        tensors.insert(format!("{module}{own}"), tensor.clone());
    }
    tensors
}

#[test]
fn a_network_in_training_keeps_its_fp32_weights() {
    for architecture in [mobilenet_v2(), resnet(ResNetBlock::Basic)] {
        let state = StateDict::from_tensors(in_training(&architecture));
        let trained = import(&state, &architecture).unwrap();
        assert_eq!(trained.layout, Layout::Prepared);
        let shapes = tensor_shapes(&architecture).unwrap();
        for (name, tensor) in crate::formula::state_dict(&shapes, &[]).unwrap().iter() {
            assert_eq!(trained.state.get(name), Some(tensor), "{name}");
        }
        build("q", &trained.architecture, &trained.state, DEFAULT_OPSET).unwrap();
        assert_eq!(trained.activations.len(), trained.weights.len() + 1);
        assert!(
            trained
                .weights
                .values()
                .all(|weight| weight.scales() == [0.25])
        );
    }
}

#[test]
fn trained_scales_out_of_range_are_rejected() {
    let architecture = mobilenet_v2();
    let floats = |values: &[f32]| Tensor::from_f32(&[values.len()], values).unwrap();
    let cases = [
        (
            "scale",
            None,
            "missing tensors (1): features.0.0.weight_fake_quant.scale",
        ),
        (
            "zero_point",
            Some(whole(&[3])),
            "`features.0.0.weight_fake_quant.zero_point`: expected weights with a zero point of 0, got 3",
        ),
        (
            "scale",
            Some(floats(&[0.0])),
            "`features.0.0.weight_fake_quant.scale`: expected a finite scale greater than 0, got 0",
        ),
        (
            "scale",
            Some(floats(&[1.0; 3])),
            "per output channel, got scales of shape [3] and zero points of shape [1]",
        ),
    ];
    for (part, tensor, expected) in cases {
        let mut tensors = in_training(&architecture);
        let name = format!("features.0.0.weight_fake_quant.{part}");
        tensors.remove(&name);
        tensors.extend(tensor.map(|tensor| (name, tensor)));
        let error = import(&StateDict::from_tensors(tensors), &architecture).unwrap_err();
        let error = error.to_string();
        assert!(error.ends_with(expected), "{error}");
    }
}

#[test]
fn weights_may_have_one_scale_per_channel() {
    let architecture = mobilenet_v2();
    let mut tensors = in_training(&architecture);
    let (name, scales) = ("features.0.0.weight_fake_quant", [0.5; 8]);
    tensors.insert(
        format!("{name}.scale"),
        Tensor::from_f32(&[8], &scales).unwrap(),
    );
    tensors.insert(format!("{name}.zero_point"), whole(&[0; 8]));
    let trained = import(&StateDict::from_tensors(tensors), &architecture).unwrap();
    assert_eq!(trained.weights["features.0.0"].scales(), [0.5; 8]);
}

#[test]
fn weights_in_training_get_the_scales_of_convert() {
    let architecture = mobilenet_v2();
    let name = "features.0.0.weight_fake_quant";
    let cases = [
        ((-2.0, 1.0), 2.0 / 127.5),
        ((-1.0, 3.0), 3.0 / 127.5),
        ((0.0, 0.0), f32::EPSILON),
        // The initial minimum and maximum of an observer that has not seen the weight. The scale of
        // training is kept.
        ((f32::INFINITY, f32::NEG_INFINITY), 0.25),
    ];
    for ((min, max), scale) in cases {
        let mut tensors = in_training(&architecture);
        for (part, value) in [("min_val", min), ("max_val", max)] {
            let name = format!("{name}.activation_post_process.{part}");
            tensors.insert(name, Tensor::from_f32(&[], &[value]).unwrap());
        }
        let trained = import(&StateDict::from_tensors(tensors), &architecture).unwrap();
        let scales = trained.weights["features.0.0"].scales();
        assert_eq!(scales, [f64::from(scale)], "{min} {max}");
    }
}

#[test]
fn a_network_without_the_scale_of_a_sum_has_no_recipe() {
    let architecture = mobilenet_v2();
    let state = StateDict::from_tensors(checkpoint(&architecture));
    let trained = import(&state, &architecture).unwrap();
    let model = build("q", &trained.architecture, &trained.state, DEFAULT_OPSET).unwrap();
    let network = Network::read(&model.to_bytes()).unwrap();
    // torchvision's quantized networks have ReLU in place of ReLU6, so the graph contains no Clip.
    assert!(network.nodes().iter().all(|node| node.op_type != "Clip"));
    let error = trained.recipe(&network).unwrap_err().to_string();
    let expected = "the checkpoint has no scale for the output of node `/features/";
    assert!(
        error.starts_with(expected) && error.ends_with("/Add` of the fp32 network"),
        "{error}"
    );
}
