//! Tests the quantization of the networks in `tests/models`, with weights computed by the `formula`
//! module.

use super::*;
use crate::architecture::Architecture;
use crate::tensor_shapes;

/// Returns the stages of the model `name` as networks: one, or two for a two-stage detector, whose
/// second stage is the box head. If the model has a width multiplier, it is set to 0.25.
fn networks(name: &str) -> Vec<Network> {
    let path = format!("{}/tests/models/{name}.toml", env!("CARGO_MANIFEST_DIR"));
    let manifest: toml::Table = std::fs::read_to_string(path).unwrap().parse().unwrap();
    let mut architecture: Architecture = manifest["architecture"].clone().try_into().unwrap();
    if let Some(width_mult) = architecture.backbone.trunk_mut().width_mult() {
        *width_mult = 0.25;
    }
    let state = formula::state_dict(&tensor_shapes(&architecture).unwrap(), &[]).unwrap();
    let model = crate::build(name, &architecture, &state, DEFAULT_OPSET).unwrap();
    let files = model.to_files();
    let networks = files.iter().map(|file| Network::read(file.content));
    networks.map(Result::unwrap).collect()
}

fn names(values: &[crate::proto::ValueInfoProto]) -> Vec<&str> {
    values.iter().map(|value| value.name.as_str()).collect()
}

#[test]
fn every_network_keeps_its_signature_and_standard_operators() {
    let cases = [
        "mobilenet_v3_small",
        "mobilenet_v2",
        "resnet18",
        "efficientnet_b0",
        "efficientnet_lite0",
        "lraspp_mobilenet_v3_large",
        "deeplabv3_mobilenet_v3_large",
        "ssdlite320_mobilenet_v3_large",
        "fasterrcnn_mobilenet_v3_large_320_fpn",
    ];
    for name in cases {
        for network in networks(name) {
            let layers = network.layers();
            let every_third = layers.iter().step_by(3).map(|layer| layer.name.as_str());
            let every_third: Vec<&str> = every_third.collect();
            for float in [&[][..], &every_third] {
                let graph = quantized(&network, &recipe(&network, float), Target::Avx2);
                assert_eq!(names(&graph.input), names(&network.graph().input), "{name}");
                assert_eq!(
                    names(&graph.output),
                    names(&network.graph().output),
                    "{name}"
                );
                let in_int8 = graph.node.iter().filter(|node| {
                    let read = node.input.get(1);
                    matches!(node.op_type.as_str(), "Conv" | "Gemm")
                        && read.is_some_and(|weight| weight.ends_with("_dq"))
                });
                assert_eq!(in_int8.count(), layers.len() - float.len(), "{name}");
            }
        }
    }
}

#[test]
fn detector_levels_share_a_weight_and_have_their_own_biases() {
    let [network] = &networks("retinanet_resnet50_fpn")[..] else {
        panic!("retinanet_resnet50_fpn must have one stage");
    };
    let mut recipe = recipe(network, &[]);
    // Every value has its own activation range, so that the input scales of the pyramid levels
    // differ.
    for (index, range) in recipe.ranges.values_mut().enumerate() {
        range.max = 1.0 + index as f32 / 16.0;
    }
    let graph = quantized(network, &recipe, Target::Vnni);
    let shared = "head.classification_head.cls_logits.weight";
    let layers = network.layers().iter();
    let levels: Vec<&Layer> = layers.filter(|layer| layer.weight == shared).collect();
    assert_eq!(levels.len(), 5);
    let written = |name: &str| {
        let tensors = graph.initializer.iter();
        tensors.filter(|tensor| tensor.name == name).count()
    };
    assert_eq!(written(&format!("{shared}_q")), 1);
    let weight_scales = f32_values(&graph, &format!("{shared}_s"));
    for level in levels {
        let bias = format!("{}_bias", level.name);
        assert_eq!(written(&format!("{bias}_q")), 1);
        let input = f32_values(&graph, &format!("{}_s", level.input))[0];
        let expected: Vec<f32> = weight_scales.iter().map(|scale| scale * input).collect();
        assert_eq!(f32_values(&graph, &format!("{bias}_s")), expected);
    }
}
