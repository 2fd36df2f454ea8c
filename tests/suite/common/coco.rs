//! Detects objects in COCO photographs through the server, and converts them to COCO's result format.

use serde::Deserialize;
use serde_json::{Value, json};

use super::Server;

/// One detection from a response of `/v1/detect`; `corners` are x1, y1, x2, y2 in pixels of the
/// image.
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

/// Returns the detections of `model` in a JPEG photograph, with a score threshold of 0. The EXIF
/// orientation is ignored, because the expected detections were computed without applying it.
pub fn detect(server: &Server, model: &str, photograph: &[u8]) -> Vec<Object> {
    detect_with(server, model, "", photograph)
}

/// Returns the detections as [`detect`] does, with the further query parameters `query`.
pub fn detect_with(server: &Server, model: &str, query: &str, photograph: &[u8]) -> Vec<Object> {
    let path = format!("/v1/detect?score_threshold=0&orientation=ignore&model={model}{query}");
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

/// Returns `object` in COCO's result format. `file` is the file name of the photograph, `ID.jpg`
/// with COCO's image id.
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
