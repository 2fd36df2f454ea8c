use onnx_export::summary::{Axis, Port, TensorType};

use super::*;
use crate::manifest::Activation;

const MANIFEST: &str = r#"
    name = "birds"
    task = "classification"
    description = "a test"
    labels = "labels.txt"
    stages = [{ role = "network", file = "model.onnx" }]
    [preprocess]
    resize = { mode = "short_side", size = 256, filter = "bilinear" }
    crop = 224
    mean = [0.5, 0.5, 0.5]
    std = [0.5, 0.5, 0.5]
"#;

/// Returns an input or output. A size of 0 stands for a dynamic axis, and a negative data type for a
/// tensor whose shape is unknown.
fn port(name: &str, data_type: i32, shape: &[u64], trail: &[&str]) -> Port {
    let axis = |size: &u64| match size {
        0 => Axis::Dynamic("n".to_owned()),
        size => Axis::Fixed(*size),
    };
    let shape = (data_type > 0).then(|| shape.iter().map(axis).collect());
    Port {
        name: name.to_owned(),
        description: String::new(),
        tensor: Some(TensorType {
            data_type: data_type.abs(),
            shape,
        }),
        trail: trail
            .iter()
            .map(|operator| (*operator).to_owned())
            .collect(),
    }
}

/// Returns the summary of a network with these inputs and outputs.
fn summary(inputs: &[Port], outputs: &[Port]) -> Summary {
    Summary {
        inputs: inputs.to_vec(),
        outputs: outputs.to_vec(),
        nodes: 1,
        ..Summary::default()
    }
}

fn images(shape: &[u64]) -> Port {
    port("images", 1, shape, &[])
}

fn logits() -> Port {
    port("logits", 1, &[0, 10], &["Gemm"])
}

/// Returns the messages of the findings for [`MANIFEST`] with `from` replaced by `to`, and 10 labels.
fn found(summary: &Summary, from: &str, to: &str) -> Vec<String> {
    assert!(MANIFEST.contains(from), "MANIFEST lacks {from}");
    let manifest = ModelManifest::parse(&MANIFEST.replacen(from, to, 1)).unwrap();
    let findings = check(summary, &manifest, 10);
    findings.iter().map(ToString::to_string).collect()
}

#[test]
fn networks_that_fit_their_manifest_have_no_findings() {
    let unknown = port("logits", -1, &[], &[]);
    let log = port("logits", 1, &[0, 10], &["LogSoftmax"]);
    #[rustfmt::skip]
    let cases = [
        (images(&[0, 3, 0, 0]), logits()),
        (images(&[1, 3, 224, 224]), logits()),
        (images(&[0, 0, 224, 0]), unknown),
        (port("images", -1, &[], &[]), log),
    ];
    for (input, output) in cases {
        let summary = summary(&[input], &[output]);
        assert_eq!(found(&summary, "", ""), [""; 0], "{summary:?}");
    }
}

#[test]
fn inputs_that_cannot_be_served_say_what_to_do() {
    #[rustfmt::skip]
    let cases: [(&[Port], &str); 11] = [
        (&[], "must have one input, a batch of images: expected float32 [N, 3, H, W], got none; export"),
        (&[images(&[1, 3, 8, 8]), port("size", 7, &[2], &[])], "got 2 (`images` float32 [1, 3, 8, 8], `size` int64 [2])"),
        (&[port("images", 2, &[0, 3, 224, 224], &[])], "got uint8 [n, 3, 224, 224]; export the network with a float32 input; if it normalizes"),
        (&[port("images", 10, &[0, 3, 224, 224], &[])], "got float16 [n, 3, 224, 224]; export the float32 network (`model.float()`)"),
        (&[images(&[0, 3, 224])], "has the wrong shape: expected float32 [N, 3, H, W], got float32 [n, 3, 224]; export"),
        (&[images(&[0, 224, 224, 3])], "the channels are last: export with channels first, with tf2onnx by `--inputs-as-nchw images`"),
        (&[images(&[0, 1, 28, 28])], "for a grayscale network, export"),
        (&[images(&[0, 4, 224, 224])], "got float32 [n, 4, 224, 224]"),
        (&[images(&[8, 3, 224, 224])], "expected 1 or a dynamic one, got 8; export it with `dynamic_axes={\"images\": {0: \"batch\"}}`"),
        (&[images(&[0, 3, 192, 192])], "reads images of 192 x 192 pixels (width x height) only, but `[preprocess]` of model.toml makes images of 224 x 224: write `crop = 192`, or"),
        (&[images(&[0, 3, 299, 299])], "write `resize = { mode = \"short_side\", size = 342, filter = \"bilinear\" }` and `crop = 299`, or"),
    ];
    for (inputs, expected) in cases {
        let found = found(&summary(inputs, &[logits()]), "", "");
        assert!(
            found.len() == 1 && found[0].contains(expected),
            "{expected}: {found:?}"
        );
    }
}

#[test]
fn sizes_fit_every_kind_of_resize() {
    let short_side =
        "resize = { mode = \"short_side\", size = 256, filter = \"bilinear\" }\n    crop = 224";
    let fixed = "resize = { mode = \"fixed\", width = 320, height = 240 }";
    let whole = "resize = { mode = \"short_side\", size = 256, filter = \"bilinear\" }";
    #[rustfmt::skip]
    let cases = [
        (&[1, 3, 240, 320], fixed, None),
        (&[1, 3, 240, 0], fixed, None),
        (&[1, 3, 320, 240], fixed, Some("write `resize = { mode = \"fixed\", width = 240, height = 320 }`, or")),
        (&[1, 3, 240, 320], short_side, Some("write `resize = { mode = \"fixed\", width = 320, height = 240 }` and remove `crop`")),
        (&[1, 3, 224, 224], whole, Some("makes images of different sizes: write `crop = 224`, or")),
        (&[1, 3, 0, 192], short_side, Some("reads images of 192 x any pixels")),
    ];
    for (shape, resize, expected) in cases {
        let found = found(&summary(&[images(shape)], &[logits()]), short_side, resize);
        match expected {
            None => assert_eq!(found, [""; 0]),
            Some(expected) => {
                assert!(
                    found.len() == 1 && found[0].contains(expected),
                    "{expected}: {found:?}"
                );
            }
        }
    }
}

#[test]
fn outputs_that_cannot_be_served_say_what_to_do() {
    let softmax = port("probs", 1, &[0, 10], &["Flatten", "Softmax"]);
    let sigmoid = port("probs", 1, &[0, 10], &["Sigmoid"]);
    let labels = "labels = \"labels.txt\"";
    let with = |activation: &str| format!("{labels}\n    activation = \"{activation}\"");
    #[rustfmt::skip]
    let cases: [(&[Port], String, &str); 12] = [
        (std::slice::from_ref(&softmax), labels.into(), "the network ends in Softmax, so its output `probs` already holds the scores, but model.toml states no `activation`, which means logits: write `activation = \"softmax\"` above the first section"),
        (std::slice::from_ref(&softmax), with("none"), "states `activation = \"none\"`: write `activation = \"softmax\"`"),
        (std::slice::from_ref(&softmax), with("softmax"), ""),
        (std::slice::from_ref(&sigmoid), labels.into(), "ends in Sigmoid"),
        (std::slice::from_ref(&sigmoid), with("softmax"), "write `activation = \"sigmoid\"`"),
        (std::slice::from_ref(&sigmoid), with("sigmoid"), ""),
        (&[logits(), port("features", 1, &[0, 64], &[])], labels.into(), "must have one output: expected float32 [N, classes], got 2 (`logits` float32 [n, 10], `features` float32 [n, 64])"),
        (&[port("class", 7, &[0], &["ArgMax"])], labels.into(), "has the wrong data type: expected float32 [N, classes], got int64 [n]; the network ends in ArgMax: export it without"),
        (&[port("logits", 10, &[0, 10], &[])], labels.into(), "got float16 [n, 10]; export the float32 network"),
        (&[port("logits", 1, &[0, 10, 1, 1], &[])], labels.into(), "add `torch.nn.Flatten(1)`"),
        (&[port("logits", 1, &[0, 11], &[])], labels.into(), "labels.txt has 10 labels, but the network has 11 classes: expected one label per class, in the order of the class ids; if class 0"),
        (&[port("logits", 1, &[0, 9], &[])], labels.into(), "or an empty line at the end"),
    ];
    for (outputs, lines, expected) in cases {
        let found = found(&summary(&[images(&[0, 3, 0, 0])], outputs), labels, &lines);
        let all = found.join("; ");
        assert!(
            all.contains(expected) && found.is_empty() == expected.is_empty(),
            "{expected}: {found:?}"
        );
    }
}

#[test]
fn bgr_must_be_stated() {
    let mut summary = summary(&[images(&[0, 3, 0, 0])], &[logits()]);
    let place = "the metadata entry `Image.BitmapPixelFormat`".to_owned();
    summary.texts = vec![(place, "Bgr8".to_owned())];
    let messages = found(&summary, "", "");
    let expected = "the metadata entry `Image.BitmapPixelFormat` mentions BGR";
    assert!(messages[0].starts_with(expected), "{messages:?}");
    for order in ["bgr", "rgb"] {
        let line = format!("[preprocess]\n    channel_order = \"{order}\"");
        assert_eq!(found(&summary, "[preprocess]", &line), [""; 0]);
    }
}

#[test]
fn tasks_are_recognized_by_their_outputs() {
    #[rustfmt::skip]
    let cases: [(&[Port], Option<Task>); 11] = [
        (&[logits()], Some(Task::Classification)),
        (&[port("a", 1, &[0, 10, 1, 1], &[])], Some(Task::Classification)),
        (&[port("a", 7, &[0], &["ArgMax"])], Some(Task::Classification)),
        (&[port("a", 1, &[0, 21, 0, 0], &[])], Some(Task::Segmentation)),
        (&[port("aux", 1, &[0], &[]), port("out", 1, &[0, 21, 0, 0], &[])], Some(Task::Segmentation)),
        (&[port("a", 7, &[0, 520, 520], &["ArgMax"])], Some(Task::Segmentation)),
        (&[port("boxes", 1, &[0, 4], &[]), port("labels", 7, &[0], &[]), port("scores", 1, &[0], &[])], Some(Task::Detection)),
        (&[port("cls_logits_0", 1, &[0, 9, 8, 8], &[]), port("bbox_regression_0", 1, &[0, 4, 8, 8], &[])], Some(Task::Detection)),
        (&[port("output0", 1, &[1, 84, 8400], &[])], Some(Task::Detection)),
        (&[port("a", 1, &[0], &[])], None),
        (&[port("a", -1, &[], &[])], None),
    ];
    for (outputs, expected) in cases {
        assert_eq!(likely_task(&summary(&[], outputs)), expected, "{outputs:?}");
    }
}

#[test]
fn drafts_state_what_the_network_needs() {
    let path = Path::new("/models/birds/model.onnx");
    let softmax = port("probs", 1, &[0, 10], &["Softmax"]);
    let masks = port("out", 1, &[0, 21, 0, 0], &["Resize"]);
    let bgr = Port {
        name: "image_bgr".to_owned(),
        ..images(&[1, 3, 299, 299])
    };
    let mut with_bgr = summary(std::slice::from_ref(&bgr), &[softmax]);
    with_bgr.texts = vec![("the input `image_bgr`".to_owned(), bgr.name)];
    let cases = [
        (with_bgr, Task::Classification),
        (
            summary(&[images(&[0, 3, 0, 0])], &[logits()]),
            Task::Classification,
        ),
        (
            summary(&[images(&[1, 3, 240, 320])], &[masks]),
            Task::Segmentation,
        ),
    ];
    for (summary, task) in cases {
        let draft = Draft::new(path, task, &summary);
        // The text is the manifest, and the manifest fits the network.
        let text = draft.to_toml();
        let parsed = ModelManifest::parse(&text).unwrap_or_else(|error| panic!("{text}\n{error}"));
        assert_eq!(parsed, draft.manifest, "{text}");
        let classes = draft.classes.unwrap() as usize;
        assert_eq!(check(&summary, &parsed, classes), [], "{text}");
        assert_eq!(parsed.name, "birds");
    }
    let activation = Draft::new(
        path,
        Task::Classification,
        &summary(&[], &[port("a", 1, &[0, 2], &["Sigmoid"])]),
    );
    assert_eq!(activation.manifest.activation, Some(Activation::Sigmoid));
}
