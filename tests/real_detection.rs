//! Real detection weights on real photographs, through HTTP, against torchvision's own answers.
//!
//! The weights and photographs are not ours to publish: the test says that it was skipped where
//! they are not beside this checkout (`../shared/real`, or `SIGHTLINE_TEST_SHARED`).

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "the figures and a panic are a test's report"
)]

mod common;
mod reference;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use common::Server;
use reference::{iou, matched};
use serde::Deserialize;
use serde_json::{Value, json};

const NETWORK: &str = "ssdlite320_mobilenet_v3_large";
/// Scores of torchvision's that must be found again.
const SURE: f32 = 0.3;

/// One object in a picture.
#[derive(Debug, Clone, Copy)]
struct Object {
    class_id: u64,
    score: f32,
    corners: [f32; 4],
}

#[derive(Deserialize)]
struct Answered {
    class_id: u64,
    score: f32,
    r#box: Corners,
}

#[derive(Deserialize)]
struct Corners {
    x1: f32,
    y1: f32,
    x2: f32,
    y2: f32,
}

#[derive(Deserialize)]
struct Expected {
    class_id: u64,
    score: f32,
    r#box: [f32; 4],
}

/// A server of the checkpoint, and the folder that it keeps its model in.
fn server(folder: &Path) -> (Server, tempfile::TempDir) {
    let models = tempfile::tempdir().unwrap();
    let weights = folder.join(format!("weights/{NETWORK}.pth"));
    let out = models.path().join(NETWORK);
    let (code, _, error) = common::run(&[
        "export".as_ref(),
        NETWORK.as_ref(),
        "--weights".as_ref(),
        weights.as_os_str(),
        "-o".as_ref(),
        out.as_os_str(),
    ]);
    assert_eq!(code, Some(0), "{error}");
    let server = Server::start(&["--models", models.path().to_str().unwrap()]);
    (server, models)
}

/// All that the model itself answers with. torchvision looked at the pixels as they are stored.
fn detect(server: &Server, photograph: &[u8]) -> Vec<Object> {
    let path = "/v1/detect?score_threshold=0&orientation=ignore";
    let reply = server.post(path, "image/jpeg", photograph);
    let result = reply.results().remove(0);
    let answered: Vec<Answered> = serde_json::from_value(result["detections"].clone()).unwrap();
    let object = |answered: Answered| {
        let Corners { x1, y1, x2, y2 } = answered.r#box;
        Object {
            class_id: answered.class_id,
            score: answered.score,
            corners: [x1, y1, x2, y2],
        }
    };
    answered.into_iter().map(object).collect()
}

/// torchvision's sure objects.
fn sure(expected: Vec<Expected>) -> Vec<Object> {
    let object = |expected: Expected| Object {
        class_id: expected.class_id,
        score: expected.score,
        corners: expected.r#box,
    };
    let objects = expected.into_iter().map(object);
    objects.filter(|object| object.score > SURE).collect()
}

/// An object in COCO's words: the number of its picture is the name of the file.
fn coco(file: &str, object: &Object) -> Value {
    let image: u64 = file.strip_suffix(".jpg").unwrap().parse().unwrap();
    let [x1, y1, x2, y2] = object.corners;
    json!({
        "image_id": image,
        "category_id": object.class_id,
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "score": object.score,
    })
}

/// Average precision by pycocotools, where a Python has it: `SIGHTLINE_TEST_PYTHON`, else `python3`.
fn average_precision(instances: &Path, detections: &[Value]) -> Option<f64> {
    let python = std::env::var("SIGHTLINE_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), serde_json::to_vec(detections).unwrap()).unwrap();
    let run = Command::new(&python)
        .arg("tests/reference/coco_ap.py")
        .args([instances, file.path()])
        .output();
    let Some(output) = run.ok().filter(|output| output.status.success()) else {
        eprintln!("SKIPPED the average precision: {python} has no pycocotools");
        return None;
    };
    let figures: Vec<f64> = serde_json::from_slice(&output.stdout).unwrap();
    Some(figures[0])
}

#[test]
fn ssdlite_answers_as_in_torchvision() {
    let Some(folder) = reference::real_data("ssdlite_answers_as_in_torchvision") else {
        return;
    };
    let text = std::fs::read_to_string(folder.join("torchvision.json")).unwrap();
    let answers: Value = serde_json::from_str(&text).unwrap();
    let answers = &answers[NETWORK];
    let expected: BTreeMap<String, Vec<Expected>> =
        serde_json::from_value(answers["detections_by_file"].clone()).unwrap();
    assert_eq!(expected.len(), 64);
    let (server, _models) = server(&folder);
    let (mut found, mut all, mut written) = (0, 0, Vec::new());
    for (file, expected) in expected {
        let photograph = std::fs::read(folder.join("coco/images").join(&file)).unwrap();
        let got = detect(&server, &photograph);
        let sure = sure(expected);
        all += sure.len();
        found += matched(&got, &sure, |a, b| {
            a.class_id == b.class_id
                && iou(a.corners, b.corners) > 0.98
                && (a.score - b.score).abs() < 0.02
        });
        written.extend(got.iter().map(|object| coco(&file, object)));
    }
    println!("{NETWORK}: {found} of torchvision's {all} detections above {SURE}");
    assert!(all > 100 && found * 100 >= 98 * all, "{found} of {all}");
    let instances = folder.join("coco/instances.json");
    if let Some(precision) = average_precision(&instances, &written) {
        let published = answers["AP"].as_f64().unwrap();
        println!("{NETWORK}: AP {precision:.4}, torchvision's {published:.4}");
        assert!((precision - published).abs() < 0.003, "{precision}");
    }
}
