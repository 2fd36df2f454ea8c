//! Checks that the mistakes in a user's own ONNX file and its manifest are errors that name the line to write, and
//! that `sightline inspect` writes a manifest with which the file is served.

use std::fs;
use std::path::Path;

use crate::common::onnx::{FLOAT, Message, floats, graph, int, node, value, write_model};
use crate::common::{self, path, run, tiny};
use serde_json::Value;

/// The logits of [`network`] for any image.
const LOGITS: [f32; 3] = [0.0, 2.0, 1.0];
/// The softmax of [`LOGITS`].
const SCORES: [f64; 3] = [0.0900, 0.6652, 0.2447];

/// Returns a network of three classes that reads `input` of 8x8 pixels, with the output `scores`, which `last` compute
/// from `logits`.
fn network(input: &str, last: &[Message]) -> Message {
    let mut nodes = vec![
        node("GlobalAveragePool", input, "pooled", &[]),
        node("Flatten", "pooled", "flat", &[]),
        node("Mul", "flat zero", "nothing", &[]),
        node("Add", "nothing constants", "logits", &[]),
    ];
    nodes.extend_from_slice(last);
    let constants = [
        floats("zero", &[], &[0.0]),
        floats("constants", &[3], &LOGITS),
    ];
    let inputs = [value(input, FLOAT, &[0, 3, 8, 8])];
    graph(
        &nodes,
        &constants,
        &inputs,
        &[value("scores", FLOAT, &[0, 3])],
    )
}

/// Returns a softmax that is written out, so that the last operator is a division.
fn written_out_softmax() -> Vec<Message> {
    vec![
        node("Exp", "logits", "exp", &[]),
        node("ReduceSum", "exp axes", "sum", &[int("keepdims", 1)]),
        node("Div", "exp sum", "scores", &[]),
    ]
}

/// Replaces `from` by `to` in the manifest of the model `name`.
fn edit(models: &Path, name: &str, from: &str, to: &str) {
    let manifest = models.join(name).join("model.toml");
    let text = fs::read_to_string(&manifest).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(manifest, text.replacen(from, to, 1)).unwrap();
}

/// Runs `sightline predict --json` with a model, and returns exit code, stdout and stderr.
fn predict(models: &Path, name: &str) -> (Option<i32>, String, String) {
    let photo = path("photos/chelsea.png");
    let [models, photo] = [models, &photo].map(|path| path.to_str().unwrap());
    run(&[
        "predict", "--json", "--models", models, "--model", name, photo,
    ])
}

/// Checks that the model is rejected with `expected` in the message.
fn check_rejected(models: &Path, name: &str, expected: &str) {
    let (code, _, stderr) = predict(models, name);
    assert_eq!(code, Some(1), "{name}: {stderr}");
    assert!(
        stderr.contains(expected),
        "{name}: no `{expected}`: {stderr}"
    );
}

/// Checks that the model's scores are those of [`SCORES`].
fn check_scores(models: &Path, name: &str) {
    let (code, stdout, stderr) = predict(models, name);
    assert_eq!(code, Some(0), "{name}: {stderr}");
    let answer: Value = serde_json::from_str(&stdout).unwrap();
    for prediction in answer["predictions"].as_array().unwrap() {
        let class = prediction["class_id"].as_u64().unwrap() as usize;
        let score = prediction["score"].as_f64().unwrap();
        assert!((score - SCORES[class]).abs() < 1e-3, "{name}: {stdout}");
    }
}

#[test]
fn an_activation_in_the_network_is_stated_in_the_manifest() {
    let folder = tempfile::tempdir().unwrap();
    let models = folder.path();
    let state = |name: &str, activation: &str| {
        let line = format!("labels = \"labels.txt\"\nactivation = \"{activation}\"");
        edit(models, name, "labels = \"labels.txt\"", &line);
    };

    write_model(
        models,
        "logits",
        &network("images", &[node("Identity", "logits", "scores", &[])]),
    );
    check_scores(models, "logits");
    state("logits", "softmax");
    check_rejected(
        models,
        "logits",
        "model.toml states `activation = \"softmax\"`, but the outputs of the network `model.onnx` for a test image are \
         other values: expected values of 0..1 with the sum 1, got values of 0..2 with the sum 3; if they are logits, \
         remove the line",
    );

    write_model(
        models,
        "log",
        &network("images", &[node("LogSoftmax", "logits", "scores", &[])]),
    );
    check_scores(models, "log");

    let softmax = [
        node("Softmax", "logits", "soft", &[]),
        node("Identity", "soft", "scores", &[]),
    ];
    write_model(models, "softmax", &network("images", &softmax));
    check_rejected(
        models,
        "softmax",
        "softmax/model.onnx: the network ends in Softmax, so its output `scores` already holds the scores, but \
         model.toml states no `activation`, which means logits: write `activation = \"softmax\"` above the first section",
    );
    state("softmax", "softmax");
    check_scores(models, "softmax");

    write_model(
        models,
        "sigmoid",
        &network("images", &[node("Sigmoid", "logits", "scores", &[])]),
    );
    check_rejected(models, "sigmoid", "write `activation = \"sigmoid\"`");
    state("sigmoid", "sigmoid");
    let (code, stdout, stderr) = predict(models, "sigmoid");
    assert_eq!(code, Some(0), "{stderr}");
    assert!(
        stdout.contains("0.5") && stdout.contains("0.88"),
        "{stdout}"
    );

    let mut written_out = network("images", &written_out_softmax());
    written_out = written_out.bytes(5, &common::onnx::integers("axes", &[1], &[1]).encoded());
    write_model(models, "written_out", &written_out);
    check_rejected(
        models,
        "written_out",
        "the outputs of the network `model.onnx` for 3 test images are all probabilities: expected logits, got values of \
         0..1 with the sum 1; if the network ends in a softmax, write `activation = \"softmax\"`",
    );
    state("written_out", "softmax");
    check_scores(models, "written_out");
    edit(
        models,
        "written_out",
        "activation = \"softmax\"",
        "activation = \"none\"",
    );
    assert_eq!(predict(models, "written_out").0, Some(0));
}

#[test]
fn manifests_that_do_not_fit_name_the_line_to_write() {
    let folder = tempfile::tempdir().unwrap();
    let models = folder.path();
    let logits = [node("Identity", "logits", "scores", &[])];
    write_model(models, "m", &network("images", &logits));
    let cases = [
        (
            "mean = [0.0, 0.0, 0.0]",
            "mean = [123.675, 116.28, 103.53]",
            "write `mean = [0.485, 0.456, 0.406]`",
        ),
        (
            "mean = [0.0, 0.0, 0.0]",
            "mean = [0.406, 0.456, 0.485]",
            "write `channel_order = \"bgr\"`",
        ),
        ("size = 8", "size = 16", ""),
        (
            "crop = 8",
            "crop = 4",
            "m/model.onnx: the network reads images of 8 x 8 pixels (width x height) only, but",
        ),
    ];
    for (from, to, expected) in cases {
        edit(models, "m", from, to);
        if expected.is_empty() {
            check_scores(models, "m");
        } else {
            check_rejected(models, "m", expected);
        }
        edit(models, "m", to, from);
    }
    fs::write(models.join("m/labels.txt"), "one\ntwo\n").unwrap();
    check_rejected(
        models,
        "m",
        "labels.txt has 2 labels, but the network has 3 classes: expected one label per class",
    );

    write_model(models, "bgr", &network("image_bgr", &logits));
    check_rejected(models, "bgr", "the input `image_bgr` mentions BGR");
    edit(
        models,
        "bgr",
        "crop = 8",
        "crop = 8\nchannel_order = \"bgr\"",
    );
    check_scores(models, "bgr");
}

/// Runs `sightline inspect ARGS...`, and returns exit code, stdout and stderr.
fn inspect(args: &[&str]) -> (Option<i32>, String, String) {
    run(&[&["inspect"], args].concat())
}

#[test]
fn inspect_writes_a_manifest_with_which_the_file_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let models = folder.path();
    let exported = models.join("exported");
    tiny::export(&exported);
    write_model(
        models,
        "own",
        &network("image_bgr", &[node("Softmax", "logits", "scores", &[])]),
    );
    for name in ["exported", "own"] {
        let model = models.join(name);
        let onnx = model.join("model.onnx");
        let (code, manifest, stderr) = inspect(&[onnx.to_str().unwrap(), "--manifest"]);
        assert_eq!((code, stderr.as_str()), (Some(0), ""), "{manifest}");
        fs::write(model.join("model.toml"), &manifest).unwrap();
        let (code, stdout, stderr) = predict(models, name);
        assert_eq!(code, Some(0), "{manifest}\n{stderr}");
        assert_eq!(
            stdout.matches("class_id").count(),
            if name == "own" { 3 } else { 5 }
        );
    }
    check_scores(models, "own");

    let onnx = models.join("own/model.onnx");
    let (code, stdout, _) = inspect(&[onnx.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{stdout}");
    for expected in [
        "  image_bgr  float32 [axis_0, 3, 8, 8]\n",
        "  scores  float32 [axis_0, 3]\n",
        "operators: 5 in 5 nodes\n",
        "task: probably classification, 3 classes\n",
        "  - the network ends in Softmax",
        "  - the input `image_bgr` mentions BGR",
        "crop = 8\n",
        "activation = \"softmax\"\n",
    ] {
        assert!(stdout.contains(expected), "no `{expected}`: {stdout}");
    }
    let (code, stdout, _) = inspect(&[onnx.to_str().unwrap(), "--json"]);
    assert_eq!(code, Some(0));
    let answer: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(
        answer["inputs"][0]["shape"],
        serde_json::json!(["axis_0", 3, 8, 8])
    );
    assert_eq!(answer["notes"].as_array().unwrap().len(), 3, "{stdout}");
    assert_eq!(answer["problems"], serde_json::json!([]));
    assert_eq!(answer["task"], "classification");
}

#[test]
fn inspect_lists_problems_and_names_files_that_are_not_onnx() {
    let folder = tempfile::tempdir().unwrap();
    let models = folder.path();
    let logits = [node("Identity", "logits", "scores", &[])];
    let mut hostile = network("images", &logits);
    // A second input, with a name that would clear the terminal.
    hostile = hostile.bytes(11, &value("\x1b[2Jsize", FLOAT, &[2]).encoded());
    write_model(models, "hostile", &hostile);
    let onnx = models.join("hostile/model.onnx");
    for flag in [&[][..], &["--json"], &["--manifest"]] {
        let (code, stdout, stderr) = inspect(&[&[onnx.to_str().unwrap()], flag].concat());
        assert_eq!(code, Some(1), "{stdout}");
        assert!(
            stderr.contains("cannot be served as it is: 1 problem was found"),
            "{stderr}"
        );
        assert!(
            !stdout.contains('\x1b') && !stderr.contains('\x1b'),
            "{stdout}{stderr}"
        );
        assert!((stdout + &stderr).contains("must have one input"));
    }

    let checkpoint = path(tiny::CHECKPOINT);
    let empty = models.join("empty.onnx");
    fs::write(&empty, "").unwrap();
    let cases = [
        (
            checkpoint.as_path(),
            "looks like a zip checkpoint; convert a checkpoint of a network that `sightline models`",
        ),
        (&path("photos/chelsea.png"), "not an ONNX file"),
        (&empty, "it is not an ONNX file but an empty file"),
        (
            &models.join("hostile"),
            "it is a folder; give its ONNX file: sightline inspect",
        ),
        (models, "it is a folder; give the path of an .onnx file"),
        (
            &models.join("hostile/labels.txt"),
            "it is not an ONNX file but a text file",
        ),
        (&models.join("none.onnx"), "none.onnx: No such file"),
    ];
    for (file, expected) in cases {
        let (code, stdout, stderr) = inspect(&[file.to_str().unwrap()]);
        assert_eq!((code, stdout.as_str()), (Some(1), ""), "{stderr}");
        assert!(stderr.contains(expected), "no `{expected}`: {stderr}");
    }
}
