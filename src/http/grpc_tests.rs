//! Tests of calls of gRPC, with a fake classifier whose logits are 1, 3 and 2: keys, deadlines, the stop of the server,
//! the control of models, and the release of memory.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Version};
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, stream};
use http_body_util::BodyExt as _;
use open_inference::model_infer_request::InferInputTensor;
use open_inference::{
    InferTensorContents, ModelInferRequest, ModelInferResponse, ModelMetadataRequest,
    ModelStreamInferResponse, RepositoryModelLoadRequest, ServerReadyResponse,
};
use prost::Message;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tower::ServiceExt;

use super::router_tests::{
    Behavior, Setup, eventually, expect_nothing_reserved, metric, png_file, within,
};
use super::*;
use crate::app::Limits;
use crate::catalogue::DEFAULT_MODEL;
use crate::grpc::{self, Control};
use crate::keys::{KeyDigest, KeyFile};

const INFER: &str = "/inference.GRPCInferenceService/ModelInfer";
pub(super) const STREAM: &str = "/inference.GRPCInferenceService/ModelStreamInfer";
const READY: &str = "/inference.GRPCInferenceService/ServerReady";
const METADATA: &str = "/inference.GRPCInferenceService/ModelMetadata";
const LOAD: &str = "/inference.GRPCInferenceService/RepositoryModelLoad";
const CHECK: &str = "/grpc.health.v1.Health/Check";
const WATCH: &str = "/grpc.health.v1.Health/Watch";

/// The result of a call.
pub(super) struct Ended {
    /// Number of the status code, as clients read it.
    pub(super) code: String,
    message: String,
    /// Content of each message.
    messages: Vec<Bytes>,
}

impl Ended {
    fn message<T: Message + Default>(&self) -> T {
        assert_eq!(self.code, "0", "{}", self.message);
        T::decode(self.messages[0].clone()).unwrap()
    }
}

/// Returns `messages` as the body of a request.
pub(super) fn framed<T: Message>(messages: &[T]) -> Vec<u8> {
    let mut body = Vec::new();
    for message in messages {
        body.push(0);
        body.extend((message.encoded_len() as u32).to_be_bytes());
        body.extend(message.encode_to_vec());
    }
    body
}

pub(super) fn call(path: &str, body: impl Into<Body>) -> Request {
    let request = axum::http::Request::post(path)
        .version(Version::HTTP_2)
        .header(CONTENT_TYPE, "application/grpc");
    request.body(body.into()).unwrap()
}

pub(super) fn with(mut request: Request, name: &'static str, value: &str) -> Request {
    request.headers_mut().insert(name, value.parse().unwrap());
    request
}

async fn send_to(router: Router, request: Request) -> Ended {
    let response = router.oneshot(request).await.unwrap();
    assert_eq!(response.status(), 200);
    let head = response.headers().clone();
    let body = response.into_body().collect().await.unwrap();
    let trailers = body.trailers().cloned().unwrap_or_default();
    let value = |headers: &HeaderMap, name: &str| {
        let value = headers.get(name).map(|value| value.to_str().unwrap());
        value.map(str::to_owned)
    };
    let either = |name: &str| value(&trailers, name).or_else(|| value(&head, name));
    let mut rest = BytesMut::from(&body.to_bytes()[..]).freeze();
    let mut messages = Vec::new();
    while !rest.is_empty() {
        let length = u32::from_be_bytes(rest[1..5].try_into().unwrap()) as usize;
        messages.push(rest.slice(5..5 + length));
        rest = rest.slice(5 + length..);
    }
    Ended {
        code: either("grpc-status").unwrap(),
        message: either("grpc-message").unwrap_or_default(),
        messages,
    }
}

pub(super) async fn send(app: &Arc<App>, request: Request) -> Ended {
    send_to(grpc::router(app, Control::Elsewhere), request).await
}

/// Returns a message with one image file.
pub(super) fn image(id: &str, file: Vec<u8>) -> ModelInferRequest {
    let mut element = (file.len() as u32).to_le_bytes().to_vec();
    element.extend(file);
    ModelInferRequest {
        model_name: format!("{DEFAULT_MODEL}_image"),
        id: id.to_owned(),
        inputs: vec![InferInputTensor {
            name: "image".to_owned(),
            datatype: "BYTES".to_owned(),
            shape: vec![1],
            ..InferInputTensor::default()
        }],
        raw_input_contents: vec![element.into()],
        ..ModelInferRequest::default()
    }
}

fn running() -> Arc<App> {
    Setup::running(Behavior::Logits, Limits::default())
}

#[tokio::test]
async fn an_image_is_classified_and_its_memory_is_released() {
    let app = running();
    let ended = send(&app, call(INFER, framed(&[image("seven", png_file())]))).await;
    let response: ModelInferResponse = ended.message();
    assert_eq!((&*response.id, &*response.model_version), ("seven", "1"));
    let at = response
        .outputs
        .iter()
        .position(|output| output.name == "labels");
    let labels = &response.raw_output_contents[at.unwrap()];
    assert!(labels.starts_with(b"\x03\0\0\0dog"), "{labels:?}");
    let counted = format!("sightline_requests_total{{route=\"{INFER}\",status=\"200\"");
    assert_eq!(metric(&app, &counted), 1.0);
    expect_nothing_reserved(&app).await;
}

/// Returns the body `bytes` in two frames, the first of which has `at` bytes.
fn in_two(bytes: &[u8], at: usize) -> Body {
    let (first, second) = bytes.split_at(at);
    let frames = [first, second].map(|part| Ok::<_, std::io::Error>(part.to_vec()));
    Body::from_stream(stream::iter(frames))
}

#[tokio::test]
async fn a_message_gives_the_same_result_however_it_arrives() {
    let app = running();
    let usual = image("seven", png_file());
    let expected = send(&app, call(INFER, framed(std::slice::from_ref(&usual)))).await;
    let expected: ModelInferResponse = expected.message();
    let raw = ModelInferRequest {
        raw_input_contents: usual.raw_input_contents.clone(),
        ..ModelInferRequest::default()
    };
    let rest = ModelInferRequest {
        raw_input_contents: Vec::new(),
        ..usual.clone()
    };
    let mut typed = rest.clone();
    typed.inputs[0].contents = Some(InferTensorContents {
        bytes_contents: vec![png_file().into()],
        ..InferTensorContents::default()
    });
    let raw_first = [raw.encode_to_vec(), rest.encode_to_vec()].concat();
    for message in [usual.encode_to_vec(), typed.encode_to_vec(), raw_first] {
        let body = [&[0][..], &(message.len() as u32).to_be_bytes(), &message].concat();
        for at in 0..=body.len() {
            let ended = send(&app, call(INFER, in_two(&body, at))).await;
            assert_eq!(ended.message::<ModelInferResponse>(), expected, "{at}");
        }
        // Without its end, or with another message after it.
        for (body, code) in [
            (&body[..body.len() - 1], "3"),
            (&[&body[..], &[0]].concat(), "3"),
        ] {
            for at in [1, 5, 6, body.len() - 1] {
                let ended = send(&app, call(INFER, in_two(body, at))).await;
                assert_eq!(ended.code, code, "{at}");
            }
        }
    }
    let mut two = usual;
    two.raw_input_contents.push(Bytes::from_static(b"more"));
    let ended = send(&app, call(INFER, framed(&[two]))).await;
    assert_eq!(ended.code, "3", "{}", ended.message);
    expect_nothing_reserved(&app).await;
}

#[tokio::test]
async fn a_stream_goes_on_after_a_request_that_fails() {
    let app = running();
    let files = [b"no image".to_vec(), png_file()];
    let requests: Vec<_> = (0..)
        .zip(files)
        .map(|(id, file): (u8, _)| image(&id.to_string(), file))
        .collect();
    let ended = send(&app, call(STREAM, framed(&requests))).await;
    assert_eq!(ended.code, "0");
    let responses = ended.messages.iter().map(|message| {
        let response = ModelStreamInferResponse::decode(message.clone()).unwrap();
        (
            response.infer_response.unwrap().id,
            response.error_message.is_empty(),
        )
    });
    let expected = [("0", false), ("1", true)];
    let expected = expected.map(|(id, succeeded)| (id.to_owned(), succeeded));
    assert_eq!(responses.collect::<Vec<_>>(), expected);
    expect_nothing_reserved(&app).await;
}

#[tokio::test]
async fn only_probes_need_no_key() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys");
    std::fs::write(&path, format!("alice {}\n", KeyDigest::of(b"a"))).unwrap();
    let mut app = App::new(Limits::default(), 1);
    app.keys = Some(Arc::new(KeyFile::load(&path).unwrap()));
    let app = Setup::with(Behavior::Logits, app).app;
    let body = || framed(&[image("", png_file())]);
    assert_eq!(send(&app, call(INFER, body())).await.code, "16");
    // A stream that never ends is rejected without waiting for it.
    let endless = Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>());
    assert_eq!(send(&app, call(STREAM, endless)).await.code, "16");
    for (name, value) in [("authorization", "Bearer a"), ("x-api-key", "a")] {
        let ended = send(&app, with(call(INFER, body()), name, value)).await;
        assert_eq!(ended.code, "0", "{}", ended.message);
    }
    // Without TLS on a port that requires it, no key is asked for.
    let ended = send_to(grpc::tls_required_router(&app), call(INFER, body())).await;
    assert!(ended.message.contains("TLS"), "{}", ended.message);
    let check = framed(&[HealthCheckRequest::default()]);
    let health: HealthCheckResponse = send(&app, call(CHECK, check)).await.message();
    assert_eq!(health.status, 1);
    // Whether a model is served is told to clients with a key only.
    for service in [DEFAULT_MODEL, "nothing"] {
        let service = service.to_owned();
        let check = call(CHECK, framed(&[HealthCheckRequest { service }]));
        assert_eq!(send(&app, check).await.code, "16");
    }
    let service = DEFAULT_MODEL.to_owned();
    let check = call(CHECK, framed(&[HealthCheckRequest { service }]));
    let health: HealthCheckResponse = send(&app, with(check, "x-api-key", "a")).await.message();
    assert_eq!(health.status, 1);
}

/// Returns a server with one key, `a`, that has `limits`, and the file of its keys.
fn with_limits(folder: &tempfile::TempDir, limits: &str) -> (Arc<App>, std::path::PathBuf) {
    let path = folder.path().join("keys");
    std::fs::write(&path, format!("alice {} {limits}\n", KeyDigest::of(b"a"))).unwrap();
    let mut app = App::new(Limits::default(), 1);
    app.keys = Some(Arc::new(KeyFile::load(&path).unwrap()));
    (Setup::with(Behavior::Logits, app).app, path)
}

/// Returns the error messages of the responses in `ended`, in order.
pub(super) fn errors(ended: &Ended) -> Vec<String> {
    let message = |message: &Bytes| {
        let response = ModelStreamInferResponse::decode(message.clone()).unwrap();
        response.error_message
    };
    ended.messages.iter().map(message).collect()
}

#[tokio::test]
async fn the_rate_of_a_key_counts_every_request_of_a_stream() {
    let folder = tempfile::tempdir().unwrap();
    let (app, _) = with_limits(&folder, "rate=2/h burst=2");
    let requests = ["0", "1", "2"].map(|id| image(id, png_file()));
    let request = call(STREAM, framed(&requests));
    let ended = send(&app, with(request, "x-api-key", "a")).await;
    assert_eq!(ended.code, "0");
    // The queue has one place, so that a request of the stream can also fail for that.
    let errors = errors(&ended);
    let limited: Vec<bool> = errors.iter().map(|error| error.contains("2/h")).collect();
    assert_eq!(limited, [false, false, true], "{errors:?}");
    expect_nothing_reserved(&app).await;
}

#[tokio::test]
async fn a_stream_is_in_flight_until_it_ends_and_ends_without_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let (app, path) = with_limits(&folder, "concurrency=1");
    let endless = || {
        let pending = stream::pending::<Result<Bytes, std::io::Error>>();
        with(call(STREAM, Body::from_stream(pending)), "x-api-key", "a")
    };
    let router = grpc::router(&app, Control::Elsewhere);
    let open = router.oneshot(endless()).await.unwrap();
    assert_eq!(send(&app, endless()).await.code, "8");
    drop(open);
    let router = grpc::router(&app, Control::Elsewhere);
    let open = router.oneshot(endless()).await.unwrap();
    std::fs::write(&path, format!("bob {}\n", KeyDigest::of(b"b"))).unwrap();
    let keys = app.keys.as_ref().unwrap();
    keys.reload(&app.metrics).unwrap();
    let collected = open.into_body().collect().await.unwrap();
    assert_eq!(collected.trailers().unwrap()["grpc-status"], "16");
}

#[tokio::test]
async fn messages_that_cannot_be_read_count_as_mistakes_of_their_keys() {
    let folder = tempfile::tempdir().unwrap();
    let (app, _) = with_limits(&folder, "");
    let broken = call(INFER, vec![0, 0, 0, 0, 1, 0xff]);
    let ended = send(&app, with(broken, "x-api-key", "a")).await;
    assert_eq!(ended.code, "3", "{}", ended.message);
    let count = |status| {
        let sample = format!("sightline_key_requests_total{{key=\"alice\",status=\"{status}\"}}");
        metric(&app, &sample)
    };
    assert_eq!((count(400), count(200)), (1.0, 0.0));
}

#[tokio::test]
async fn a_server_that_stops_rejects_calls_and_says_so_to_probes() {
    let app = running();
    let check = |service: &str| {
        let service = service.to_owned();
        call(CHECK, framed(&[HealthCheckRequest { service }]))
    };
    let serving: HealthCheckResponse = send(&app, check(DEFAULT_MODEL)).await.message();
    assert_eq!(serving.status, 1);
    assert_eq!(send(&app, check("nothing")).await.code, "5");
    app.start_leaving();
    let leaving: HealthCheckResponse = send(&app, check("")).await.message();
    assert_eq!(leaving.status, 2);
    let ready: ServerReadyResponse = send(&app, call(READY, vec![0; 5])).await.message();
    assert!(!ready.ready);
    let body = || framed(&[image("", png_file())]);
    assert_eq!(send(&app, call(INFER, body())).await.code, "0");
    app.start_draining();
    assert_eq!(send(&app, call(INFER, body())).await.code, "14");
    let idle = Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>());
    assert_eq!(send(&app, call(STREAM, idle)).await.code, "14");
}

#[tokio::test]
async fn models_are_controlled_only_where_it_is_allowed() {
    let app = running();
    let load = || {
        let model_name = "nothing".to_owned();
        call(
            LOAD,
            framed(&[RepositoryModelLoadRequest {
                model_name,
                ..Default::default()
            }]),
        )
    };
    let ended = send(&app, load()).await;
    assert_eq!(ended.code, "12");
    assert!(ended.message.contains("admin-listen"), "{}", ended.message);
    let allowed = grpc::router(&app, Control::Allowed);
    let ended = send_to(allowed, load()).await;
    assert_ne!(ended.code, "12");
    assert!(
        ended.message.starts_with("failed%20to%20load"),
        "{}",
        ended.message
    );
}

#[tokio::test]
async fn a_deadline_and_a_client_that_leaves_end_the_work() {
    let setup = Setup::new(Behavior::Logits, Limits::default());
    let app = &setup.app;
    let request = || call(INFER, framed(&[image("", png_file())]));
    let ended = send(app, with(request(), "grpc-timeout", "50m")).await;
    assert_eq!(ended.code, "4");
    // The image of the first call leaves the queue, which has one place.
    eventually(app, "sightline_queue_depth", 0.0).await;
    let leaving = tokio::spawn({
        let app = Arc::clone(app);
        let request = request();
        async move { send(&app, request).await.code }
    });
    eventually(app, "sightline_in_flight", 1.0).await;
    leaving.abort();
    for _ in 0..4 {
        let _ = setup.permits.send(());
    }
    expect_nothing_reserved(app).await;
}

#[tokio::test]
async fn the_requests_of_calls_and_of_streams_need_cores_until_they_have_results() {
    for path in [INFER, STREAM] {
        let setup = Setup::new(Behavior::Logits, Limits::default());
        let app = &setup.app;
        let request = call(path, framed(&[image("", png_file())]));
        assert_eq!(app.admitted.count(), 0);
        let sent = tokio::spawn({
            let app = Arc::clone(app);
            async move { send(&app, request).await.code }
        });
        while app.admitted.count() == 0 {
            tokio::task::yield_now().await;
        }
        setup.permits.send(()).unwrap();
        assert_eq!(sent.await.unwrap(), "0", "{path}");
        assert_eq!(app.admitted.count(), 0, "{path}");
    }
}

#[tokio::test]
async fn a_stream_may_take_longer_than_a_request_but_not_than_its_client_allows() {
    let limits = within(200);
    let app = Setup::running(Behavior::Logits, limits);
    let body = || {
        let first = stream::iter([framed(&[image("0", png_file())])]);
        let late = stream::once(async {
            tokio::time::sleep(Duration::from_millis(400)).await;
            framed(&[image("1", png_file())])
        });
        Body::from_stream(first.chain(late).map(Ok::<_, std::io::Error>))
    };
    let ended = send(&app, with(call(STREAM, body()), "grpc-timeout", "1M")).await;
    assert_eq!(
        (&*ended.code, errors(&ended)),
        ("0", vec![String::new(); 2])
    );
    let ended = send(&app, with(call(STREAM, body()), "grpc-timeout", "100m")).await;
    assert_eq!(ended.code, "4");
}

#[tokio::test]
async fn a_request_of_a_stream_ends_at_its_deadline_although_the_client_reads_nothing() {
    let limits = within(200);
    let setup = Setup::new(Behavior::Logits, limits);
    let app = &setup.app;
    let request = call(STREAM, framed(&[image("", png_file())]));
    let router = grpc::router(app, Control::Elsewhere);
    let mut body = router.oneshot(request).await.unwrap().into_body();
    let read = tokio::time::timeout(Duration::from_millis(50), body.frame()).await;
    assert!(read.is_err(), "the engine waits for a permit");
    assert_eq!(app.admitted.count(), 1);
    let end = async {
        while app.admitted.count() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let ended = tokio::time::timeout(Duration::from_secs(10), end).await;
    assert!(ended.is_ok(), "the request waits for its client");
}

#[tokio::test]
async fn a_watch_ends_at_its_deadline() {
    let app = running();
    let watch = call(WATCH, framed(&[HealthCheckRequest::default()]));
    let ended = send(&app, with(watch, "grpc-timeout", "50m")).await;
    assert_eq!((&*ended.code, ended.messages.len()), ("4", 1));
    let service = "x".repeat(4 << 10);
    let long = call(WATCH, framed(&[HealthCheckRequest { service }]));
    assert_eq!(send(&app, long).await.code, "3");
}

#[tokio::test]
async fn watches_are_limited() {
    let app = running();
    let router = grpc::router(&app, Control::Elsewhere);
    let watch = || call(WATCH, framed(&[HealthCheckRequest::default()]));
    let mut watches = Vec::new();
    for _ in 0..128 {
        watches.push(router.clone().oneshot(watch()).await.unwrap());
    }
    assert_eq!(send_to(router.clone(), watch()).await.code, "14");
    watches.clear();
    let ended = send_to(router, with(watch(), "grpc-timeout", "1m")).await;
    assert_eq!(ended.code, "4");
}

#[tokio::test]
async fn reflection_lists_the_services() {
    let app = running();
    for version in ["v1", "v1alpha"] {
        let path = format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo");
        // `list_services`, field 7, is an empty string.
        let ended = send(
            &app,
            call(&path, [&[0, 0, 0, 0, 2][..], &[0x3a, 0]].concat()),
        )
        .await;
        let listed = String::from_utf8_lossy(&ended.messages[0]).into_owned();
        for service in ["inference.GRPCInferenceService", "grpc.health.v1.Health"] {
            assert!(listed.contains(service), "{listed}");
        }
    }
}

#[tokio::test]
async fn reflection_ends_at_the_deadline_of_a_request() {
    let limits = within(50);
    let app = Setup::running(Behavior::Logits, limits);
    let path = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
    // A client that always has another request, and one that has none.
    let busy = stream::repeat_with(|| {
        let request = [&[0, 0, 0, 0, 2][..], &[0x3a, 0]].concat();
        Ok::<_, std::io::Error>(Bytes::from(request))
    });
    let idle = stream::pending::<Result<Bytes, std::io::Error>>();
    for body in [Body::from_stream(busy), Body::from_stream(idle)] {
        let ended = tokio::time::timeout(Duration::from_secs(10), send(&app, call(path, body)));
        assert!(ended.await.is_ok());
    }
    expect_nothing_reserved(&app).await;
}

#[tokio::test]
async fn wrong_calls_are_mistakes_of_the_client() {
    let app = running();
    let version = |model_version: &str| {
        let name = DEFAULT_MODEL.to_owned();
        let version = model_version.to_owned();
        call(METADATA, framed(&[ModelMetadataRequest { name, version }]))
    };
    assert_eq!(send(&app, version("1")).await.code, "0");
    assert_eq!(send(&app, version("2")).await.code, "5");
    let cases = [
        (call(INFER, Vec::new()), "3"),
        (call(INFER, vec![0, 0, 0, 0, 9, 1]), "3"),
        (call(INFER, vec![1, 0, 0, 0, 1, 1]), "3"),
        (call(INFER, vec![0, 0xff, 0xff, 0xff, 0xff]), "3"),
        (
            call("/inference.GRPCInferenceService/Nothing", vec![0; 5]),
            "12",
        ),
        (with(call(INFER, vec![0; 5]), "grpc-timeout", "soon"), "3"),
    ];
    for (request, code) in cases {
        let path = request.uri().path().to_owned();
        assert_eq!(send(&app, request).await.code, code, "{path}");
    }
    let two = framed(&[image("", png_file()), image("", png_file())]);
    assert_eq!(send(&app, call(INFER, two)).await.code, "3");
    // Methods that need no key read little: 64 KiB that are not compressed.
    let long = 64 << 10;
    let ready = |length: u32| [&[0][..], &length.to_be_bytes(), &[0; 9]].concat();
    assert_eq!(send(&app, call(READY, ready(long + 1))).await.code, "3");
    let gzipped = call(READY, [&[1, 0, 0, 0, 9][..], &[0; 9]].concat());
    let gzipped = with(gzipped, "grpc-encoding", "gzip");
    assert_eq!(send(&app, gzipped).await.code, "12");
    let router = grpc::router(&app, Control::Elsewhere);
    let request = axum::http::Request::get("/").body(Body::empty()).unwrap();
    let response = router.oneshot(request).await.unwrap();
    assert_eq!(response.status(), 415);
    let body = to_bytes(response.into_body(), 1 << 16).await.unwrap();
    assert!(body.windows(16).any(|part| part == b"application/grpc"));
    expect_nothing_reserved(&app).await;
}
