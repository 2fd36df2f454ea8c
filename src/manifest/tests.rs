use std::path::Path;

use onnx_export::architecture::Head;

use super::*;

const MINIMAL: &str = r#"
    name = "tiny"
    task = "classification"
    description = "a test"
    labels = "labels.txt"
    [preprocess]
    resize = { mode = "short_side", size = 256, filter = "bilinear" }
    crop = 224
    mean = [0.5, 0.5, 0.5]
    std = [0.5, 0.5, 0.5]
"#;

#[test]
fn a_manifest_survives_a_round_trip() {
    let manifest = ModelManifest::parse(MINIMAL).unwrap();
    let again = ModelManifest::parse(&manifest.to_toml().unwrap()).unwrap();
    assert_eq!(manifest, again);
}

#[test]
fn the_default_is_fp32_or_a_variant() {
    let resize = "{ mode = \"short_side\", size = 240, filter = \"bilinear\" }";
    for default in ["fp32", "240"] {
        let text = MINIMAL.replace("labels =", &format!("default = \"{default}\"\nlabels ="));
        let text = format!("{text}\n[variants.240]\nresize = {resize}");
        let manifest = ModelManifest::parse(&text).unwrap();
        assert_eq!(manifest.default.as_deref(), Some(default));
        let again = ModelManifest::parse(&manifest.to_toml().unwrap()).unwrap();
        assert_eq!(manifest, again);
    }
}

#[test]
fn bad_values_name_their_field() {
    let cases = [
        ("name = \"tiny\"", "name = \"../tiny\"", "field `name`"),
        ("crop = 224", "crop = 257", "field `preprocess.crop`"),
        ("size = 256", "size = 0", "field `preprocess.resize.size`"),
        (
            "std = [0.5, 0.5, 0.5]",
            "std = [0.5, 0.0, 0.5]",
            "field `preprocess.std`",
        ),
        ("crop = 224", "cropp = 224", "unknown field `cropp`"),
        (
            "labels =",
            "default = \"int8\"\nlabels =",
            "field `default`: expected fp32 or the name of a variant of the model, got int8",
        ),
        (
            "[preprocess]",
            "[batching]\nmax_batch_size = 0\n[preprocess]",
            "max_batch_size",
        ),
    ];
    for (from, to, message) in cases {
        assert!(MINIMAL.contains(from), "MINIMAL lacks {from}");
        let error = ModelManifest::parse(&MINIMAL.replace(from, to))
            .unwrap_err()
            .to_string();
        assert!(error.contains(message), "{to}: {error}");
    }
}

#[test]
fn another_scale_or_channel_order_is_rejected_with_the_lines_to_write() {
    let parse = |mean: &str, std: &str, lines: &str| {
        let text = MINIMAL
            .replace("mean = [0.5, 0.5, 0.5]", &format!("mean = {mean}\n{lines}"))
            .replace("std = [0.5, 0.5, 0.5]", &format!("std = {std}"));
        ModelManifest::parse(&text).map_err(|error| error.to_string())
    };
    let (bytes, bytes_std) = ("[123.675, 116.28, 103.53]", "[58.395, 57.12, 57.375]");
    let (unit, unit_std) = ("[0.485, 0.456, 0.406]", "[0.229, 0.224, 0.225]");
    let (caffe, ones) = ("[103.939, 116.779, 123.68]", "[1.0, 1.0, 1.0]");
    let (zeros, reversed) = ("[0.0, 0.0, 0.0]", "[0.406, 0.456, 0.485]");
    #[rustfmt::skip]
    let cases = [
        (bytes, bytes_std, "", Some("write `mean = [0.485, 0.456, 0.406]` and `std = [0.229, 0.224, 0.225]`, or")),
        (bytes, bytes_std, "scale = 255", None),
        (bytes, bytes_std, "scale = 1", None),
        (bytes, unit_std, "", Some("field `preprocess.mean`: expected values for pixels of 0..1, got mean [123.675,")),
        (caffe, ones, "", Some("`std = [0.0039216, 0.0039216, 0.0039216]`")),
        (caffe, ones, "scale = 255", Some("ImageNet's mean in the order blue, green, red; write `channel_order = \"bgr\"`")),
        (caffe, ones, "scale = 255\nchannel_order = \"bgr\"", None),
        (zeros, "[255.0, 255.0, 255.0]", "", Some("field `preprocess.std`")),
        (zeros, ones, "scale = 255", None),
        (zeros, ones, "", None),
        (unit, unit_std, "scale = 255", Some("got [0.229, 0.224, 0.225], which are for pixels of 0..1; remove `scale`")),
        (unit, unit_std, "scale = 2", Some("field `preprocess.scale`: expected 1 or 255, got 2")),
        (reversed, unit_std, "", Some("or `mean = [0.485, 0.456, 0.406]`")),
        (reversed, unit_std, "channel_order = \"rgb\"", None),
        (reversed, unit_std, "channel_order = \"bgr\"", None),
        (unit, unit_std, "channel_order = \"gbr\"", Some("unknown variant `gbr`")),
    ];
    for (mean, std, lines, expected) in cases {
        let case = format!("{mean} {std} {lines}");
        match (parse(mean, std, lines), expected) {
            (Ok(manifest), None) => {
                let again = ModelManifest::parse(&manifest.to_toml().unwrap()).unwrap();
                assert_eq!(manifest, again, "{case}");
            }
            (Err(message), Some(expected)) => {
                assert!(message.contains(expected), "{case}: {message}");
            }
            (result, _) => panic!("{case}: {result:?}"),
        }
    }
}

#[test]
fn an_activation_is_part_of_classification() {
    let with = |text: &str, line: &str| {
        ModelManifest::parse(&text.replace("[preprocess]", &format!("{line}\n[preprocess]")))
    };
    for (line, expected) in [
        ("activation = \"none\"", Activation::None),
        ("activation = \"softmax\"", Activation::Softmax),
        ("activation = \"sigmoid\"", Activation::Sigmoid),
    ] {
        let manifest = with(MINIMAL, line).unwrap();
        assert_eq!(manifest.activation, Some(expected));
        let again = ModelManifest::parse(&manifest.to_toml().unwrap()).unwrap();
        assert_eq!(manifest, again);
    }
    let segmentation = MINIMAL.replace("classification", "segmentation");
    let error = with(&segmentation, "activation = \"softmax\"").unwrap_err();
    let expected = "field `activation`: expected none unless `task` is classification, got softmax";
    assert_eq!(error.to_string(), expected);
}

const DETECTOR: &str = r#"
    name = "boxes"
    task = "detection"
    description = "a test"
    labels = "labels.txt"
    stages = [{ role = "network", file = "model.onnx" }, { role = "box_head", file = "box_head.onnx" }]
    [architecture]
    num_classes = 91
    backbone = { kind = "mobilenet_v3", size = "large", bn_eps = 1e-5, bn_frozen = true }
    [architecture.head]
    kind = "faster_rcnn"
    backbone_maps = 2
    roi_strides = [32]
    anchors = { sizes = [[32, 64], [32, 64], [128, 256]], aspect_ratios = [0.5, 1.0, 2.0] }
    [preprocess]
    resize = { mode = "bounded", min_size = 800, max_size = 1333 }
    mean = [0.485, 0.456, 0.406]
    std = [0.229, 0.224, 0.225]
    pad_to = 32
    [detection]
    score_threshold = 0.05
    iou_threshold = 0.55
    max_detections = 100
    box_weights = [10.0, 10.0, 5.0, 5.0]
    [detection.rpn]
    pre_nms_top_n = 1000
    post_nms_top_n = 150
    iou_threshold = 0.7
    score_threshold = 0.0
"#;

#[test]
fn a_detectors_manifest_survives_a_round_trip() {
    let manifest = ModelManifest::parse(DETECTOR).unwrap();
    let again = ModelManifest::parse(&manifest.to_toml().unwrap()).unwrap();
    assert_eq!(manifest, again);
    let detection = manifest.detection.unwrap();
    assert_eq!(
        (detection.iou_threshold, detection.topk_candidates),
        (0.55, None)
    );
    let Some(Head::FasterRcnn(head)) = manifest.architecture.map(|a| a.head) else {
        panic!("the head is not Faster R-CNN");
    };
    assert_eq!(head.anchors.per_location(), [6, 6, 6]);
}

#[test]
fn bad_values_of_a_detector_name_their_field() {
    #[rustfmt::skip]
    let cases = [
        ("score_threshold = 0.05", "score_threshold = 1.5", "field `detection.score_threshold`: expected 0 to 1, got 1.5"),
        ("iou_threshold = 0.55", "iou_threshold = nan", "field `detection.iou_threshold`"),
        ("max_detections = 100", "max_detections = 0", "field `detection.max_detections`"),
        ("max_detections = 100", "max_detections = 100\ntopk_candidates = 5", "field `detection.topk_candidates`: expected none for faster_rcnn"),
        ("[10.0, 10.0, 5.0, 5.0]", "[10.0, 10.0, 5.0, 0.0]", "field `detection.box_weights`"),
        ("post_nms_top_n = 150", "post_nms_top_n = 0", "field `detection.rpn.post_nms_top_n`"),
        ("iou_threshold = 0.7", "iou_threshold = -0.7", "field `detection.rpn.iou_threshold`"),
        ("    pre_nms_top_n = 1000\n", "", "missing field `pre_nms_top_n`"),
        ("min_size = 800", "min_size = 0", "field `preprocess.resize.min_size`"),
        ("max_size = 1333", "max_size = 700", "field `preprocess.resize.max_size`: expected at least `min_size`"),
        ("pad_to = 32", "pad_to = 0", "field `preprocess.pad_to`"),
        ("pad_to = 32", "crop = 224", "field `preprocess.crop`: expected none after a bounded or fixed resize"),
        ("[[32, 64], [32, 64], [128, 256]]", "[[32, 64], [32, 64]]", "field `architecture.head.anchors.sizes`: expected one list per level of the network, got 2 lists for 3 levels"),
        ("[[32, 64], [32, 64], [128, 256]]", "[[32, 64], [32], [128, 256]]", "field `architecture.head.anchors`"),
        ("[[32, 64], [32, 64], [128, 256]]", "[[32, 64], [32, 0], [128, 256]]", "field `architecture.head.anchors.sizes`"),
        ("aspect_ratios = [0.5,", "aspect_ratios = [0.0,", "field `architecture.head.anchors.aspect_ratios`"),
        ("backbone_maps = 2", "backbone_maps = 5", "field `architecture.head.backbone_maps`"),
        ("roi_strides = [32]", "roi_strides = []", "field `architecture.head.roi_strides`"),
        ("roi_strides = [32]", "roi_strides = [16, 16]", "field `architecture.head.roi_strides`"),
        ("task = \"detection\"", "task = \"segmentation\"", "field `task`"),
        (", { role = \"box_head\", file = \"box_head.onnx\" }", "", "field `stages`: expected the roles network, box_head in this order, got network"),
        ("{ role = \"network\", file = \"model.onnx\" }, ", "", "field `stages`: expected the roles network, box_head in this order, got box_head"),
        ("role = \"box_head\"", "role = \"mask_head\"", "unknown variant `mask_head`"),
        ("file = \"model.onnx\"", "file = \"model.onnx\", sha256 = \"e3b0\"", "field `stages.sha256`: expected 64 hexadecimal digits, got e3b0"),
    ];
    for (from, to, message) in cases {
        assert!(DETECTOR.contains(from), "DETECTOR lacks {from}");
        let error = ModelManifest::parse(&DETECTOR.replacen(from, to, 1))
            .unwrap_err()
            .to_string();
        assert!(error.contains(message), "{to}: {error}");
    }
}

#[test]
fn detectors_need_what_decodes_their_boxes() {
    let without = |from: &str, to: &str| {
        let start = DETECTOR.find(from).unwrap();
        let end = DETECTOR.find(to).unwrap_or(DETECTOR.len());
        format!("{}{}", &DETECTOR[..start], &DETECTOR[end..])
    };
    let cases = [
        (
            without("[detection.rpn]", "no such text"),
            "field `detection.rpn`",
        ),
        (
            without("[detection]", "no such text"),
            "field `detection`: expected a table",
        ),
        (
            without("    [architecture]", "    [preprocess]").replacen(
                ", { role = \"box_head\", file = \"box_head.onnx\" }",
                "",
                1,
            ),
            "field `architecture`: expected an architecture with a detection head",
        ),
        (
            MINIMAL.replace("[preprocess]", &format!("{TWO_STAGES}\n[preprocess]")),
            "field `stages`: expected the roles network in this order, got network, box_head",
        ),
        (
            format!(
                "{MINIMAL}[detection]\nscore_threshold = 0.5\niou_threshold = 0.5\nmax_detections = 9\nbox_weights = [1.0, 1.0, 1.0, 1.0]"
            ),
            "field `detection`: expected none unless `task` is detection",
        ),
    ];
    for (text, message) in cases {
        let error = ModelManifest::parse(&text).unwrap_err().to_string();
        assert!(error.contains(message), "{text}\n{error}");
    }
}

/// Adds a variant `name` with `fields` to the manifest `model`, all in TOML. Returns the parsed variant, or the message
/// of the error.
fn variant(model: &str, name: &str, fields: &str) -> Result<Variant, String> {
    let text = format!("{model}\n[variants.{name}]\n{fields}");
    let manifest = ModelManifest::parse(&text).map_err(|error| error.to_string())?;
    let again = ModelManifest::parse(&manifest.to_toml().unwrap()).unwrap();
    assert_eq!(manifest, again, "{name}: {fields}");
    Ok(manifest.variants[name].clone())
}

/// Returns `MINIMAL` with an ONNX file of its own, and `MINIMAL` with weights that are embedded in the binary.
fn in_a_file_and_carried() -> (String, String) {
    let file = MINIMAL.replace("[preprocess]", &format!("{STAGE}\n[preprocess]"));
    let weights = "[[weights]]\nname = \"v1\"\nfile = \"weights.safetensors\"\nsha256_prefix = \"\"\n\
                   parameters = 1\nmetrics = {}";
    (file, format!("{MINIMAL}\n{weights}"))
}

/// The `stages` of a model that consists of one network.
const STAGE: &str = r#"stages = [{ role = "network", file = "i.onnx" }]"#;
/// The `stages` of a two-stage detector.
const TWO_STAGES: &str =
    r#"stages = [{ role = "network", file = "i.onnx" }, { role = "box_head", file = "b.onnx" }]"#;
/// The resize of a variant with smaller images than `MINIMAL`.
const SMALLER: &str = "resize = { mode = \"short_side\", size = 240, filter = \"bilinear\" }";

#[test]
fn a_variant_has_another_resize_or_graph() {
    let (file, carried) = in_a_file_and_carried();
    let int8 = "precision = \"int8\"";
    #[rustfmt::skip]
    let cases = [
        (MINIMAL, "240", SMALLER.to_owned(), None),
        (&file, "int8", format!("{int8}\n{STAGE}"), Some(Precision::Int8)),
        (&file, "240-int8", format!("{int8}\n{STAGE}\n{SMALLER}"), Some(Precision::Int8)),
        (&file, "pruned", STAGE.to_owned(), None),
        (&file, "pruned", format!("precision = \"fp32\"\n{STAGE}"), Some(Precision::Fp32)),
        (&carried, "int8", format!("{int8}\nranges = \"r.json\""), Some(Precision::Int8)),
        (DETECTOR, "int8", format!("{int8}\n{TWO_STAGES}"), Some(Precision::Int8)),
    ];
    for (model, name, fields, precision) in cases {
        assert_eq!(
            variant(model, name, &fields).unwrap().precision,
            precision,
            "{fields}"
        );
    }
}

#[test]
fn a_bad_variant_names_its_field() {
    let (file, carried) = in_a_file_and_carried();
    let int8 = "precision = \"int8\"\n";
    #[rustfmt::skip]
    let cases = [
        (MINIMAL, "\"a\\u001b\"", SMALLER.to_owned(), "field `variants`: expected [a-z0-9_-][a-z0-9_.-]{0,63}, got a\\u001b"),
        (MINIMAL, "fp32", SMALLER.to_owned(), "field `variants`: expected a name other than fp32"),
        (MINIMAL, "a", String::new(), "field `variants.NAME`: expected one of `resize`, `stages`, `ranges`, got none in variant a"),
        (MINIMAL, "a", SMALLER.replace("240", "0"), "field `preprocess.resize.size`"),
        (MINIMAL, "a", SMALLER.replace("240", "200"), "field `preprocess.crop`: expected 1 to the resized shorter side"),
        (MINIMAL, "a", STAGE.to_owned(), "field `variants.NAME.stages`: expected none unless the model has `stages`, got i.onnx in variant a"),
        (MINIMAL, "int8", format!("{int8}ranges = \"r.json\""), "field `variants.NAME.ranges`: expected none without `stages`, except for embedded weights, got r.json in variant int8"),
        (&file, "int8", format!("{int8}ranges = \"r.json\""), "field `variants.NAME.ranges`"),
        (&carried, "int8", format!("{int8}{STAGE}"), "field `variants.NAME.stages`"),
        (&carried, "int8", "ranges = \"r.json\"".to_owned(), "field `variants.NAME.precision`: expected int8"),
        (&file, "int8", STAGE.to_owned(), "field `variants.NAME.precision`: expected int8 for the variant `int8` and for a variant with `ranges`, got fp32 in variant int8"),
        (&file, "int8", SMALLER.to_owned(), "field `variants.NAME.precision`: expected int8"),
        (&file, "a", format!("{int8}{SMALLER}"), "field `variants.NAME.precision`: expected fp32, the data type of the model, unless `stages` or `ranges` are set, got int8 in variant a"),
        (&file, "a", format!("precision = \"int4\"\n{STAGE}"), "unknown variant `int4`"),
        (&file, "a", "fil = \"i.onnx\"".to_owned(), "unknown field `fil`"),
        (&file, "int8", format!("{int8}{TWO_STAGES}"), "field `variants.NAME.stages`: expected the roles network in this order, got network, box_head in variant int8"),
        (DETECTOR, "int8", format!("{int8}{STAGE}"), "field `variants.NAME.stages`: expected the roles network, box_head in this order, got network in variant int8"),
    ];
    for (model, name, fields, message) in cases {
        let error = variant(model, name, &fields).unwrap_err();
        assert!(error.contains(message), "{name}: {fields}: {error}");
    }
}

#[test]
fn hashes_belong_to_files() {
    let variants = r#"
    [variants.int8]
    precision = "int8"
    ranges = "model.int8.json"
    stages = [{ role = "network", file = "int8.onnx" }, { role = "box_head", file = "box_head.onnx" }]
    "#;
    let mut manifest = ModelManifest::parse(&format!("{DETECTOR}{variants}")).unwrap();
    let files = ["box_head.onnx", "model.int8.json", "labels.txt"];
    for file in files {
        manifest.record_sha256(Path::new(file), file.as_bytes());
    }
    let manifest = ModelManifest::parse(&manifest.to_toml().unwrap()).unwrap();
    let stated = |file: &str| manifest.stated_sha256(Path::new(file)).collect::<Vec<_>>();
    let (head, ranges) = (sha256(b"box_head.onnx"), sha256(b"model.int8.json"));
    // Both the model and its variant have this stage.
    assert_eq!(stated("box_head.onnx"), [("stages.sha256", &head[..]); 2]);
    let field = "variants.NAME.ranges_sha256";
    assert_eq!(stated("model.int8.json"), [(field, &ranges[..])]);
    assert_eq!(stated("model.onnx"), []);
    assert_eq!(stated("labels.txt"), []);

    let stated = |hashes: &str| {
        let text = format!("{DETECTOR}{variants}source_sha256 = {hashes}\n");
        ModelManifest::parse(&text).map_err(|error| error.to_string())
    };
    let both = stated(&format!("[\"{head}\", \"{ranges}\"]")).unwrap();
    assert_eq!(
        both.variants["int8"].source_sha256,
        [&head[..], &ranges[..]]
    );
    let error = stated(&format!("[\"{head}\"]")).unwrap_err();
    assert!(
        error.contains("expected one per entry of `stages`, got 1"),
        "{error}"
    );
    let error = stated("[\"e3b0\", \"e3b0\"]").unwrap_err();
    assert!(
        error.contains("expected 64 hexadecimal digits, got e3b0"),
        "{error}"
    );

    let orphan = format!("{DETECTOR}[variants.a]\nranges_sha256 = \"{head}\"\n");
    let orphan = orphan + "resize = { mode = \"fixed\", width = 320, height = 320 }\n";
    let error = ModelManifest::parse(&orphan).unwrap_err().to_string();
    assert!(error.contains("expected none without `ranges`"), "{error}");
}
