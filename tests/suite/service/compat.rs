//! The contracts of `DeepStack` and `TorchServe`, as their clients use them.

use std::process::Command;

use crate::common::{self, Server, checkpoint, form, photo, tiny};
use serde_json::{Value, json};

const DETECTION: &str = "/v1/vision/detection";

/// Names and contents of the parts of a form.
type Parts<'a> = &'a [(&'a str, &'a [u8])];

/// Starts a server with a detector and a classifier, and with the routes of both servers.
fn start(models: &tempfile::TempDir) -> Server {
    checkpoint::export("ssdlite320_mobilenet_v3_large", None, models.path(), "coco");
    tiny::export(&models.path().join("tiny"));
    Server::start(&[
        "--models",
        models.path().to_str().unwrap(),
        "--compat",
        "deepstack,torchserve",
    ])
}

#[test]
fn clients_of_servers_that_are_gone_work_unchanged() {
    let models = tempfile::tempdir().unwrap();
    let server = start(&models);
    let image = photo("coffee_500x375.jpg");
    frigate(&server, &image);
    deepstack_errors(&server, &image);
    torchserve(&server, &image);
    curl(&server);
    let other = Server::start(&["--models", models.path().to_str().unwrap()]);
    for path in [DETECTION, "/predictions/tiny", "/ping"] {
        assert_eq!(other.request("POST", path).status, 404, "{path}");
    }
}

/// Reads the answer as Frigate's client does: it stops at the first confidence below 0.4.
fn frigate(server: &Server, image: &[u8]) {
    let (kind, body) = form(&[("api_key", b"unused"), ("image", image)]);
    let reply = server.post(DETECTION, kind, &body);
    assert_eq!(reply.status, 200, "{reply:?}");
    let answer = reply.json();
    assert_eq!(answer["success"], true);
    let all = answer["predictions"].as_array().unwrap();
    assert!(all.iter().all(|p| p["confidence"].as_f64().unwrap() >= 0.4));
    let (kind, body) = form(&[("image", image), ("min_confidence", b"0.01")]);
    let answer = server.post(DETECTION, kind, &body).json();
    let predictions = answer["predictions"].as_array().unwrap();
    assert!(!predictions.is_empty() && predictions.len() >= all.len());
    let mut last = 1.0;
    for prediction in predictions {
        let confidence = prediction["confidence"].as_f64().unwrap();
        assert!((0.01..=last).contains(&confidence));
        last = confidence;
        assert!(prediction["label"].is_string());
        let corner = |name: &str| prediction[name].as_u64().unwrap();
        assert!(corner("x_min") <= corner("x_max") && corner("x_max") <= 500);
        assert!(corner("y_min") <= corner("y_max") && corner("y_max") <= 375);
    }
}

fn deepstack_errors(server: &Server, image: &[u8]) {
    let cases: [(Parts<'_>, u16); 5] = [
        (&[("image", b"no image")], 415),
        (&[("image", image), ("image", image)], 413),
        (&[("photo", image)], 400),
        (&[("image", image), ("min_confidence", b"high")], 400),
        (&[("min_confidence", b"0.5")], 400),
    ];
    for (parts, status) in cases {
        let (kind, body) = form(parts);
        let reply = server.post(DETECTION, kind, &body);
        assert_eq!(reply.status, status, "{reply:?}");
        assert_eq!(reply.header("content-type"), "application/json");
        let answer = reply.json();
        assert_eq!(
            (&answer["success"], &answer["code"]),
            (&json!(false), &json!(status))
        );
        assert!(answer["error"].is_string());
    }
}

fn torchserve(server: &Server, image: &[u8]) {
    assert_eq!(server.get("/ping").json(), json!({ "status": "Healthy" }));
    let reply = server.post("/predictions/tiny", "application/octet-stream", image);
    let scores = reply.json();
    let scores = scores.as_object().unwrap();
    assert_eq!(scores.len(), 5, "{scores:?}");
    let (kind, body) = form(&[("data", image)]);
    assert_eq!(
        server
            .post("/predictions/tiny", kind, &body)
            .json()
            .as_object()
            .unwrap(),
        scores
    );
    let boxes = server.post("/predictions/coco", "image/jpeg", image).json();
    for detection in boxes.as_array().unwrap() {
        let detection = detection.as_object().unwrap();
        assert_eq!(detection.len(), 2);
        assert!(detection["score"].as_f64().unwrap() >= 0.5);
        assert!(
            detection
                .values()
                .any(|value| value.as_array().is_some_and(|b| b.len() == 4))
        );
    }
    let unknown = server.post("/predictions/nothing", "image/jpeg", image);
    assert_eq!(unknown.status, 404);
    assert_eq!(unknown.json()["code"], 404);
    assert!(
        unknown.json()["message"]
            .as_str()
            .unwrap()
            .contains("not served")
    );
}

/// Runs the examples of `TorchServe`'s documentation: `-T FILE`, which is a PUT, and a form.
fn curl(server: &Server) {
    let photo = common::path("photos/coffee_500x375.jpg");
    let photo = photo.to_str().unwrap();
    let url = server.url("/predictions/tiny");
    let form = format!("data=@{photo}");
    for arguments in [&["-T", photo][..], &["-X", "POST", "-F", &form]] {
        let run = Command::new("curl")
            .arg("-sS")
            .arg(&url)
            .args(arguments)
            .output();
        let Ok(output) = run else {
            return;
        };
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(answer.as_object().unwrap().len(), 5, "{answer}");
    }
}
