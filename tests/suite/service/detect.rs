//! Checks `/v1/detect` and `sightline predict` with exported one-stage and two-stage detectors, and invalid requests.

use std::collections::BTreeSet;
use std::io::Cursor;
use std::path::Path;
use std::sync::LazyLock;

use crate::common::{self, Reply, Server, checkpoint, form, json_body, odd, photo, run};
use image::imageops::FilterType;
use image::{DynamicImage, ImageFormat, RgbImage};
use serde_json::{Value, json};

const ROUTE: &str = "/v1/detect";
const SSDLITE: &str = "ssdlite320_mobilenet_v3_large";
const FASTER_RCNN: &str = "fasterrcnn_mobilenet_v3_large_320_fpn";
const LABELS: [&str; 6] = ["__background__", "ant", "bee", "bumblebee", "fly", "wasp"];

fn detect(server: &Server, query: &str, image: &[u8]) -> Reply {
    let path = format!("{ROUTE}{query}");
    server.post(&path, "application/octet-stream", image)
}

/// Sends one image to `/v1/detect` and returns its entry in `results`.
fn result(server: &Server, query: &str, image: &[u8]) -> Value {
    detect(server, query, image).results().remove(0)
}

/// Sends one image to `/v1/detect` and returns its detections.
fn objects(server: &Server, query: &str, image: &[u8]) -> Vec<Value> {
    let result = result(server, query, image);
    result["detections"].as_array().unwrap().clone()
}

fn png(image: &RgbImage) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, ImageFormat::Png).unwrap();
    bytes.into_inner()
}

/// Returns a PNG file of the photograph `astronaut.png`, resized to `width` x `height` pixels
/// without keeping its aspect ratio.
fn stretched(width: u32, height: u32) -> Vec<u8> {
    static ASTRONAUT: LazyLock<DynamicImage> =
        LazyLock::new(|| image::load_from_memory(&photo("astronaut.png")).unwrap());
    let image = ASTRONAUT.resize_exact(width, height, FilterType::Nearest);
    png(&image.into_rgb8())
}

fn keys(value: &Value) -> BTreeSet<&str> {
    let keys = value.as_object().unwrap().keys();
    keys.map(String::as_str).collect()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

#[test]
fn detectors_return_boxes() {
    let directory = tempfile::tempdir().unwrap();
    checkpoint::export(SSDLITE, None, directory.path(), "coco");
    checkpoint::export(FASTER_RCNN, Some(&LABELS), directory.path(), "insects");
    let server = Server::start(&[
        "--models",
        directory.path().to_str().unwrap(),
        "--model",
        "coco,insects",
        "--max-batch-size",
        "8",
    ]);
    let image = photo("coffee_500x375.jpg");
    for model in ["coco", "insects"] {
        fields(&server, model, &image);
        thresholds(&server, model, &image);
        classes(&server, model, &image);
        several(&server, model);
        shapes(&server, model);
        orientation(&server, model);
        drawn(&server, model, &image);
    }
    // A request without a model name uses the first model of `--model`.
    assert_eq!(detect(&server, "", &image).json()["model"], "coco");
    rejected(&server, &image);
}

fn fields(server: &Server, model: &str, image: &[u8]) {
    let reply = detect(server, &format!("?model={model}"), image);
    assert!(reply.header("server-timing").contains("postprocess;dur="));
    let answer = reply.json();
    let names = BTreeSet::from(["model", "results", "timing_ms", "variant"]);
    assert_eq!(keys(&answer), names);
    assert_eq!(
        (&answer["model"], &answer["variant"]),
        (&json!(model), &json!("fp32"))
    );
    let result = &answer["results"][0];
    assert_eq!(
        keys(result),
        BTreeSet::from(["detections", "height", "width"])
    );
    assert_eq!(
        (&result["width"], &result["height"]),
        (&json!(500), &json!(375))
    );
    let shown = server.get(&format!("/v1/models/{model}")).json();
    assert_eq!(
        (&shown["task"], &shown["route"]),
        (&json!("detection"), &json!(ROUTE))
    );
    let detections = result["detections"].as_array().unwrap();
    assert!(!detections.is_empty(), "{model}");
    for detection in detections {
        let names = BTreeSet::from(["box", "class_id", "label", "score"]);
        assert_eq!(keys(detection), names);
        let id = detection["class_id"].as_u64().unwrap() as usize;
        assert!(id > 0, "class 0 is the background, not an object");
        assert_eq!(detection["label"], shown["labels"][id]);
        assert!((0.5..=1.0).contains(&number(&detection["score"])));
        let corners = &detection["box"];
        assert_eq!(keys(corners), BTreeSet::from(["x1", "x2", "y1", "y2"]));
        let [x1, y1, x2, y2] = ["x1", "y1", "x2", "y2"].map(|name| number(&corners[name]));
        assert!(0.0 <= x1 && x1 < x2 && x2 <= 500.001, "{corners}");
        assert!(0.0 <= y1 && y1 < y2 && y2 <= 375.001, "{corners}");
    }
    assert!(detections.is_sorted_by(|a, b| number(&a["score"]) >= number(&b["score"])));
}

/// Checks that `score_threshold` and `max_detections` in the query select from the detections of a
/// request without them, and that a higher `iou_threshold` keeps more detections.
fn thresholds(server: &Server, model: &str, image: &[u8]) {
    let ask = |query: &str| objects(server, &format!("?model={model}{query}"), image);
    // A score threshold of 0 keeps hundreds to thousands of detections; `all` has the best 400.
    let all = ask("&score_threshold=0&max_detections=400");
    assert!(all.len() > 100, "{model}: {}", all.len());
    for least in [0.2, 0.5, 1.0] {
        let over: Vec<&Value> = all
            .iter()
            .filter(|d| number(&d["score"]) >= least)
            .collect();
        let got = ask(&format!("&score_threshold={least}&max_detections=400"));
        assert_eq!(got.iter().collect::<Vec<_>>(), over, "{model} {least}");
    }
    for most in [1, 7] {
        let got = ask(&format!("&score_threshold=0&max_detections={most}"));
        assert_eq!(got, all[..most], "{model} {most}");
    }
    // A request without `max_detections` has the limit of the model's manifest: 300 for `coco`, 100
    // for `insects`.
    let own = if model == "coco" { 300 } else { 100 };
    assert_eq!(ask("&score_threshold=0"), all[..own.min(all.len())]);
    // With an IoU threshold of 0, NMS keeps only boxes that do not overlap; with 1, it keeps all
    // boxes.
    let count = |iou: &str| {
        let query = format!("&score_threshold=0.4&max_detections=1000{iou}");
        ask(&query).len()
    };
    let given = ["0", "0.3", "0.8", "1"].map(|iou| count(&format!("&iou_threshold={iou}")));
    let own = count("");
    assert!(given.is_sorted(), "{model}: {given:?}");
    assert!(given[0] < own && own < given[3], "{model}: {own} {given:?}");
}

fn classes(server: &Server, model: &str, image: &[u8]) {
    let path = format!("?model={model}&score_threshold=0.4&max_detections=1000");
    let all = objects(server, &path, image);
    let mut labels: Vec<&str> = all.iter().map(|d| d["label"].as_str().unwrap()).collect();
    labels.sort_unstable();
    labels.dedup();
    let labels: Vec<&str> = labels.into_iter().filter(|l| *l != "N/A").collect();
    for chosen in [&labels[..1], &labels[..2]] {
        let names = chosen.join(",%20").replace(' ', "%20");
        let got = objects(server, &format!("{path}&classes={names}"), image);
        let expected: Vec<&Value> = all
            .iter()
            .filter(|d| chosen.contains(&d["label"].as_str().unwrap()))
            .collect();
        assert!(!expected.is_empty());
        assert_eq!(got.iter().collect::<Vec<_>>(), expected, "{names}");
        // `max_detections` counts only detections of the requested classes.
        let first = objects(
            server,
            &format!("?model={model}&max_detections=1&score_threshold=0.4&classes={names}"),
            image,
        );
        assert_eq!(&first[0], expected[0]);
    }
    let none = format!("?model={model}&classes=__background__");
    assert_eq!(result(server, &none, image)["detections"], json!([]));
}

/// Checks that eight images of different sizes have the same results in three cases: each image in
/// its own request, all images in one request, and all requests at the same time.
fn several(server: &Server, model: &str) {
    let sizes = [
        (320, 240),
        (240, 320),
        (512, 512),
        (97, 300),
        (333, 222),
        (640, 480),
        (50, 49),
        (321, 241),
    ];
    let images = sizes.map(|(width, height)| stretched(width, height));
    let query = format!("?model={model}&score_threshold=0.1");
    let alone: Vec<Value> = images
        .iter()
        .map(|image| result(server, &query, image))
        .collect();
    for (result, (width, height)) in alone.iter().zip(sizes) {
        assert_eq!(
            (&result["width"], &result["height"]),
            (&json!(width), &json!(height))
        );
        assert!(!result["detections"].as_array().unwrap().is_empty());
    }
    let path = format!("{ROUTE}{query}");
    let parts: Vec<(&str, &[u8])> = images.iter().map(|p| ("image", p.as_slice())).collect();
    let (kind, body) = form(&parts);
    assert_eq!(server.post(&path, kind, &body).results(), alone);
    let bodies: Vec<&[u8]> = images.iter().map(Vec::as_slice).collect();
    let json = json_body(&bodies);
    assert_eq!(
        server.post(&path, "application/json", &json).results(),
        alone
    );
    std::thread::scope(|scope| {
        for (image, expected) in images.iter().zip(&alone) {
            let query = query.as_str();
            scope.spawn(move || assert_eq!(&result(server, query, image), expected));
        }
    });
    let sample = |name: &str| {
        let labels = format!("{{model=\"{model}\",variant=\"fp32\"}}");
        server.metric(&format!("sightline_batch_size_{name}{labels}"))
    };
    assert!(
        sample("count") < sample("sum"),
        "{model}: every batch had one image only"
    );
}

/// Checks that detected boxes lie within the image, for tiny images and extreme aspect ratios.
fn shapes(server: &Server, model: &str) {
    let query = format!("?model={model}&score_threshold=0");
    for (width, height) in [(1, 1), (1, 4000), (4000, 1), (3, 2), (1, 15)] {
        let answer = result(server, &query, &stretched(width, height));
        assert_eq!(
            (&answer["width"], &answer["height"]),
            (&json!(width), &json!(height)),
            "{model}"
        );
        for detection in answer["detections"].as_array().unwrap() {
            let right = number(&detection["box"]["x2"]);
            let lower = number(&detection["box"]["y2"]);
            assert!(right <= f64::from(width) * 1.0001, "{width}x{height}");
            assert!(lower <= f64::from(height) * 1.0001, "{width}x{height}");
        }
    }
    for (image, status, code) in [
        ("huge.png", 413, "too_many_pixels"),
        ("truncated.jpg", 422, "damaged_image"),
    ] {
        let reply = detect(server, &query, &odd(image));
        assert_eq!((reply.status, reply.code().as_str()), (status, code));
    }
}

/// Checks that boxes are in pixels of the upright image, to which the EXIF orientation is applied,
/// and with `orientation=ignore` in pixels of the image as stored.
fn orientation(server: &Server, model: &str) {
    let query = format!("?model={model}&score_threshold=0.1");
    let stored = image::load_from_memory(&odd("exif_6.png")).unwrap();
    let stored = stored.into_rgb8();
    let turned = image::imageops::rotate90(&stored);
    let shown = result(server, &query, &odd("exif_6.png"));
    assert_eq!(shown, result(server, &query, &png(&turned)), "{model}");
    let query = format!("{query}&orientation=ignore");
    let kept = result(server, &query, &odd("exif_6.png"));
    assert_eq!(kept, result(server, &query, &png(&stored)), "{model}");
    assert_ne!(shown, kept);
}

fn drawn(server: &Server, model: &str, image: &[u8]) {
    let path = format!("{ROUTE}?model={model}&annotate=true");
    let reply = server.post_accepting(&path, "image/png", image);
    assert_eq!(reply.header("content-type"), "image/png");
    assert!(reply.header("server-timing").contains("encode;dur="));
    let shown = image::load_from_memory(&reply.body).unwrap().into_rgb8();
    assert_eq!(shown.dimensions(), (500, 375));
    let nothing = format!("{path}&score_threshold=1");
    let bare = server.post_accepting(&nothing, "image/png", image);
    let bare = image::load_from_memory(&bare.body).unwrap().into_rgb8();
    assert_ne!(bare, shown);
    for style in ["palette=voc", "line_width=9", "labels=off", "labels=name"] {
        let styled = server.post_accepting(&format!("{path}&{style}"), "image/png", image);
        let styled = image::load_from_memory(&styled.body).unwrap().into_rgb8();
        assert_ne!(styled, shown, "{style}");
    }
    let jpeg = server.post_accepting(&path, "image/jpeg", image);
    assert_eq!(jpeg.header("content-type"), "image/jpeg");
    assert!(jpeg.body.starts_with(&[0xFF, 0xD8]));
    // Up to 300 boxes can be drawn into images of extreme aspect ratios.
    let all = format!("{path}&score_threshold=0&max_detections=300&iou_threshold=1");
    for (width, height) in [(1, 1), (4000, 1), (64, 48)] {
        let reply = server.post_accepting(&all, "image/png", &stretched(width, height));
        let shown = image::load_from_memory(&reply.body).unwrap();
        assert_eq!((shown.width(), shown.height()), (width, height));
    }
}

fn rejected_parameters(server: &Server, image: &[u8]) {
    for (query, field, expected) in [
        (
            "score_threshold=1.01",
            "score_threshold",
            "a number from 0 to 1",
        ),
        (
            "score_threshold=-0.1",
            "score_threshold",
            "a number from 0 to 1",
        ),
        (
            "score_threshold=nan",
            "score_threshold",
            "a number from 0 to 1",
        ),
        (
            "score_threshold=",
            "score_threshold",
            "a number from 0 to 1",
        ),
        ("iou_threshold=2", "iou_threshold", "a number from 0 to 1"),
        ("iou_threshold=inf", "iou_threshold", "a number from 0 to 1"),
        (
            "max_detections=0",
            "max_detections",
            "a whole number from 1 to 1000",
        ),
        (
            "max_detections=1.5",
            "max_detections",
            "a whole number from 1 to 1000",
        ),
        (
            "max_detections=1001",
            "max_detections",
            "a whole number from 1 to 1000",
        ),
        (
            "annotate=true&max_detections=301",
            "max_detections",
            "a whole number from 1 to 300",
        ),
        ("classes=", "classes", "labels of the model"),
        ("classes=unicorn", "classes", "labels of the model"),
        ("classes=person,unicorn", "classes", "labels of the model"),
        ("classes=person,", "classes", "labels of the model"),
        ("classes=N/A", "classes", "labels of the model"),
        ("classes=person&classes=dog", "classes", "one value"),
        ("annotate=yes", "annotate", "true or false"),
        (
            "annotate=true&palette=pink",
            "palette",
            "bright or voc or colorblind",
        ),
        (
            "annotate=true&line_width=0",
            "line_width",
            "a whole number from 1 to 100",
        ),
        (
            "annotate=true&labels=maybe",
            "labels",
            "off or name or score",
        ),
        (
            "labels=off",
            "labels",
            "no `labels` without `annotate=true`",
        ),
        (
            "mask=png",
            "mask",
            "model, orientation, decode, score_threshold",
        ),
    ] {
        let reply = detect(server, &format!("?{query}"), image);
        assert_eq!(
            (reply.status, reply.code().as_str()),
            (400, "bad_parameter"),
            "{query}"
        );
        let problem = reply.json();
        assert_eq!(problem["field"], field, "{query}");
        assert!(
            problem["expected"].as_str().unwrap().starts_with(expected),
            "{problem}"
        );
        assert!(!problem["got"].as_str().unwrap().is_empty(), "{problem}");
    }
}

fn rejected(server: &Server, image: &[u8]) {
    rejected_parameters(server, image);
    for (query, accept) in [
        ("", "text/html"),
        ("", "image/png"),
        ("?annotate=true", "application/json"),
    ] {
        let reply = server.post_accepting(&format!("{ROUTE}{query}"), accept, image);
        assert_eq!(
            (reply.status, reply.code().as_str()),
            (400, "bad_parameter")
        );
        assert_eq!(reply.json()["field"], "accept");
    }
    let (kind, body) = form(&[("image", image), ("image", image)]);
    let reply = server.post(&format!("{ROUTE}?annotate=true"), kind, &body);
    assert_eq!(
        (reply.status, reply.code().as_str()),
        (400, "bad_parameter")
    );
    for (path, status, code) in [
        ("/v1/classify?model=coco", 404, "wrong_task"),
        ("/v1/segment?model=insects", 404, "wrong_task"),
        ("/v1/segment", 404, "no_model"),
        ("/v1/detect?model=birds", 404, "unknown_model"),
        ("/v1/detect?model=coco@320", 404, "unknown_model"),
    ] {
        let reply = server.post(path, "image/jpeg", image);
        assert_eq!(
            (reply.status, reply.code().as_str()),
            (status, code),
            "{path}"
        );
    }
}

#[test]
fn without_a_detector_the_response_names_the_command() {
    let server = Server::start(&[]);
    let reply = detect(&server, "?score_threshold=7", &photo("chelsea.png"));
    assert_eq!((reply.status, reply.code().as_str()), (404, "no_model"));
    let detail = reply.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("sightline "), "{detail}");
    let reply = detect(&server, "?model=efficientnet_lite0", &photo("chelsea.png"));
    assert_eq!((reply.status, reply.code().as_str()), (404, "wrong_task"));
}

/// Runs `sightline predict --model MODEL --json MORE...` on a photograph and returns the parsed
/// output.
fn predicted(model: &str, more: &[&str]) -> Value {
    let coffee = common::path("photos/coffee_500x375.jpg");
    let mut args = vec!["predict", "--model", model, "--json"];
    args.extend(more);
    args.push(coffee.to_str().unwrap());
    let (code, stdout, stderr) = run(&args);
    assert_eq!(code, Some(0), "{stderr}");
    serde_json::from_str(&stdout).unwrap()
}

/// Writes a copy of a manifest, with the model name `name` and the changes of `edit`, as
/// `name.toml` into the folder of the manifest. Returns the path of the copy.
fn changed(manifest: &Path, name: &str, edit: impl Fn(&mut toml::Table)) -> String {
    let text = std::fs::read_to_string(manifest).unwrap();
    let mut table: toml::Table = text.parse().unwrap();
    table.insert("name".to_owned(), name.into());
    edit(&mut table);
    let path = manifest.with_file_name(format!("{name}.toml"));
    std::fs::write(&path, table.to_string()).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_detector_of_two_stages_is_two_files_and_a_manifest() {
    let directory = tempfile::tempdir().unwrap();
    checkpoint::export(FASTER_RCNN, Some(&LABELS), directory.path(), "insects");
    let folder = directory.path().join("insects");
    for file in ["model.onnx", "model.box_head.onnx", "labels.txt"] {
        assert!(folder.join(file).is_file(), "{file}");
    }
    let manifest = folder.join("model.toml");
    let text = std::fs::read_to_string(&manifest).unwrap();
    assert!(
        text.contains("role = \"box_head\"\nfile = \"model.box_head.onnx\""),
        "{text}"
    );
    on_the_command_line(directory.path(), manifest.to_str().unwrap());
    proposals(&manifest);
    variant_of_two_files(&manifest);
    wrong_manifests(&manifest);
}

fn on_the_command_line(directory: &Path, model: &str) {
    let out = directory.join("drawn");
    let line = predicted(model, &["--annotate", out.to_str().unwrap()]);
    assert_eq!(
        (&line["width"], &line["height"]),
        (&json!(500), &json!(375))
    );
    let detections = line["detections"].as_array().unwrap();
    let corners = keys(&detections[0]["box"]);
    assert_eq!(corners, BTreeSet::from(["x1", "x2", "y1", "y2"]));
    let drawn = image::open(out.join("coffee_500x375.png")).unwrap();
    assert_eq!((drawn.width(), drawn.height()), (500, 375));
    let all = predicted(model, &["--score-threshold", "0"]);
    assert!(all["detections"].as_array().unwrap().len() > detections.len());
    let image = common::path("photos/coffee_500x375.jpg");
    let args = ["predict", "--model", model, "--score-threshold", "1.5"];
    let (code, _, stderr) = run(&[&args[..], &[image.to_str().unwrap()]].concat());
    assert_eq!(code, Some(1));
    assert!(stderr.contains("expected 0 to 1, got 1.5"), "{stderr}");
}

/// Checks `sightline predict` with two manifests: a score threshold that leaves no region
/// proposals, and limits that allow thousands of region proposals.
fn proposals(manifest: &Path) {
    let rpn = |table: &mut toml::Table, values: &[(&str, toml::Value)]| {
        let detection = table["detection"].as_table_mut().unwrap();
        let rpn = detection["rpn"].as_table_mut().unwrap();
        for (key, value) in values {
            rpn.insert((*key).to_owned(), value.clone());
        }
    };
    let none = changed(manifest, "none", |table| {
        rpn(table, &[("score_threshold", 1.0.into())]);
    });
    let line = predicted(&none, &["--score-threshold", "0"]);
    assert_eq!(line["detections"], json!([]));
    let many = changed(manifest, "many", |table| {
        let counts = [
            ("pre_nms_top_n", 4000.into()),
            ("post_nms_top_n", 2500.into()),
            ("iou_threshold", 1.0.into()),
            ("score_threshold", 0.0.into()),
        ];
        rpn(table, &counts);
        let detection = table["detection"].as_table_mut().unwrap();
        detection.insert("score_threshold".to_owned(), 0.0.into());
        detection.insert("iou_threshold".to_owned(), 1.0.into());
        detection.insert("max_detections".to_owned(), 100_000.into());
        let batching = toml::Table::from_iter([("max_batch_size".to_owned(), 1.into())]);
        table.insert("batching".to_owned(), batching.into());
    });
    let line = predicted(&many, &["--score-threshold", "0"]);
    // With IoU thresholds of 1, NMS removes nothing, so each of the 2500 proposals yields one box
    // per class, except boxes that are clipped to an empty area.
    let count = line["detections"].as_array().unwrap().len();
    assert!((5000..=12_500).contains(&count), "{count}");
}

/// Checks that a variant of a two-stage detector is read from the variant's two files instead of the model's.
fn variant_of_two_files(manifest: &Path) {
    let at = |name: &str| manifest.with_file_name(name);
    let files = [("network", "int8.onnx"), ("box_head", "int8.head.onnx")];
    let both = changed(manifest, "both", |table| {
        let mut int8 = toml::Table::from_iter([("precision".to_owned(), "int8".into())]);
        let stages = files.map(|(role, file)| {
            let fields = [("role", role), ("file", file)];
            toml::Table::from_iter(fields.map(|(key, value)| (key.to_owned(), value.into())))
        });
        int8.insert("stages".to_owned(), stages.to_vec().into());
        let variants = toml::Table::from_iter([("int8".to_owned(), int8.into())]);
        table.insert("variants".to_owned(), variants.into());
    });
    std::fs::copy(at("model.onnx"), at("int8.onnx")).unwrap();
    std::fs::copy(at("model.box_head.onnx"), at("int8.head.onnx")).unwrap();
    let int8 = format!("{both}@int8");
    let detections = |model: &str| predicted(model, &[])["detections"].clone();
    assert_eq!(detections(&int8), detections(&both));
    let image = common::path("photos/coffee_500x375.jpg");
    // The file of the stage `network` is read first and therefore removed last, so that each error
    // names the file that was removed just before.
    for (_, file) in files.iter().rev() {
        std::fs::remove_file(at(file)).unwrap();
        let (code, _, stderr) = run(&["predict", "--model", &int8, image.to_str().unwrap()]);
        assert_eq!(code, Some(1), "{stderr}");
        let told = stderr.contains("model `both@int8`: cannot read") && stderr.contains(file);
        assert!(told, "{file}: {stderr}");
    }
}

/// Checks that the server does not start with an invalid manifest, and the error message for each.
fn wrong_manifests(manifest: &Path) {
    // Writes a copy of the manifest in which stage `index` has the file `file`.
    let stage = |name: &str, index: usize, file: &str| {
        changed(manifest, name, |table| {
            let stage = table["stages"][index].as_table_mut().unwrap();
            stage.insert("file".to_owned(), file.into());
            stage.remove("sha256");
        })
    };
    let absent = changed(manifest, "absent", |table| {
        table["stages"].as_array_mut().unwrap().truncate(1);
    });
    let short = changed(manifest, "short", |table| {
        table.insert("labels".to_owned(), "short.txt".into());
    });
    let labels = manifest.with_file_name("short.txt");
    std::fs::write(&labels, "one\ntwo\nthree\n").unwrap();
    let more = changed(manifest, "more", |table| {
        let architecture = table["architecture"].as_table_mut().unwrap();
        architecture.insert("num_classes".to_owned(), 3.into());
        table.insert("labels".to_owned(), "short.txt".into());
    });
    for (model, message) in [
        (
            absent,
            "`stages`: expected the roles network, box_head in this order, got network",
        ),
        (stage("gone", 1, "gone.onnx"), "cannot read"),
        (stage("outside", 1, "../model.onnx"), "`stages.file`"),
        (
            stage("first", 1, "model.onnx"),
            "the model's box head is not supported: expected",
        ),
        (stage("text", 1, "labels.txt"), "not an ONNX file"),
        (
            stage("swapped", 0, "model.box_head.onnx"),
            "the network must have one input, a batch of images",
        ),
        (
            short,
            "the number of lines in the label file must be 6, got 3",
        ),
        (
            more,
            "the number of classes in the model's outputs must be 3, got 6",
        ),
    ] {
        let (code, stdout, stderr) = run(&["serve", "--listen", "127.0.0.1:0", "--model", &model]);
        // A manifest that cannot be used is a fault of the configuration; a network, of the model.
        assert!(matches!(code, Some(1 | 64)), "{model}: {stdout}{stderr}");
        assert!(stderr.contains(message), "{model}: {stderr}");
    }
}
