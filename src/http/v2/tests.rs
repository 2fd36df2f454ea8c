//! Tests of the routes with a fake classifier, whose logits are 1, 3 and 2: messages in all forms, and wrong ones.

use std::io::Write as _;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{Request, StatusCode};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use serde_json::{Value, json};
use tower::ServiceExt;

use super::super::router_tests::{
    Behavior, FakeEngine, Setup, fake_source, fake_variant, png_file,
};
use super::super::{admin_router, router};
use super::HEADER_LENGTH;
use crate::app::{App, Limits};
use crate::catalogue::DEFAULT_MODEL;
use crate::registry::{Entry, Registry};

const TENSOR: &str = "/v2/models/efficientnet_lite0/infer";
const IMAGE: &str = "/v2/models/efficientnet_lite0_image/infer";
/// Number of bytes of a tensor of one image.
const TENSOR_BYTES: usize = 3 * 224 * 224 * 4;

/// Returns a server whose engine returns each batch immediately, and whose queue holds eight images.
fn app() -> Arc<App> {
    app_with(App::new(
        Limits {
            max_images: 4,
            max_body_bytes: 8 << 20,
            ..Limits::default()
        },
        1,
    ))
}

fn app_with(app: App) -> Arc<App> {
    let engine = FakeEngine {
        behavior: Behavior::Logits,
        started: mpsc::channel().0,
        permits: mpsc::channel().1,
    };
    let source = || fake_source(DEFAULT_MODEL, "fp32");
    let model = fake_variant(&app, source(), Box::new(engine), 8);
    app.set_ready(Registry::new(vec![Entry::loaded(source(), model)]));
    Arc::new(app)
}

async fn get(app: &Arc<App>, path: &str) -> (StatusCode, Value) {
    let request = Request::get(path).body(Body::empty()).unwrap();
    let response = router(Arc::clone(app)).oneshot(request).await.unwrap();
    (response.status(), value(response).await)
}

async fn value(response: Response) -> Value {
    let body = to_bytes(response.into_body(), 1 << 24).await.unwrap();
    serde_json::from_slice(&body).unwrap_or(Value::Null)
}

async fn post(app: &Arc<App>, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Response {
    let mut request = Request::post(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Body::from(body)).unwrap();
    router(Arc::clone(app)).oneshot(request).await.unwrap()
}

/// Sends a JSON message and returns the response, which must be successful.
async fn infer(app: &Arc<App>, path: &str, message: &Value) -> Value {
    let response = post(app, path, &[], message.to_string().into()).await;
    let status = response.status();
    let value = value(response).await;
    assert_eq!(status, StatusCode::OK, "{value}");
    value
}

/// Sends a message with binary tensors after it.
async fn infer_binary(app: &Arc<App>, path: &str, message: &Value, tensors: &[u8]) -> Response {
    let header = message.to_string();
    let length = header.len().to_string();
    let body = [header.as_bytes(), tensors].concat();
    post(app, path, &[(HEADER_LENGTH.as_str(), &length)], body).await
}

/// Splits a binary response into its message and its tensors.
async fn split(response: Response) -> (Value, Vec<u8>) {
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()[CONTENT_TYPE], "application/octet-stream");
    let length = response.headers()[HEADER_LENGTH].to_str().unwrap();
    let length: usize = length.parse().unwrap();
    let body = to_bytes(response.into_body(), 1 << 24).await.unwrap();
    let message = serde_json::from_slice(&body[..length]).unwrap();
    (message, body[length..].to_vec())
}

/// Returns the message of a tensor of `images` images whose elements are binary.
fn tensor_message(images: usize) -> Value {
    json!({
        "id": "7",
        "inputs": [{
            "name": "input",
            "shape": [images, 3, 224, 224],
            "datatype": "FP32",
            "parameters": {"binary_data_size": images * TENSOR_BYTES},
        }],
    })
}

/// Returns the message of images in base64.
fn image_message(images: usize) -> Value {
    let data = vec![STANDARD.encode(png_file()); images];
    json!({"inputs": [{"name": "image", "shape": [images, 1], "datatype": "BYTES", "data": data}]})
}

fn with_length(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u32).to_le_bytes(), bytes].concat()
}

#[tokio::test]
async fn both_faces_are_described() {
    let app = app();
    let (_, server) = get(&app, "/v2").await;
    assert_eq!(server["name"], "sightline");
    assert!(
        server["extensions"]
            .as_array()
            .unwrap()
            .contains(&json!("statistics"))
    );
    let (_, list) = get(&app, "/v2/models").await;
    assert_eq!(
        list,
        json!({"models": ["efficientnet_lite0", "efficientnet_lite0_image"]})
    );
    let (_, tensor) = get(&app, "/v2/models/efficientnet_lite0/versions/1").await;
    assert_eq!(
        tensor["inputs"],
        json!([
            {"name": "input", "datatype": "FP32", "shape": [-1, 3, 224, 224]}
        ])
    );
    assert_eq!(
        tensor["outputs"],
        json!([
            {"name": "logits", "datatype": "FP32", "shape": [-1, 3]}
        ])
    );
    let (_, image) = get(&app, "/v2/models/efficientnet_lite0_image%40fp32").await;
    assert_eq!(
        image["inputs"],
        json!([
            {"name": "image", "datatype": "BYTES", "shape": [-1, 1]}
        ])
    );
    let names = image["outputs"].as_array().unwrap().iter();
    let names: Vec<&str> = names
        .map(|output| output["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["scores", "labels", "class_ids"]);
    let (_, config) = get(&app, "/v2/models/efficientnet_lite0/config").await;
    assert_eq!(config["max_batch_size"], 4);
    assert_eq!(
        config["input"],
        json!([{
            "name": "input", "data_type": "TYPE_FP32", "format": "FORMAT_NCHW", "dims": [3, 224, 224]
        }])
    );
    assert_eq!(config["output"][0]["dims"], json!([3]));
    assert!(config["output"][0]["label_filename"].is_string());
    let (_, config) = get(&app, "/v2/models/efficientnet_lite0_image/config").await;
    assert_eq!(config["input"][0]["data_type"], "TYPE_STRING");
    for (path, expected) in [
        ("/v2/health/live", json!({"live": true})),
        ("/v2/health/ready", json!({"ready": true})),
        (
            "/v2/models/efficientnet_lite0/ready",
            json!({"name": "efficientnet_lite0", "ready": true}),
        ),
    ] {
        assert_eq!(get(&app, path).await, (StatusCode::OK, expected), "{path}");
    }
    let index = post(
        &app,
        "/v2/repository/index",
        &[],
        br#"{"ready":true}"#.to_vec(),
    )
    .await;
    assert_eq!(
        value(index).await[1],
        json!({
            "name": "efficientnet_lite0_image", "version": "1", "state": "READY", "reason": ""
        })
    );
}

#[tokio::test]
async fn tensors_are_run() {
    let app = app();
    let zeros = vec![0; 2 * TENSOR_BYTES];
    let response = infer_binary(&app, TENSOR, &tensor_message(2), &zeros).await;
    assert!(!response.headers().contains_key(HEADER_LENGTH));
    let answer = value(response).await;
    assert_eq!(
        answer,
        json!({
            "model_name": "efficientnet_lite0",
            "model_version": "1",
            "id": "7",
            "outputs": [{
                "name": "logits", "datatype": "FP32", "shape": [2, 3],
                "data": [1.0, 3.0, 2.0, 1.0, 3.0, 2.0],
            }],
        })
    );
    let mut message = tensor_message(1);
    message["outputs"] = json!([
        {"name": "labels"},
        {"name": "logits", "parameters": {"binary_data": true}},
        {"name": "scores", "parameters": {"classification": 2}},
    ]);
    message["parameters"] = json!({"top_k": 1, "priority": 1, "sequence_id": 3});
    let response = infer_binary(&app, TENSOR, &message, &zeros[..TENSOR_BYTES]).await;
    let (answer, tensors) = split(response).await;
    assert_eq!(answer["outputs"][0]["data"], json!(["dog"]));
    assert_eq!(
        answer["outputs"][1]["parameters"],
        json!({"binary_data_size": 12})
    );
    assert_eq!(tensors, [1.0_f32, 3.0, 2.0].map(f32::to_le_bytes).concat());
    assert_eq!(
        answer["outputs"][2]["data"],
        json!(["0.665241:1:dog", "0.244728:2:fish"])
    );
    // The only input need not state its size, and the elements may be JSON.
    let mut message = tensor_message(1);
    message["inputs"][0]["parameters"] = json!({});
    message["outputs"] = json!([{"name": "logits", "parameters": {"classification": 1}}]);
    let response = infer_binary(&app, TENSOR, &message, &zeros[..TENSOR_BYTES]).await;
    assert_eq!(
        value(response).await["outputs"][0]["data"],
        json!(["3.000000:1:dog"])
    );
    let rows = vec![vec![vec![0; 224]; 224]; 3];
    message["inputs"][0]["data"] = json!([rows]);
    infer(&app, TENSOR, &message).await;
}

#[tokio::test]
async fn a_body_gives_the_same_result_however_it_arrives() {
    let app = app();
    let message = tensor_message(2).to_string();
    let tensors: Vec<u8> = (0..2 * TENSOR_BYTES / 4)
        .flat_map(|index| (index as f32).to_le_bytes())
        .collect();
    let body = [message.as_bytes(), &tensors].concat();
    let length = message.len().to_string();
    let whole = infer_binary(&app, TENSOR, &tensor_message(2), &tensors).await;
    let whole = value(whole).await;
    assert!(whole["outputs"].is_array(), "{whole}");
    // Parts none of which ends where a value does, without their length, and with the right one or a wrong one.
    let announced = [None, Some(body.len()), Some(7), Some(3 * body.len())];
    let cases = [&[30_001][..], &[4_097], &[25_001, 3, 24_577, 1, 1]];
    for (sizes, announced) in cases.into_iter().flat_map(|s| announced.map(|a| (s, a))) {
        let (mut rest, mut parts) = (&body[..], Vec::new());
        for size in sizes.iter().cycle() {
            let (part, left) = rest.split_at((*size).min(rest.len()));
            parts.push(Ok::<_, std::io::Error>(part.to_vec()));
            rest = left;
            if rest.is_empty() {
                break;
            }
        }
        let body = Body::from_stream(futures_util::stream::iter(parts));
        let mut request = Request::post(TENSOR).header(HEADER_LENGTH, &length);
        if let Some(announced) = announced {
            request = request.header(CONTENT_LENGTH, announced);
        }
        let request = request.body(body).unwrap();
        let response = router(Arc::clone(&app)).oneshot(request).await.unwrap();
        assert_eq!(value(response).await, whole, "{sizes:?} {announced:?}");
    }
    assert_eq!(app.bodies.used(), 0);
}

#[tokio::test]
async fn tensors_after_json_of_any_length_are_run() {
    let app = app();
    let tensors: Vec<u8> = (0..2 * TENSOR_BYTES / 4)
        .flat_map(|index| (index as f32).to_le_bytes())
        .collect();
    let whole = infer_binary(&app, TENSOR, &tensor_message(2), &tensors).await;
    let whole = value(whole).await;
    for spaces in 0..17 {
        let message = tensor_message(2).to_string() + &" ".repeat(spaces);
        let body = [message.as_bytes(), &tensors].concat();
        let length = message.len().to_string();
        let response = post(&app, TENSOR, &[(HEADER_LENGTH.as_str(), &length)], body).await;
        assert_eq!(value(response).await, whole, "{spaces}");
    }
    assert_eq!(app.bodies.used(), 0);
}

#[tokio::test]
async fn images_are_run() {
    let app = app();
    let answer = infer(&app, IMAGE, &image_message(2)).await;
    assert_eq!(
        answer["outputs"][1]["data"],
        json!(["dog", "fish", "cat", "dog", "fish", "cat"])
    );
    assert_eq!(answer["outputs"][2]["data"], json!([1, 2, 0, 1, 2, 0]));
    assert_eq!(answer["outputs"][0]["shape"], json!([2, 3]));
    // The input decides, whichever name of the model is used.
    infer(&app, TENSOR, &image_message(1)).await;
    let classified = post(&app, "/v1/classify?top_k=3", &[], png_file()).await;
    let classified = value(classified).await;
    let mut message = image_message(1);
    message["parameters"] = json!({"binary_data_output": true});
    message["inputs"][0]["shape"] = json!([1]);
    message["inputs"][0]["data"] = Value::Null;
    let mut binary = message.clone();
    binary["inputs"][0].as_object_mut().unwrap().remove("data");
    let (_, tensors) =
        split(infer_binary(&app, IMAGE, &binary, &with_length(&png_file())).await).await;
    let scores = classified["results"][0]["predictions"]
        .as_array()
        .unwrap()
        .iter();
    let scores = scores.map(|prediction| prediction["score"].as_f64().unwrap() as f32);
    let scores: Vec<u8> = scores.flat_map(f32::to_le_bytes).collect();
    assert_eq!(tensors[..12], scores);
    // The whole body is the image.
    let whole = [("inference-header-content-length", "0")];
    let response = post(&app, IMAGE, &whole, png_file()).await;
    assert_eq!(split(response).await.1, tensors);
    let response = post(&app, TENSOR, &whole, vec![0; TENSOR_BYTES]).await;
    let logits = [1.0_f32, 3.0, 2.0].map(f32::to_le_bytes).concat();
    assert_eq!(split(response).await.1, logits);
}

#[tokio::test]
async fn compressed_messages_are_decoded_and_bombs_are_not() {
    let app = app();
    let message = image_message(1).to_string();
    let gzip = |data: &[u8]| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    };
    let zlib = |data: &[u8]| {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    };
    let bomb = vec![b' '; 9 << 20];
    for (encoding, body, bomb) in [
        ("gzip", gzip(message.as_bytes()), gzip(&bomb)),
        ("deflate", zlib(message.as_bytes()), zlib(&bomb)),
    ] {
        let headers = [(CONTENT_ENCODING.as_str(), encoding)];
        let response = post(&app, IMAGE, &headers, body.clone()).await;
        assert_eq!(response.status(), StatusCode::OK, "{encoding}");
        let response = post(&app, IMAGE, &headers, bomb).await;
        assert_eq!(
            response.status(),
            StatusCode::PAYLOAD_TOO_LARGE,
            "{encoding}"
        );
        let response = post(&app, IMAGE, &headers, body[..body.len() - 1].to_vec()).await;
        assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{encoding}");
    }
    let headers = [(CONTENT_ENCODING.as_str(), "br")];
    let response = post(&app, IMAGE, &headers, Vec::new()).await;
    assert_eq!(response.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert_eq!(app.bodies.used(), 0);
}

/// Changes `message` at the JSON pointer `at`.
fn changed(mut message: Value, at: &str, value: Value) -> Value {
    *message.pointer_mut(at).unwrap() = value;
    message
}

#[expect(clippy::too_many_lines, reason = "a table with a row for each mistake")]
#[tokio::test]
async fn wrong_messages_say_what_was_expected() {
    let app = app();
    let tensor = || tensor_message(1);
    let image = || image_message(1);
    let with = |key: &str, value: Value| {
        let mut message = image();
        message[key] = value;
        message
    };
    let cases: [(Value, &str); 35] = [
        (json!({}), "missing field `inputs`"),
        (json!([]), "expected an object"),
        (json!([null, null, [], null]), "expected an object"),
        (
            with("id", json!("x".repeat(1025))),
            "a string of at most 1024 bytes",
        ),
        (
            with("parameters", json!({"top_k": "x".repeat(16_385)})),
            "a text of at most 16384 bytes",
        ),
        (
            json!({"inputs": [["image", [1], "BYTES", null, ["aGk="]]]}),
            "sequence, expected an object",
        ),
        (
            with("outputs", json!([["scores", null]])),
            "sequence, expected an object",
        ),
        (json!({"inputs": []}), "`inputs`: expected one input"),
        (
            json!({"inputs": [image()["inputs"][0], image()["inputs"][0]]}),
            "2 inputs (image, image)",
        ),
        (
            json!({"inputs": vec![image()["inputs"][0].clone(); 65]}),
            "at most 64",
        ),
        (
            changed(image(), "/inputs/0/name", json!("x")),
            "`input` or `image`, got x",
        ),
        (
            changed(image(), "/inputs/0/datatype", json!("FP32")),
            "as many as the shape states",
        ),
        (
            changed(image(), "/inputs/0/datatype", json!("fp32")),
            "expected BOOL",
        ),
        (
            changed(image(), "/inputs/0/datatype", json!("UINT8")),
            "expected BYTES, got UINT8",
        ),
        (
            changed(image(), "/inputs/0/shape", json!([2])),
            "2 elements",
        ),
        (
            changed(image(), "/inputs/0/shape", json!([-1])),
            "at least 0",
        ),
        (
            changed(image(), "/inputs/0/shape", json!([0])),
            "as many as the shape states",
        ),
        (
            changed(image(), "/inputs/0/shape", json!([1, 2])),
            "2 elements",
        ),
        (
            changed(image(), "/inputs/0/shape", json!([1, 1, 1])),
            "[N] or [N, 1]",
        ),
        (
            changed(image(), "/inputs/0/shape", json!([1.5])),
            "invalid type: floating point",
        ),
        (
            changed(image(), "/inputs/0/shape", json!(vec![1; 9])),
            "at most 8",
        ),
        (
            changed(
                image(),
                "/inputs/0/shape",
                json!([4_294_967_296_i64, 4_294_967_296_i64]),
            ),
            "63 bits",
        ),
        (
            changed(image(), "/inputs/0/data", json!(["%"])),
            "not base64",
        ),
        (
            changed(image(), "/inputs/0/data", json!([[["aGk="]]])),
            "image 0",
        ),
        (
            changed(image(), "/inputs/0/data", json!({})),
            "texts in base64",
        ),
        (
            changed(image(), "/inputs/0/data", Value::Null),
            "each after its length in 4 bytes",
        ),
        (
            with("outputs", json!([{"name": "nothing"}])),
            "outputs among scores, labels, class_ids, logits",
        ),
        (
            with("outputs", json!([{"name": "scores"}, {"name": "scores"}])),
            "every output once",
        ),
        (
            with(
                "outputs",
                json!([{"name": "labels", "parameters": {"classification": 1}}]),
            ),
            "no `classification`",
        ),
        (
            with(
                "outputs",
                json!([{"name": "scores", "parameters": {"classification": -1}}]),
            ),
            "a number of classes",
        ),
        (
            with(
                "outputs",
                json!([{"name": "scores", "parameters": {"shared_memory_region": "a"}}]),
            ),
            "a tensor in the message",
        ),
        (
            with("parameters", json!({"topk": 1})),
            "did you mean `top_k`?",
        ),
        (
            with("parameters", json!({"timeout": -5})),
            "an unsigned integer",
        ),
        (
            with("parameters", json!({"a": [1]})),
            "a truth value, a number or a text",
        ),
        (
            changed(tensor(), "/inputs/0/shape", json!([1, 3, 9, 9])),
            "expected at most 0 bytes",
        ),
    ];
    for (message, expected) in cases {
        let response = post(&app, IMAGE, &[], message.to_string().into()).await;
        let status = response.status();
        assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
        let value = value(response).await;
        let error = value["error"].as_str().unwrap();
        assert!(error.contains(expected), "{expected}: {value}");
        assert!(status.is_client_error(), "{value}");
        assert!(
            error.len() < 500 && value["request_id"].is_string(),
            "{value}"
        );
    }
    assert_eq!(app.bodies.used(), 0);
}

/// The path, the headers and the body of a request, and the status of its response.
type WrongBody<'a> = (&'a str, &'a [(&'a str, &'a str)], Vec<u8>, u16);

#[tokio::test]
async fn wrong_bodies_are_rejected() {
    let app = app();
    let many = format!(r#"{{"inputs":{}1{}}}"#, "[".repeat(101), "]".repeat(101));
    let text = image_message(1).to_string();
    let length = text.len().to_string();
    let cases: [WrongBody<'_>; 12] = [
        (IMAGE, &[], many.into(), 400),
        (IMAGE, &[], b"{".to_vec(), 400),
        (IMAGE, &[], b"\xff".to_vec(), 400),
        (IMAGE, &[], Vec::new(), 400),
        (
            IMAGE,
            &[("inference-header-content-length", "-1")],
            text.clone().into(),
            400,
        ),
        (
            IMAGE,
            &[("inference-header-content-length", "+1")],
            text.clone().into(),
            400,
        ),
        (
            IMAGE,
            &[("inference-header-content-length", "x")],
            text.clone().into(),
            400,
        ),
        (
            IMAGE,
            &[("inference-header-content-length", "99999999999999999999")],
            text.clone().into(),
            400,
        ),
        (
            IMAGE,
            &[("inference-header-content-length", "999999")],
            text.clone().into(),
            400,
        ),
        (
            IMAGE,
            &[("inference-header-content-length", &length)],
            [text.as_bytes(), b"more"].concat(),
            400,
        ),
        (
            IMAGE,
            &[("inference-header-content-length", "0")],
            b"no image".to_vec(),
            415,
        ),
        (
            TENSOR,
            &[("inference-header-content-length", "0")],
            vec![0; TENSOR_BYTES - 4],
            400,
        ),
    ];
    for (path, headers, body, expected) in cases {
        let response = post(&app, path, headers, body).await;
        let status = response.status();
        let value = value(response).await;
        assert_eq!(status, expected, "{headers:?}: {value}");
        assert!(value["error"].is_string(), "{value}");
    }
    let message = changed(tensor_message(1), "/inputs/0/datatype", json!("FP16"));
    let response = infer_binary(&app, TENSOR, &message, &vec![0; TENSOR_BYTES]).await;
    let error = value(response).await;
    assert_eq!(
        error["error"],
        "`inputs[0].datatype`: expected FP32, got FP16"
    );
    let response = infer_binary(&app, TENSOR, &tensor_message(5), &vec![0; 5 * TENSOR_BYTES]).await;
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    let past = [&9_u32.to_le_bytes()[..], b"short"].concat();
    let mut message = image_message(1);
    message["inputs"][0].as_object_mut().unwrap().remove("data");
    let response = infer_binary(&app, IMAGE, &message, &past).await;
    let error = value(response).await;
    assert!(
        error["error"]
            .as_str()
            .unwrap()
            .contains("9 bytes for element 0, of which 5 follow")
    );
    assert_eq!(app.bodies.used(), 0);
}

#[tokio::test]
async fn errors_of_all_layers_have_the_form_of_the_protocol() {
    let app = app();
    for (path, status, text) in [
        ("/v2/models/nothing", 404, "Request for unknown model"),
        ("/v2/models/..%2Fx/config", 404, "Request for unknown model"),
        (
            "/v2/models/efficientnet_lite0/versions/2",
            404,
            "its only version is 1",
        ),
        ("/v2/models/%ff", 400, "percent-encoded"),
        ("/v2/nothing", 404, "no route"),
        ("/v2/models/efficientnet_lite0/infer", 405, "use POST"),
        (
            "/v2/repository/models/efficientnet_lite0/load",
            405,
            "use POST",
        ),
    ] {
        let (got, error) = get(&app, path).await;
        assert_eq!(got, status, "{path}: {error}");
        assert!(
            error["error"].as_str().unwrap().contains(text),
            "{path}: {error}"
        );
    }
    let response = post(&app, "/v2/repository/models/x/load", &[], Vec::new()).await;
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
    let error = value(response).await;
    assert!(
        error["error"].as_str().unwrap().contains("--admin-listen"),
        "{error}"
    );
    let response = post(&app, &format!("{IMAGE}?top_k=1"), &[], Vec::new()).await;
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    // Others keep their form.
    let request = Request::get("/v20").body(Body::empty()).unwrap();
    let response = router(Arc::clone(&app)).oneshot(request).await.unwrap();
    assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
}

#[tokio::test]
async fn models_are_controlled_on_the_admin_listener() {
    let app = app();
    let send = async |path: &str, body: &str| {
        let request = Request::post(path)
            .body(Body::from(body.to_owned()))
            .unwrap();
        let response = admin_router(Arc::clone(&app))
            .oneshot(request)
            .await
            .unwrap();
        (response.status().as_u16(), value(response).await)
    };
    let base = "/v2/repository/models/efficientnet_lite0_image";
    let config = r#"{"parameters":{"config":"{}"}}"#;
    let (status, error) = send(&format!("{base}/load"), config).await;
    assert_eq!(status, 400, "{error}");
    assert!(
        error["error"]
            .as_str()
            .unwrap()
            .starts_with("failed to load: "),
        "{error}"
    );
    let (status, _) = send(&format!("{base}/load"), &" ".repeat(70_000)).await;
    assert_eq!(status, 413);
    let unload = r#"{"parameters":{"unload_dependents":false}}"#;
    assert_eq!(
        send(&format!("{base}/unload"), unload).await,
        (200, Value::Null)
    );
    let (status, error) = get(&app, "/v2/models/efficientnet_lite0/ready").await;
    assert_eq!(
        (status.as_u16(), &error["code"]),
        (503, &json!("model_not_ready"))
    );
    let (_, index) = send("/v2/repository/index", "").await;
    assert_eq!(index[0]["state"], "UNAVAILABLE");
    let (_, index) = send("/v2/repository/index", r#"{"ready":true}"#).await;
    assert_eq!(index, json!([]));
    assert_eq!(send("/v2/repository/index", "[]").await.0, 400);
}

#[tokio::test]
async fn requests_of_all_protocols_are_counted_together() {
    let app = app();
    infer(&app, IMAGE, &image_message(2)).await;
    post(&app, "/v1/classify", &[], png_file()).await;
    post(&app, IMAGE, &[], b"{".to_vec()).await;
    for path in ["/v2/models/efficientnet_lite0/stats", "/v2/models/stats"] {
        let (_, all) = get(&app, path).await;
        let statistics = &all["model_stats"][0];
        assert_eq!(statistics["inference_count"], 3, "{statistics}");
        let stats = &statistics["inference_stats"];
        for (name, count) in [("success", 2), ("fail", 1), ("queue", 2), ("cache_hit", 0)] {
            assert_eq!(stats[name]["count"], count, "{name}: {stats}");
        }
        assert!(stats["success"]["ns"].as_u64() > Some(0));
        assert!(statistics["last_inference"].as_u64() > Some(1_700_000_000_000));
    }
}

#[tokio::test]
async fn a_timeout_is_a_deadline() {
    let setup = Setup::new(Behavior::Logits, Limits::default());
    let mut message = image_message(1);
    message["parameters"] = json!({"timeout": 30_000});
    let started = std::time::Instant::now();
    let response = post(&setup.app, IMAGE, &[], message.to_string().into()).await;
    assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
    assert!(started.elapsed() < Duration::from_secs(20));
    drop(setup.permits);
}

#[tokio::test]
async fn a_response_that_exceeds_its_memory_is_not_written() {
    let limits = Limits {
        max_images: 4,
        ..Limits::default()
    };
    let mut app = App::new(limits, 1);
    app.responses = crate::budget::Budget::new("responses", 1 << 10, 1 << 10);
    let app = app_with(app);
    let response = post(&app, IMAGE, &[], image_message(1).to_string().into()).await;
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(value(response).await["code"], "response_too_large");
    assert_eq!(app.responses.used(), 0);
}
