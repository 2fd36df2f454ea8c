//! Tests a running server: classification responses, headers, the routes for models and health, and metrics.

use std::io::Cursor;

use crate::common::{self, Reply, Server, form, json_body, odd, photo};
use image::ImageFormat;
use serde_json::{Map, Value};

const STAGES: [&str; 6] = [
    "decode",
    "preprocess",
    "queue",
    "inference",
    "postprocess",
    "encode",
];

fn is_cat(label: &str) -> bool {
    ["tabby", "tiger cat", "Egyptian cat"]
        .iter()
        .any(|cat| label.starts_with(cat))
}

/// Returns the keys of `object` in the order in which they occur in the JSON `text` of the
/// response. `Value` sorts its keys, so that `object` alone does not show the order.
fn keys_in_order<'a>(text: &str, object: &'a Map<String, Value>) -> Vec<&'a str> {
    let mut keys: Vec<&str> = object.keys().map(String::as_str).collect();
    keys.sort_by_key(|key| text.find(&format!("\"{key}\":")));
    keys
}

#[test]
fn classification_responses() {
    let server = Server::start(&[]);
    let (chelsea, coffee) = (photo("chelsea.png"), photo("coffee.png"));
    let jpeg = photo("coffee_500x375.jpg");

    // A raw body may have any image content type or none, since the format is detected from the bytes.
    let single = server.post("/v1/classify", "image/png", &chelsea);
    assert!(is_cat(&single.labels()[0]), "{}", single.text());
    assert_eq!(single.header("content-type"), "application/json");
    check_response(&single);
    for kind in ["image/jpeg", "IMAGE/PNG; q=1", "application/octet-stream"] {
        let reply = server.post("/v1/classify", kind, &coffee);
        assert_eq!(reply.labels(), ["espresso"], "{kind}");
    }
    let untyped = common::agent()
        .post(server.url("/v1/classify"))
        .header("content-type", "")
        .send(&coffee[..]);
    assert_eq!(untyped.unwrap().status(), 200);

    // A request with several images returns one result per image, in order and equal to the result
    // of a request with that image alone.
    let alone: Vec<Value> = [&chelsea, &coffee, &jpeg]
        .iter()
        .flat_map(|bytes| server.classify("", bytes).results())
        .collect();
    let parts: [&[u8]; 3] = [&chelsea, &coffee, &jpeg];
    let (kind, body) = form(&parts.map(|bytes| ("image", bytes)));
    let forms = server.post("/v1/classify", kind, &body).results();
    let json = server.post("/v1/classify", "application/json", &json_body(&parts));
    assert_eq!(forms.len(), 3);
    for together in [forms, json.results()] {
        for (together, alone) in together.iter().zip(&alone) {
            same_predictions(together, alone);
        }
    }
    let (kind, body) = form(&[("image", &jpeg)]);
    same_predictions(
        &server.post("/v1/classify", kind, &body).results()[0],
        &alone[2],
    );
    let mut data_url = json_body(&[&chelsea]);
    let at = data_url
        .windows(8)
        .position(|w| w == b"\"data\":\"")
        .unwrap()
        + 8;
    data_url.splice(at..at, *b"data:image/png;base64,");
    let reply = server.post("/v1/classify", "application/json; charset=utf-8", &data_url);
    same_predictions(&reply.results()[0], &alone[0]);

    parameters(&server, &chelsea);
    orientation(&server);
}

/// Checks a classification response: the names and order of its fields, that scores descend, and
/// the timing in the body (`timing_ms`) and in the header `server-timing`.
fn check_response(reply: &Reply) {
    let (text, answer) = (reply.text(), reply.json());
    let keys = keys_in_order(&text, answer.as_object().unwrap());
    assert_eq!(keys, ["model", "variant", "results", "timing_ms"]);
    assert_eq!(answer["model"], "efficientnet_lite0");
    assert_eq!(answer["variant"], "fp32");
    let timing = answer["timing_ms"].as_object().unwrap();
    assert_eq!(
        keys_in_order(&text[text.find("timing_ms").unwrap()..], timing),
        STAGES[..5]
    );
    assert!(timing.values().all(|ms| ms.as_f64().unwrap() >= 0.0));
    assert!(timing["inference"].as_f64().unwrap() > 0.0);
    let predictions = answer["results"][0]["predictions"].as_array().unwrap();
    assert_eq!(predictions.len(), 5);
    let score = |p: &Value| p["score"].as_f64().unwrap();
    assert!(predictions.windows(2).all(|w| score(&w[0]) >= score(&w[1])));
    let first = predictions[0].as_object().unwrap();
    assert_eq!(keys_in_order(&text, first), ["class_id", "label", "score"]);

    let timing = reply.header("server-timing");
    let names: Vec<&str> = timing
        .split(", ")
        .map(|entry| entry.split_once(";dur=").unwrap().0)
        .collect();
    assert_eq!(names[..2], ["admission", "receive"], "{timing}");
    assert_eq!(names[2..8], STAGES, "{timing}");
    assert_eq!(names[8], "total");
}

fn same_predictions(a: &Value, b: &Value) {
    let list = |v: &Value| v["predictions"].as_array().unwrap().clone();
    assert_eq!(list(a).len(), list(b).len());
    for (a, b) in list(a).iter().zip(&list(b)) {
        assert_eq!((&a["class_id"], &a["label"]), (&b["class_id"], &b["label"]));
        let difference = a["score"].as_f64().unwrap() - b["score"].as_f64().unwrap();
        assert!(difference.abs() < 1e-5, "{a} {b}");
    }
}

fn parameters(server: &Server, image: &[u8]) {
    for (query, expected) in [
        ("?top_k=1", 1),
        ("?top_k=10", 10),
        ("?top_k=1000", 1000),
        ("?top_k=100000", 1000),
        ("?model=efficientnet_lite0", 5),
        ("?model=efficientnet_lite0@fp32&top_k=2", 2),
        ("?model=efficientnet_lite0%40fp32&orientation=apply", 5),
        ("?", 5),
    ] {
        let results = server.classify(query, image).results();
        let predictions = results[0]["predictions"].as_array().unwrap();
        assert_eq!(predictions.len(), expected, "{query}");
    }
    let all = server.classify("?top_k=1000", image).results();
    let predictions = all[0]["predictions"].as_array().unwrap();
    let sum: f64 = predictions
        .iter()
        .map(|p| p["score"].as_f64().unwrap())
        .sum();
    assert!((sum - 1.0).abs() < 1e-4, "{sum}");
}

/// Checks that an image with an EXIF orientation is classified like the upright image, and with
/// `orientation=ignore` like the image as stored.
fn orientation(server: &Server) {
    let stored = image::load_from_memory(&odd("rgb.png")).unwrap();
    let as_stored = server.classify("", &odd("rgb.png")).results();
    for (name, upright) in [
        ("exif_6.png", stored.rotate90()),
        ("exif_8.webp", stored.rotate270()),
    ] {
        let mut png = Cursor::new(Vec::new());
        upright.write_to(&mut png, ImageFormat::Png).unwrap();
        let upright = server.classify("", png.get_ref()).results();
        let image = odd(name);
        for query in ["", "?orientation=apply"] {
            same_predictions(&server.classify(query, &image).results()[0], &upright[0]);
        }
        let ignored = server.classify("?orientation=ignore", &image).results();
        same_predictions(&ignored[0], &as_stored[0]);
        assert_ne!(upright[0], as_stored[0]);
    }
}

#[test]
fn models_health_headers_and_metrics() {
    let server = Server::start(&[]);

    let list = server.get("/v1/models");
    let models = list.json()["models"].as_array().unwrap().clone();
    let precisions: Vec<_> = models.iter().map(|model| &model["precision"]).collect();
    assert_eq!(precisions, ["fp32", "int8"]);
    let (text, model) = (list.text(), models[0].as_object().unwrap());
    let names = [
        "name",
        "variant",
        "task",
        "route",
        "default",
        "description",
        "precision",
        "state",
        "ready",
        "unready_reason",
        "error",
        "memory_bytes",
        "input",
        "num_classes",
        "activation",
        "embedding_dimensions",
        "batching",
        "code_license",
        "provenance",
        "certificate",
    ];
    assert_eq!(keys_in_order(&text, model), names);
    for name in ["efficientnet_lite0", "efficientnet_lite0@fp32"] {
        let shown = server.get(&format!("/v1/models/{name}")).json();
        let labels = shown["labels"].as_array().unwrap();
        assert_eq!(labels.len(), 1000);
        assert_eq!(labels[967], "espresso");
        for name in names {
            assert_eq!(shown[name], model[name], "{name}");
        }
    }
    assert_eq!(model["route"], "/v1/classify");
    assert_eq!(model["input"]["preprocess"]["crop"], 224);
    assert_eq!(model["code_license"], "Apache-2.0");
    assert_eq!(model["provenance"]["parameters"], 4_652_008);
    assert_eq!(model["provenance"]["license"], "Apache-2.0");

    assert_eq!(server.get("/health/live").json()["status"], "live");
    assert_eq!(server.get("/health/ready").json()["status"], "ready");
    assert!(server.get("/").text().contains("/v1/classify"));

    unknown_routes(&server);
    request_ids(&server);
    metrics(&server);
}

fn unknown_routes(server: &Server) {
    for (method, path, status, code) in [
        ("GET", "/nowhere", 404, "no_route"),
        ("GET", "/v1/classify/", 404, "no_route"),
        ("GET", "/v1/models/resnet19", 404, "unknown_model"),
        (
            "GET",
            "/v1/models/efficientnet_lite0@int4",
            404,
            "unknown_model",
        ),
        ("GET", "/v1/models/%FF", 400, "bad_parameter"),
        ("GET", "/v1/classify", 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
        ("POST", "/metrics", 405, "method_not_allowed"),
    ] {
        let reply = server.request(method, path);
        assert_eq!(
            (reply.status, reply.code().as_str()),
            (status, code),
            "{method} {path}"
        );
        assert_eq!(
            reply.header("allow").is_empty(),
            status != 405,
            "{method} {path}"
        );
    }
    let head = server.request("HEAD", "/health/live");
    assert_eq!((head.status, head.body.len()), (200, 0));
}

fn request_ids(server: &Server) {
    let with_id = |id: &str| {
        let request = common::agent()
            .get(server.url("/health/live"))
            .header("x-request-id", id);
        let response = request.call().unwrap();
        response.headers()["x-request-id"]
            .to_str()
            .unwrap()
            .to_owned()
    };
    let longest = "x".repeat(128);
    for own in ["abc-123", "7", &longest] {
        assert_eq!(with_id(own), own);
    }
    for unusable in ["two words", "", &"x".repeat(129)] {
        let id = with_id(unusable);
        assert!(id.len() == 36 && id != unusable, "{id}");
    }
    let generated = |path| server.get(path).header("x-request-id").to_owned();
    assert_ne!(generated("/health/live"), generated("/health/live"));
    assert!(!generated("/nowhere").is_empty());
    assert!(
        server
            .get("/nowhere")
            .header("server-timing")
            .starts_with("total;dur=")
    );
}

fn metrics(server: &Server) {
    let labels = r#"model="efficientnet_lite0",variant="fp32""#;
    let ok = format!(r#"sightline_requests_total{{route="/v1/classify",status="200",{labels}}}"#);
    let bad = r#"sightline_requests_total{route="/v1/classify",status="415",model="efficientnet_lite0",variant="fp32"}"#;
    let coffee = photo("coffee_500x375.jpg");
    server.classify("", &coffee);
    let (kind, body) = form(&[("image", &coffee), ("image", &coffee)]);
    server.post("/v1/classify", kind, &body);
    server.classify("", b"no image");

    assert_eq!(server.metric(&ok), 2.0);
    assert_eq!(server.metric(bad), 1.0);
    assert_eq!(
        server.metric(&format!("sightline_images_total{{{labels}}}")),
        3.0
    );
    let counted = format!(r#"_count{{route="/v1/classify",{labels}}}"#);
    assert_eq!(
        server.metric(&format!("sightline_request_duration_seconds{counted}")),
        3.0
    );
    for (stage, count) in STAGES.iter().zip([3.0, 3.0, 3.0, 3.0, 3.0, 2.0]) {
        let sample =
            format!(r#"sightline_stage_duration_seconds_count{{stage="{stage}",{labels}}}"#);
        assert_eq!(server.metric(&sample), count, "{stage}");
    }
    assert_eq!(
        server.metric(&format!("sightline_batch_size_sum{{{labels}}}")),
        3.0
    );
    let batches: f64 = ["full", "worker_free", "size", "delay"]
        .iter()
        .map(|why| {
            server.metric(&format!(
                r#"sightline_batches_total{{reason="{why}",{labels}}}"#
            ))
        })
        .sum();
    assert_eq!(
        batches,
        server.metric(&format!("sightline_batch_size_count{{{labels}}}"))
    );
    assert_eq!(
        server.metric(&format!("sightline_queue_depth{{{labels}}}")),
        0.0
    );
    assert_eq!(
        server.metric(&format!("sightline_model_loaded{{{labels}}}")),
        1.0
    );
    assert_eq!(server.metric("sightline_in_flight"), 1.0);
    assert_eq!(server.metric("sightline_build_info{version="), 1.0);
    for reason in [
        "queue_full",
        "deadline_unreachable",
        "body_memory",
        "response_memory",
        "deadline",
        "model_loading",
        "model_load_failed",
        "model_memory",
        "starting",
        "draining",
    ] {
        let sample =
            format!(r#"sightline_rejected_total{{reason="{reason}",model="",variant=""}}"#);
        // `Server::start` probes readiness while the server starts; the metric counts these probes
        // as rejected with the reason `starting`.
        let rejected = server.metric(&sample);
        assert!(rejected == 0.0 || reason == "starting", "{reason}");
    }
    assert!(server.metric("process_cpu_seconds_total") > 0.0);
    assert!(server.metric("process_resident_memory_bytes") > 1e6);
    let page = server.get("/metrics");
    assert!(
        page.header("content-type")
            .starts_with("text/plain; version=0.0.4")
    );
    assert!(
        page.text()
            .contains("# TYPE sightline_requests_total counter\n")
    );
}
