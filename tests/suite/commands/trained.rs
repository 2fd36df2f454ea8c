//! Checks `sightline export` for checkpoints that were quantized by torch, or saved during
//! quantization-aware training.

use std::path::Path;

use crate::common::{Server, path, photo, run, without_sha256};
use onnx_export::quantize::{Network, Recipes, Target};
use sightline::manifest::sha256;

const QUANTIZED: &str = "golden/quantized_mobilenet_v3_large-width_mult_0.5-num_classes_100.pth";
const SHAPE: [&str; 2] = ["--width-mult=0.5", "--num-classes=100"];

fn export(name: &str, args: &[&str], out: &Path) -> (Option<i32>, String, String) {
    export_of(QUANTIZED, name, args, out)
}

fn export_of(
    weights: &str,
    name: &str,
    args: &[&str],
    out: &Path,
) -> (Option<i32>, String, String) {
    let (weights, out) = (path(weights), out.to_str().unwrap());
    let weights = weights.to_str().unwrap();
    let mut all = vec!["export", name, "--weights", weights, "-o", out];
    all.extend_from_slice(args);
    run(&all)
}

#[test]
fn a_quantized_checkpoint_is_served_in_both_precisions() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("birds");
    // The int8 file targets VNNI on every machine. On a CPU without VNNI, the server quantizes the
    // fp32 weights again, to 7 bits, with the same recipe.
    let args = [SHAPE[0], SHAPE[1], "--target=vnni"];
    let (code, stdout, stderr) = export("mobilenet_v3_large", &args, &out);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(
        stdout.contains("num_classes_100.pth: a quantized checkpoint"),
        "{stdout}"
    );
    assert!(
        stdout.contains("64 int8 layers with the trained scales"),
        "{stdout}"
    );
    let mut written: Vec<_> = std::fs::read_dir(&out)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    written.sort();
    let (int8, ranges) = ("model.int8.onnx", "model.int8.json");
    assert_eq!(
        written,
        ["labels.txt", ranges, int8, "model.onnx", "model.toml"]
    );
    let manifest = std::fs::read_to_string(out.join("model.toml")).unwrap();
    let variant = "[variants.int8]\nprecision = \"int8\"\nranges = \"model.int8.json\"\n\n\
        [[variants.int8.stages]]\nrole = \"network\"\nfile = \"model.int8.onnx\"\n";
    assert!(without_sha256(&manifest).contains(variant), "{manifest}");
    for file in ["model.onnx", int8, ranges] {
        let hash = sha256(&std::fs::read(out.join(file)).unwrap());
        assert!(manifest.contains(&hash), "{file}: {manifest}");
    }

    // Quantizing the exported fp32 file with the exported recipe must reproduce the exported int8
    // file.
    let recipes = std::fs::read_to_string(out.join(ranges)).unwrap();
    let recipes = Recipes::parse(&recipes).unwrap();
    let network = Network::read(&std::fs::read(out.join("model.onnx")).unwrap()).unwrap();
    let made = network
        .quantize(recipes.stages.network(), recipes.target)
        .unwrap();
    assert_eq!(made, std::fs::read(out.join(int8)).unwrap());

    let server = Server::start(&["--models", directory.path().to_str().unwrap()]);
    let coffee = photo("coffee_500x375.jpg");
    for model in ["birds@fp32", "birds@int8"] {
        let answer = server.classify(&format!("?model={model}"), &coffee);
        assert_eq!(answer.results().len(), 1, "{model}");
    }
}

#[test]
fn weights_for_avx2_have_twice_the_trained_step_size() {
    let directory = tempfile::tempdir().unwrap();
    for (target, expected, says) in [
        ("vnni", Target::Vnni, "for vnni\n"),
        (
            "avx2",
            Target::Avx2,
            "for avx2; the weight scales are twice the trained ones",
        ),
    ] {
        let out = directory.path().join(target);
        let flag = format!("--target={target}");
        let args = [SHAPE[0], SHAPE[1], &flag];
        let (code, stdout, stderr) = export("mobilenet_v3_large", &args, &out);
        assert_eq!(code, Some(0), "{stderr}");
        assert!(stdout.contains(says), "{stdout}");
        let recipes = std::fs::read_to_string(out.join("model.int8.json")).unwrap();
        assert_eq!(Recipes::parse(&recipes).unwrap().target, expected);
    }
}

#[test]
fn checkpoints_of_other_networks_are_rejected() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("out");
    let quantized = "is a quantized checkpoint";
    let cases: [(&str, &[&str], &[&str]); 4] = [
        (
            "mobilenet_v3_large",
            &[SHAPE[0]],
            &[quantized, "try --num-classes 100"],
        ),
        (
            "mobilenet_v3_small",
            &SHAPE,
            &[quantized, "missing", "unexpected"],
        ),
        (
            "resnet18",
            &[SHAPE[1]],
            &[quantized, "missing", "conv1.scale"],
        ),
        (
            "ssdlite320_mobilenet_v3_large",
            &["--fused"],
            &["`--fused` does not apply to checkpoints that were trained for int8"],
        ),
    ];
    for (name, args, expected) in cases {
        let (code, stdout, stderr) = export(name, args, &out);
        assert_eq!((code, stdout.as_str()), (Some(1), ""), "{name}: {stderr}");
        for text in expected {
            assert!(stderr.contains(text), "{name}: no `{text}` in {stderr}");
        }
        assert!(!out.exists(), "{name}");
    }
}

#[test]
fn every_checkpoint_layout_is_recognized() {
    let directory = tempfile::tempdir().unwrap();
    let shape = ["--width-mult=0.1", "--num-classes=10"];
    let cases = [
        (
            "mobilenet_v3_large",
            "a checkpoint of quantization-aware training",
            false,
        ),
        ("mobilenet_v2", "a quantized checkpoint", true),
    ];
    for (name, says, plain_relu) in cases {
        let (weights, out) = (
            format!("golden/gratings_{name}.pth"),
            directory.path().join(name),
        );
        let (code, stdout, stderr) = export_of(&weights, name, &shape, &out);
        assert_eq!(code, Some(0), "{stderr}");
        assert!(stdout.contains(says), "{stdout}");
        // The manifest must state the activation with which the network was trained: ReLU or ReLU6.
        let manifest = std::fs::read_to_string(out.join("model.toml")).unwrap();
        assert_eq!(manifest.contains("relu6 = false"), plain_relu, "{manifest}");
    }
}
