//! Checks that `sightline quantize` writes no int8 model whose outputs differ too much from fp32, or do not depend on
//! the image, and that it holds photographs out from calibration.

use std::fs;
use std::path::Path;

use crate::common::onnx::{FLOAT, Message, floats, graph, node, value, write_model};
use crate::common::quantizing::{Folder, command, names, text};
use crate::common::{finish, path, without_sha256};
use sightline::cpu::has_int8_dot;

/// Returns a network of three logits: a convolution that reads the image, Relu, a convolution with equal weights
/// `weight` and biases of `bias`, and the mean over the pixels.
fn network(weight: f32, bias: f32) -> Message {
    let nodes = [
        node("Conv", "images first", "seen", &[]),
        node("Relu", "seen", "active", &[]),
        node("Conv", "active second biases", "map", &[]),
        node("GlobalAveragePool", "map", "pooled", &[]),
        node("Flatten", "pooled", "logits", &[]),
    ];
    let constants = [
        floats("first", &[4, 3, 1, 1], &[0.5; 12]),
        floats("second", &[3, 4, 1, 1], &[weight; 12]),
        floats("biases", &[3], &[bias, bias + 1.0, bias + 2.0]),
    ];
    let input = value("images", FLOAT, &[0, 3, 8, 8]);
    graph(
        &nodes,
        &constants,
        &[input],
        &[value("logits", FLOAT, &[0, 3])],
    )
}

/// Runs `quantize` on the photographs of the tests. Returns the exit code, the standard output and the standard error.
fn quantize(model: &Path, args: &[&str]) -> (Option<i32>, String, String) {
    finish(command(model, &path("photos"), args))
}

const REPORTS: [&str; 2] = ["model.int8.report.json", "model.int8.report.txt"];

/// Checks that `quantize` rejects the int8 model with the text `expected` in its error and writes the report only, and
/// that `--force` writes the int8 model.
fn check_rejected(folder: &Folder, name: &str, args: &[&str], expected: &[&str]) {
    let model = folder.at(name);
    let before = names(&model);
    let (code, _, stderr) = quantize(&model, args);
    assert_eq!(code, Some(1), "{name}: {stderr}");
    for part in expected {
        assert!(stderr.contains(part), "{name}: no `{part}`: {stderr}");
    }
    assert!(stderr.contains("--force"), "{name}: {stderr}");
    let mut after = names(&model);
    after.retain(|name| !REPORTS.contains(&name.as_str()));
    assert_eq!(after, before, "{name}");
    let (code, _, stderr) = quantize(&model, &[args, &["--force"]].concat());
    assert_eq!(code, Some(0), "{name}: {stderr}");
    assert!(
        names(&model).contains(&"model.int8.onnx".to_owned()),
        "{name}"
    );
}

#[test]
fn an_fp32_model_that_ignores_the_image_is_rejected() {
    let folder = Folder::new();
    write_model(&folder.at(""), "constant", &network(0.0, 1.0));
    let expected = [
        "the outputs of the fp32 model do not depend on the image",
        "sightline predict --model constant",
    ];
    check_rejected(&folder, "constant", &[], &expected);
}

#[test]
fn an_int8_model_that_ignores_the_image_is_rejected() {
    let folder = Folder::new();
    // In steps of 1000/255, int8 cannot represent the difference between two photographs, although the cosine
    // similarity and the agreement are perfect.
    write_model(&folder.at(""), "offset", &network(0.1, 1000.0));
    let expected = [
        "the outputs of the int8 model hardly depend on the image",
        "they differ by 0.0 % of what the fp32 outputs differ by, at least 10 % is required",
        "--max-float 0.4",
    ];
    check_rejected(&folder, "offset", &[], &expected);
}

#[test]
fn outputs_of_low_similarity_are_rejected() {
    let folder = Folder::new();
    let spoilt = [
        "--method=percentile",
        "--percentile=99.1",
        "--target=vnni",
        "--max-float=0",
        "--min-agreement=0",
    ];
    let expected = [
        "the outputs of the int8 model have a mean cosine similarity of ",
        "with those of fp32, but at least 0.9500 is required",
        "a lower --min-cosine",
    ];
    check_rejected(&folder, "tiny", &spoilt, &expected);
    // A user can accept less similar outputs. The model may still be rejected because it is not faster.
    let accepted = [&spoilt[..], &["--min-cosine=0"]].concat();
    let (_, stdout, stderr) = quantize(&folder.at("tiny"), &accepted);
    assert!(stdout.contains("cosine "), "{stderr}");
    assert!(!stderr.contains("cosine similarity"), "{stderr}");
}

#[test]
fn a_model_that_is_quantized_again_keeps_its_manifest() {
    let folder = Folder::new();
    let out = folder.at("out");
    // The speed is not judged on another CPU family.
    let target = if has_int8_dot() { "avx2" } else { "vnni" };
    let lenient = [
        "--images=2",
        "--method=minmax",
        "--min-agreement=0",
        "--min-cosine=0",
        "--target",
        target,
    ];
    let copy = [&lenient[..], &["-o", text(&out)]].concat();
    let (code, _, stderr) = quantize(&folder.at("tiny"), &copy);
    assert_eq!(code, Some(0), "{stderr}");
    let manifest = out.join("model.toml");
    // The hashes of int8 files change if the ranges differ in their last bits.
    let read = || without_sha256(&fs::read_to_string(&manifest).unwrap());
    let first = read();
    let (code, _, stderr) = quantize(&folder.at("tiny"), &copy);
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(read(), first);

    let resize = |size: u32| {
        format!("resize = {{ mode = \"short_side\", size = {size}, filter = \"bilinear\" }}")
    };
    let int8 = format!("[variants.int8]\n{}\n", resize(280));
    let other = format!("# For small birds.\n[variants.320]\n{}\n", resize(320));
    let edited = first.replacen("[variants.int8]\n", &int8, 1) + "\n" + &other;
    let edited = format!("# Garden.\ndefault = \"320\"\n{edited}");
    fs::write(&manifest, &edited).unwrap();
    let (code, _, stderr) = quantize(&folder.at("tiny"), &copy);
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(read(), edited);

    // The folder of the model itself, whose path is written in another way.
    let mut inside = command(
        Path::new("out/model.toml"),
        &path("photos"),
        &[&lenient[..], &["-o", "./out"]].concat(),
    );
    inside.current_dir(folder.at(""));
    let (code, _, stderr) = finish(inside);
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(read(), edited);
}

#[test]
fn the_report_says_which_photographs_were_held_out() {
    let folder = Folder::new();
    let cases = [
        (
            "1",
            "on the calibration image: no other image was left to hold out",
        ),
        ("2", "on 1 held-out image, calibrated on 1 other\n"),
        ("5", "on 1 held-out image, calibrated on 4 others"),
    ];
    for (count, expected) in cases {
        let args = ["--method=minmax", "--force", "--images", count];
        let out = folder.at(&format!("out{count}"));
        let args = [&args[..], &["-o", text(&out)]].concat();
        let (code, stdout, stderr) = quantize(&folder.at("tiny"), &args);
        assert_eq!(code, Some(0), "{stderr}");
        assert!(stdout.contains(expected), "{count}: {stdout}");
        assert_eq!(stdout.contains("  variation "), count != "1", "{stdout}");
    }
}
