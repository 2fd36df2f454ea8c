//! Detections of the shared COCO photographs, through HTTP and to pycocotools.

use std::path::Path;
use std::process::Command;

use serde::Deserialize;
use serde_json::{Value, json};

use super::Server;

/// One object in a picture.
#[derive(Debug, Clone, Copy)]
pub struct Object {
    pub class_id: u64,
    pub score: f32,
    pub corners: [f32; 4],
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

/// All that `model` answers with. torchvision looked at the pixels as they are stored.
pub fn detect(server: &Server, model: &str, photograph: &[u8]) -> Vec<Object> {
    let path = format!("/v1/detect?score_threshold=0&orientation=ignore&model={model}");
    let reply = server.post(&path, "image/jpeg", photograph);
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

/// An object in COCO's words: the number of its picture is the name of the file.
pub fn coco(file: &str, object: &Object) -> Value {
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
pub fn average_precision(instances: &Path, detections: &[Value]) -> Option<f64> {
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
