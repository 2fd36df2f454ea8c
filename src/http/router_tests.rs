//! Tests of the router with a fake engine: its responses when the queue is full, the engine fails,
//! a budget is exhausted, or the deadline passes.

use std::io;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use axum::body::{Body, to_bytes};
use axum::http::header::{CONNECTION, EXPECT, RETRY_AFTER};
use axum::http::{Method, Request, StatusCode};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http_body_util::StreamBody;
use hyper::body::Frame;
use image::{ImageFormat, RgbImage};
use serde_json::Value;
use tokio::task::JoinHandle;
use tower::ServiceExt;

use super::*;
use crate::admission::{Admission, Deadline};
use crate::app::Limits;
use crate::batch::{Batcher, Policy, Stock, TensorCost, Watchdog};
use crate::catalogue;
use crate::engine::{
    DataType, Engine, EngineError, MeasuredScaling, Output, Outputs, StopRuns, Tensor, Unstoppable,
};
use crate::image::{DecodeOptions, ImageSize, Orientation, PreparedImage, Preprocessor, decode};
use crate::manifest::Precision;
use crate::memory::{Demand, Demands, MemoryPlan};
use crate::metrics::Exposition;
use crate::pipeline::{self, Input, RawOutputs};
use crate::pool::JobCost;
use crate::postprocess::detect::Detector;
use crate::registry::{Entry, LoadedModel, ModelPlan, OutputSpec, Registry, share_tensor_memory};
use crate::store::ModelSource;

const LABELS: [&str; 3] = ["cat", "dog", "fish"];
const ROUTE: &str = "/v1/classify";

/// What the fake engine does with a batch.
#[derive(Debug, Clone, Copy)]
pub(super) enum Behavior {
    Logits,
    NotANumber,
    OneRowMissing,
    Error,
    Panic,
    /// Returns the outputs of `SSDlite` with the same score for every class of every default box.
    Boxes,
}

/// An engine that acts as a classifier of three classes, or as an `SSDlite` detector. For each
/// batch it sends the batch size to `started`, waits for a message from `permits` or for the drop
/// of their sender, and then returns.
pub(super) struct FakeEngine {
    pub(super) behavior: Behavior,
    pub(super) started: mpsc::Sender<usize>,
    pub(super) permits: mpsc::Receiver<()>,
}

impl Engine for FakeEngine {
    fn run(&mut self, batch: Vec<PreparedImage>) -> Result<Vec<Outputs>, EngineError> {
        let _ = self.started.send(batch.len());
        let _ = self.permits.recv();
        let row = |data: [f32; 3]| {
            let tensor = Tensor {
                shape: vec![3],
                data: data.to_vec(),
            };
            Outputs::from_iter([Output::f32("logits", tensor)])
        };
        match self.behavior {
            Behavior::Boxes => Ok(vec![equal_boxes(); batch.len()]),
            Behavior::Logits => Ok(vec![row([1.0, 3.0, 2.0]); batch.len()]),
            Behavior::NotANumber => Ok(vec![row([1.0, f32::NAN, 2.0]); batch.len()]),
            Behavior::OneRowMissing => Ok(vec![row([1.0, 3.0, 2.0]); batch.len() - 1]),
            Behavior::Error => Err(EngineError::Missing {
                name: "logits".to_owned(),
            }),
            Behavior::Panic => panic!("the fake engine panics"),
        }
    }

    fn stop_handle(&self) -> Arc<dyn StopRuns> {
        Arc::new(Unstoppable)
    }
}

/// Returns the outputs of `SSDlite` for one image, with all elements 0.
fn equal_boxes() -> Outputs {
    const BOXES: usize = 6;
    const CLASSES: usize = 91;
    let map = |channels: usize, side: usize| Tensor {
        shape: vec![channels, side, side],
        data: vec![0.0; channels * side * side],
    };
    let levels = [20, 10, 5, 3, 2, 1].into_iter().enumerate();
    let outputs = levels.flat_map(|(level, side)| {
        let scores = map(BOXES * CLASSES, side);
        [
            Output::f32(&format!("cls_logits_{level}"), scores),
            Output::f32(&format!("bbox_regression_{level}"), map(BOXES * 4, side)),
        ]
    });
    outputs.collect()
}

/// A server with one fake model, whose queue holds one image.
pub(super) struct Setup {
    pub(super) app: Arc<App>,
    /// Receives the size of each batch when the engine begins it.
    pub(super) started: mpsc::Receiver<usize>,
    /// Sends permits: each message lets the engine return one batch, and dropping the sender lets
    /// it return all batches.
    pub(super) permits: mpsc::Sender<()>,
}

impl Setup {
    pub(super) fn new(behavior: Behavior, limits: Limits) -> Self {
        Self::with(behavior, App::new(limits, 1))
    }

    /// Returns a server that consists of `app`, which has no model yet, and one fake model.
    pub(super) fn with(behavior: Behavior, app: App) -> Self {
        Self::with_queue(behavior, app, 1)
    }

    /// Returns the same with a queue of `capacity` images.
    pub(super) fn with_queue(behavior: Behavior, app: App, capacity: usize) -> Self {
        let (started_sender, started) = mpsc::channel();
        let (permits, permits_receiver) = mpsc::channel();
        let engine = FakeEngine {
            behavior,
            started: started_sender,
            permits: permits_receiver,
        };
        let name = match behavior {
            Behavior::Boxes => "ssdlite320_mobilenet_v3_large",
            _ => catalogue::DEFAULT_MODEL,
        };
        let source = fake_source(name, "fp32");
        let model = fake_variant(&app, source, Box::new(engine), capacity);
        app.set_ready(registry_of(model));
        Self {
            app: Arc::new(app),
            started,
            permits,
        }
    }

    /// Returns a server whose engine returns each batch without waiting for a permit.
    pub(super) fn running(behavior: Behavior, limits: Limits) -> Arc<App> {
        Self::new(behavior, limits).app
    }

    /// Starts two requests and returns their tasks: one waits in the engine, the other in the
    /// queue, which is then full.
    pub(super) async fn fill(&self) -> [JoinHandle<Response>; 2] {
        let send = || tokio::spawn(send(Arc::clone(&self.app), post(png())));
        let first = send();
        while self.started.try_recv().is_err() {
            tokio::task::yield_now().await;
        }
        let second = send();
        eventually(&self.app, "sightline_queue_depth", 1.0).await;
        // The image has a place before it is decoded. The only thread of the pool decodes it before this job.
        self.app.pool.run(JobCost::time(1), || ()).await.unwrap();
        [first, second]
    }
}

/// Returns the default limits with a deadline of `milliseconds`.
pub(super) fn within(milliseconds: u64) -> Limits {
    Limits {
        request_timeout: Duration::from_millis(milliseconds),
        ..Limits::default()
    }
}

/// Returns a registry of one model, which is loaded.
fn registry_of(model: LoadedModel) -> Registry {
    let source = fake_source(&model.manifest.name, &model.variant);
    Registry::new(vec![Entry::loaded(source, model)])
}

/// Returns the variant `variant` of the model that the catalogue has for `name`. Its labels are
/// [`LABELS`], or 91 generated labels for a detector.
pub(super) fn fake_source(name: &str, variant: &str) -> ModelSource {
    let manifest = catalogue::manifest(name).unwrap().unwrap();
    let labels = if manifest.detection.is_some() {
        (0..91).map(|id| format!("class {id}")).collect()
    } else {
        LABELS.map(str::to_owned).into()
    };
    ModelSource {
        manifest,
        labels,
        variant: variant.to_owned(),
        ..ModelSource::embedded().unwrap()
    }
}

/// Returns the fp32 variant of the model that the catalogue has for `name`; see [`fake_variant`].
fn fake_model(app: &App, name: &str, engine: Box<dyn Engine>) -> LoadedModel {
    fake_variant(app, fake_source(name, "fp32"), engine, 1)
}

/// Returns the model `source`, with `engine` as the engine of its only worker, and with a queue of `capacity` images. A
/// classifier replaces the engine if it fails.
pub(super) fn fake_variant(
    app: &App,
    source: ModelSource,
    engine: Box<dyn Engine>,
    capacity: usize,
) -> LoadedModel {
    let ModelSource {
        manifest,
        variant,
        labels,
        ..
    } = source;
    let name = manifest.name.clone();
    let policy = Policy {
        max_batch_size: 1,
        max_queue_delay: Duration::ZERO,
    };
    let metrics = app.metrics.batch(&name, &variant);
    let spare: Box<dyn Engine> = Box::new(FakeEngine {
        behavior: Behavior::Logits,
        started: mpsc::channel().0,
        permits: mpsc::channel().1,
    });
    let stock = Box::new(Stock::of(vec![spare]));
    let watchdog = Watchdog::start(name.clone(), stock, metrics.clone()).unwrap();
    let engines = vec![watchdog.watch(engine)];
    let usual = ImageSize {
        width: 224,
        height: 224,
    };
    let cost = TensorCost::measured(&Outputs::default(), usual, 1 << 20, None);
    LoadedModel {
        detector: Detector::of(&manifest).unwrap(),
        labels,
        plan: ModelPlan::new(&manifest, 1, None),
        preprocessor: Preprocessor::new(&manifest.preprocess),
        manifest,
        metrics: app.metrics.model(&name, &variant),
        outputs: fake_outputs(),
        scaling: MeasuredScaling::default(),
        batcher: Batcher::start(&name, watchdog, engines, policy, capacity, cost, metrics).unwrap(),
        variant,
        precision: Precision::Fp32,
        own_operators: 0,
        load_time: Duration::ZERO,
        embedding: None,
        memory_bytes: None,
        instance: Arc::default(),
    }
}

/// Returns the outputs of a fake classifier.
fn fake_outputs() -> Vec<OutputSpec> {
    vec![OutputSpec {
        name: "logits".into(),
        data_type: DataType::F32,
        shape: vec![Some(LABELS.len())],
    }]
}

/// Returns a black PNG file of 8x8 pixels.
pub(super) fn png_file() -> Vec<u8> {
    png_of(8, 8)
}

pub(super) fn png_of(width: u32, height: u32) -> Vec<u8> {
    let mut file = io::Cursor::new(Vec::new());
    let image = RgbImage::new(width, height);
    image.write_to(&mut file, ImageFormat::Png).unwrap();
    file.into_inner()
}

pub(super) fn png() -> Body {
    Body::from(png_file())
}

/// Returns a request to classify the image in `body`.
pub(super) fn post(body: Body) -> Request<Body> {
    let request = Request::builder().method(Method::POST).uri(ROUTE);
    request.body(body).unwrap()
}

pub(super) fn get(path: &str) -> Request<Body> {
    Request::builder().uri(path).body(Body::empty()).unwrap()
}

pub(super) async fn send(app: Arc<App>, request: Request<Body>) -> Response {
    router(app).oneshot(request).await.unwrap()
}

pub(super) async fn json(response: Response) -> Value {
    let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
    serde_json::from_slice(&body).unwrap()
}

/// Checks that the response is a problem document with this status and code.
pub(super) async fn expect_problem(response: Response, status: u16, code: &str) {
    assert_eq!(response.status().as_u16(), status, "{code}");
    assert!(response.headers().contains_key("x-request-id"), "{code}");
    let problem = json(response).await;
    assert_eq!(problem["code"], code, "{problem}");
    assert_eq!(problem["status"], status, "{problem}");
}

/// Returns the sum of all samples in `/metrics` whose lines contain the text `name`.
pub(super) fn metric(app: &App, name: &str) -> f64 {
    let page = app.metrics.render(Exposition::OpenMetrics).unwrap();
    let page = String::from_utf8(page).unwrap();
    let samples = page.lines().filter(|line| line.contains(name));
    let samples = samples.filter(|line| !line.starts_with('#'));
    let value = |line: &str| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap();
    samples.map(value).sum()
}

/// Waits until the samples whose lines contain the text `name` sum up to `value`. Panics after ten
/// seconds.
pub(super) async fn eventually(app: &App, name: &str, value: f64) {
    let wait = async {
        while metric(app, name) != value {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let reached = tokio::time::timeout(Duration::from_secs(10), wait).await;
    assert!(
        reached.is_ok(),
        "`{name}` is {}, expected {value}",
        metric(app, name)
    );
}

/// Returns the number of requests that were rejected for `reason`.
pub(super) fn rejections(app: &App, reason: &str) -> f64 {
    metric(
        app,
        &format!("sightline_rejected_total{{reason=\"{reason}\""),
    )
}

/// Waits until no memory is reserved, and checks that no image is queued and no request is in
/// flight.
pub(super) async fn expect_nothing_reserved(app: &App) {
    eventually(app, "state=\"used\"", 0.0).await;
    assert_eq!(metric(app, "sightline_queue_depth"), 0.0);
    assert_eq!(metric(app, "sightline_in_flight"), 0.0);
}

#[tokio::test]
async fn results_carry_the_request_id_and_the_time_of_every_stage() {
    let app = Setup::running(Behavior::Logits, Limits::default());
    let mut request = post(png());
    let id = "abc-123".parse().unwrap();
    request.headers_mut().insert("x-request-id", id);
    let response = send(Arc::clone(&app), request).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["x-request-id"], "abc-123");
    let timing = response.headers()["server-timing"].to_str().unwrap();
    let names = timing.split(", ").map(|entry| entry.split(';').next());
    let expected = [
        "admission",
        "receive",
        "decode",
        "preprocess",
        "queue",
        "inference",
        "postprocess",
        "encode",
        "total",
    ];
    assert!(names.eq(expected.map(Some)), "{timing}");
    let body = json(response).await;
    assert_eq!(body["results"][0]["predictions"][0]["label"], "dog");
    expect_nothing_reserved(&app).await;
}

#[tokio::test]
async fn faults_of_the_engine_are_internal_problems() {
    for behavior in [
        Behavior::NotANumber,
        Behavior::OneRowMissing,
        Behavior::Error,
        Behavior::Panic,
    ] {
        let app = Setup::running(behavior, Limits::default());
        let response = send(Arc::clone(&app), post(png())).await;
        expect_problem(response, 500, "internal").await;
        let failures = |kind: &str| {
            let name = format!("sightline_worker_failures_total{{kind=\"{kind}\"");
            metric(&app, &name)
        };
        let expected = match behavior {
            Behavior::Panic => [1.0, 0.0],
            Behavior::NotANumber => [0.0, 0.0],
            _ => [0.0, 1.0],
        };
        assert_eq!([failures("panic"), failures("error")], expected);
        // The worker replaces an engine that failed, but not one whose outputs cannot be used.
        let response = send(Arc::clone(&app), post(png())).await;
        if matches!(behavior, Behavior::NotANumber) {
            expect_problem(response, 500, "internal").await;
        } else {
            assert_eq!(response.status(), StatusCode::OK, "{behavior:?}");
            drop(response);
            assert_eq!(metric(&app, "sightline_worker_restarts_total"), 1.0);
        }
        expect_nothing_reserved(&app).await;
        assert_eq!(rejections(&app, ""), 0.0, "{behavior:?}");
    }
}

#[tokio::test]
async fn a_full_queue_rejects_before_the_body_is_read() {
    let setup = Setup::new(Behavior::Logits, Limits::default());
    let waiting = setup.fill().await;
    // The body never arrives, because the client waits for permission to send it.
    let silent = Body::from_stream(stream::pending::<io::Result<Bytes>>());
    let mut request = post(silent);
    let expect = "100-continue".parse().unwrap();
    request.headers_mut().insert(EXPECT, expect);
    let response = send(Arc::clone(&setup.app), request).await;
    assert_eq!(response.headers()[RETRY_AFTER], "1");
    expect_problem(response, 429, "queue_full").await;
    assert_eq!(rejections(&setup.app, "queue_full"), 1.0);
    drop(setup.permits);
    for request in waiting {
        assert_eq!(request.await.unwrap().status(), StatusCode::OK);
    }
    expect_nothing_reserved(&setup.app).await;
}

#[tokio::test]
async fn more_images_than_the_queue_holds_are_too_many() {
    let app = Setup::running(Behavior::Logits, Limits::default());
    let image = serde_json::json!({ "data": STANDARD.encode(png_file()) });
    let body = serde_json::json!({ "images": [image, image] });
    let mut request = post(Body::from(body.to_string()));
    let json = "application/json".parse().unwrap();
    request.headers_mut().insert(CONTENT_TYPE, json);
    let response = send(Arc::clone(&app), request).await;
    expect_problem(response, 413, "too_many_images").await;
    expect_nothing_reserved(&app).await;
}

#[tokio::test]
async fn a_client_that_leaves_returns_everything() {
    let setup = Setup::new(Behavior::Logits, Limits::default());
    let [running, queued] = setup.fill().await;
    queued.abort();
    assert!(queued.await.is_err());
    let model = Arc::clone(&setup.app.registry().unwrap().snapshot().models()[0]);
    while model.batcher.cancelled_images() == 0 {
        tokio::task::yield_now().await;
    }
    setup.permits.send(()).unwrap();
    assert_eq!(running.await.unwrap().status(), StatusCode::OK);
    expect_nothing_reserved(&setup.app).await;
    assert!(
        setup.started.try_recv().is_err(),
        "the cancelled request reached the engine"
    );
    assert_eq!(metric(&setup.app, "sightline_images_total"), 1.0);
}

#[tokio::test]
async fn a_passed_deadline_is_a_timeout() {
    let limits = within(50);
    let setup = Setup::new(Behavior::Logits, limits);
    let response = send(Arc::clone(&setup.app), post(png())).await;
    expect_problem(response, 504, "deadline_passed").await;
    assert_eq!(rejections(&setup.app, "deadline"), 1.0);
    drop(setup.permits);
    expect_nothing_reserved(&setup.app).await;
}

#[tokio::test]
async fn a_body_that_does_not_arrive_is_a_fault_of_the_client() {
    let limits = within(50);
    let app = Setup::running(Behavior::Logits, limits);
    let start = stream::once(async { Ok::<_, io::Error>(Bytes::from_static(b"half")) });
    let mut request = post(Body::from_stream(start.chain(stream::pending())));
    // After a rejection, the server reads and drops the remainder of the body, which never arrives
    // here. It does not do so for a client that sent `Expect: 100-continue`.
    let expect = "100-continue".parse().unwrap();
    request.headers_mut().insert(EXPECT, expect);
    let response = send(Arc::clone(&app), request).await;
    assert_eq!(response.headers()[CONNECTION], "close");
    expect_problem(response, 408, "body_timeout").await;
    assert_eq!(rejections(&app, "deadline"), 1.0);
    expect_nothing_reserved(&app).await;
}

#[tokio::test]
async fn a_body_that_arrives_too_slowly_is_a_fault_of_the_client() {
    let app = Setup::running(Behavior::Logits, Limits::default());
    let slow = ServeError::BodyTooSlow {
        rate: 1000,
        period: Duration::from_secs(10),
    };
    let frames = [Ok(Frame::data(Bytes::from_static(b"half"))), Err(slow)];
    let body = Body::new(StreamBody::new(stream::iter(frames)));
    let response = send(Arc::clone(&app), post(body)).await;
    assert_eq!(response.headers()[CONNECTION], "close");
    expect_problem(response, 408, "body_timeout").await;
    assert_eq!(rejections(&app, "deadline"), 1.0);
    expect_nothing_reserved(&app).await;
}

/// Sends a request that draws `boxes` boxes into `image`.
async fn draw(app: &Arc<App>, image: &[u8], boxes: usize) -> Response {
    let query = format!("annotate=true&score_threshold=0&iou_threshold=1&max_detections={boxes}");
    let mut request = post(Body::from(image.to_vec()));
    *request.uri_mut() = format!("/v1/detect?{query}").parse().unwrap();
    send(Arc::clone(app), request).await
}

/// Sends a request whose deadline passes while 300 boxes are drawn. Returns how long the only
/// thread of the pool stays busy after the response, and how long it takes to draw all boxes
/// without a deadline. Returns `None` if the response came before the deadline, because the machine
/// became faster after the drawing time was measured.
async fn freed_after_deadline(image: &[u8]) -> Option<(Duration, Duration)> {
    let app = Setup::running(Behavior::Boxes, Limits::default());
    let mut times = Vec::new();
    for boxes in [1, 300] {
        let started = Instant::now();
        assert_eq!(draw(&app, image, boxes).await.status(), StatusCode::OK);
        times.push(started.elapsed());
    }
    let limits = Limits {
        request_timeout: (times[0] + times[1]) / 2,
        ..Limits::default()
    };
    let app = Setup::running(Behavior::Boxes, limits);
    let response = draw(&app, image, 300).await;
    let started = Instant::now();
    if response.status() == StatusCode::OK {
        return None;
    }
    expect_problem(response, 504, "deadline_passed").await;
    app.pool.run(JobCost::time(1), || ()).await.unwrap();
    let freed = started.elapsed();
    expect_nothing_reserved(&app).await;
    Some((freed, times[1].saturating_sub(times[0])))
}

#[tokio::test]
async fn a_passed_deadline_stops_drawing() {
    let image = png_of(3000, 1500);
    let mut seen = Vec::new();
    // Repeated, because tests that run in parallel slow some attempts down. Without the stop, the
    // thread would stay busy for half of the drawing time in every attempt.
    for _ in 0..8 {
        let attempt = freed_after_deadline(&image).await;
        if attempt.is_some_and(|(freed, drawing)| freed < drawing / 4) {
            return;
        }
        seen.push(attempt);
    }
    panic!("the thread was not freed early: {seen:?}");
}

/// Sends a request to classify `image` whose deadline passes while the image is decoded. Returns
/// how long the only thread of the image pool stays busy after the response.
async fn freed_after_decoding(image: &[u8], deadline: Duration) -> Duration {
    let limits = Limits {
        request_timeout: deadline,
        ..Limits::default()
    };
    let app = Setup::running(Behavior::Logits, limits);
    let response = send(Arc::clone(&app), post(Body::from(image.to_vec()))).await;
    let started = Instant::now();
    expect_problem(response, 504, "deadline_passed").await;
    app.pool.run(JobCost::time(1), || ()).await.unwrap();
    let freed = started.elapsed();
    expect_nothing_reserved(&app).await;
    freed
}

#[tokio::test]
async fn a_passed_deadline_stops_decoding() {
    let image = png_of(6000, 6000);
    let options = DecodeOptions {
        max_pixels: 36_000_000,
        orientation: Orientation::Apply,
    };
    let mut seen = Vec::new();
    // Several attempts, because tests that run at the same time can slow an attempt down. If
    // decoding did not stop at the deadline, the thread would stay busy for three quarters of the
    // decoding time in every attempt.
    for _ in 0..8 {
        let started = Instant::now();
        decode(&image, &options).unwrap();
        let whole = started.elapsed();
        let freed = freed_after_decoding(&image, whole / 4).await;
        if freed < whole / 4 {
            return;
        }
        seen.push((freed, whole));
    }
    panic!("decoding did not stop soon after the deadline; (busy, whole decode) times: {seen:?}");
}

/// Returns the first 1024 bytes of a PNG file whose header states 5000x5001 pixels. Its checksums
/// and pixel data are invalid, which does not matter where the size is rejected before they are
/// read.
fn head_of_large_png() -> Vec<u8> {
    let mut image = png_of(1, 1);
    image[16..24].copy_from_slice(&[0, 0, 0x13, 0x88, 0, 0, 0x13, 0x89]);
    image.resize(1024, 0);
    image
}

#[tokio::test]
async fn masks_of_large_images_need_the_size_of_the_logits() {
    let app = App::new(Limits::default(), 1);
    let engine = FakeEngine {
        behavior: Behavior::Logits,
        started: mpsc::channel().0,
        permits: mpsc::channel().1,
    };
    let model = fake_model(&app, "lraspp_mobilenet_v3_large", Box::new(engine));
    app.set_ready(registry_of(model));
    let app = Arc::new(app);
    for (query, status, code) in [
        ("", 413, "too_many_pixels"),
        ("?mask=rle", 413, "too_many_pixels"),
        ("?annotate=true", 413, "too_many_pixels"),
        // These responses have no mask of the image's size, so the server accepts the size and
        // fails to decode the file, whose pixel data is missing.
        ("?mask=none", 422, "damaged_image"),
        ("?size=logits", 422, "damaged_image"),
    ] {
        let mut request = post(Body::from(head_of_large_png()));
        *request.uri_mut() = format!("/v1/segment{query}").parse().unwrap();
        let response = send(Arc::clone(&app), request).await;
        expect_problem(response, status, code).await;
        expect_nothing_reserved(&app).await;
    }
}

#[tokio::test]
async fn large_bodies_of_every_framing_are_scanned_on_the_pool() {
    let app = Setup::running(Behavior::Logits, Limits::default());
    let mut file = png_file();
    file.resize(2 * extract::INLINE_BYTES, 0);
    let encoded = STANDARD.encode(&file);
    let form = [
        b"--x\r\ncontent-disposition: form-data; name=image\r\n\r\n",
        &file[..],
        b"\r\n--x--\r\n",
    ];
    for (kind, body) in [
        ("image/png", file.clone()),
        ("multipart/form-data; boundary=x", form.concat()),
        (
            "application/json",
            format!(r#"{{"images":[{{"data":"{encoded}"}}]}}"#).into_bytes(),
        ),
    ] {
        let mut request = post(Body::from(body));
        request
            .headers_mut()
            .insert(CONTENT_TYPE, kind.parse().unwrap());
        let response = send(Arc::clone(&app), request).await;
        assert_eq!(response.status(), StatusCode::OK, "{kind}");
        drop(response);
        expect_nothing_reserved(&app).await;
    }
}

#[tokio::test]
async fn large_images_are_not_drawn_into() {
    let app = Setup::running(Behavior::Boxes, Limits::default());
    let response = draw(&app, &head_of_large_png(), 1).await;
    expect_problem(response, 413, "too_many_pixels").await;
    expect_nothing_reserved(&app).await;
}

#[tokio::test]
async fn a_model_without_free_workers_is_unavailable() {
    let app = Setup::running(Behavior::Logits, Limits::default());
    let model = Arc::clone(&app.registry().unwrap().snapshot().models()[0]);
    let batcher = &model.batcher;
    batcher.pretend_stuck(true);
    for request in [post(png()), get("/health/ready")] {
        let response = send(Arc::clone(&app), request).await;
        assert_eq!(response.headers()[RETRY_AFTER], "1");
        assert!(!response.headers().contains_key(CONNECTION));
        expect_problem(response, 503, "model_stuck").await;
    }
    assert_eq!(rejections(&app, "model_stuck"), 1.0);
    batcher.pretend_stuck(false);
    for request in [post(png()), get("/health/ready")] {
        let response = send(Arc::clone(&app), request).await;
        assert_eq!(response.status(), StatusCode::OK);
    }
}

#[tokio::test]
async fn a_model_that_is_not_ready_leaves_the_server_ready_for_others() {
    let app = App::new(Limits::default(), 1);
    let models = [
        (catalogue::DEFAULT_MODEL, Behavior::Logits),
        ("ssdlite320_mobilenet_v3_large", Behavior::Boxes),
    ];
    let entries = models.map(|(name, behavior)| {
        let engine = FakeEngine {
            behavior,
            started: mpsc::channel().0,
            permits: mpsc::channel().1,
        };
        let model = fake_model(&app, name, Box::new(engine));
        Entry::loaded(fake_source(name, "fp32"), model)
    });
    app.set_ready(Registry::new(entries.into()));
    let app = Arc::new(app);
    let ask = |path| send(Arc::clone(&app), get(path));
    assert!(
        json(ask("/health/ready").await).await["unready_models"].is_null(),
        "all models are ready"
    );
    let loaded = app.registry().unwrap().snapshot().models();
    loaded[1].batcher.pretend_stuck(true);
    let response = ask("/health/ready").await;
    assert_eq!(response.status(), StatusCode::OK);
    let unready = &json(response).await["unready_models"];
    assert_eq!(unready, &serde_json::json!([loaded[1].id()]));
    let models = json(ask("/v1/models").await).await;
    let [first, second] = [0, 1].map(|index| &models["models"][index]);
    assert_eq!(
        (&first["ready"], &first["unready_reason"]),
        (&Value::Bool(true), &Value::Null)
    );
    assert_eq!(second["ready"], false);
    assert!(second["unready_reason"].as_str().unwrap().contains("stuck"));
    assert_eq!(metric(&app, "sightline_model_ready"), 1.0);
    let response = send(Arc::clone(&app), post(png())).await;
    assert_eq!(response.status(), StatusCode::OK);
    loaded[0].batcher.pretend_stuck(true);
    let response = ask("/health/ready").await;
    expect_problem(response, 503, "model_stuck").await;
    for model in &loaded {
        model.batcher.pretend_stuck(false);
    }
    assert_eq!(ask("/health/ready").await.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_server_that_starts_or_drains_is_unavailable() {
    let app = Arc::new(App::new(Limits::default(), 1));
    for request in [post(png()), get("/health/ready"), get("/v1/models")] {
        let response = send(Arc::clone(&app), request).await;
        assert_eq!(response.headers()[RETRY_AFTER], "1");
        assert!(!response.headers().contains_key(CONNECTION));
        expect_problem(response, 503, "starting").await;
    }
    assert_eq!(
        rejections(&app, "starting"),
        1.0,
        "only the classification request is counted as rejected"
    );
    let app = Setup::running(Behavior::Logits, Limits::default());
    app.start_draining();
    for request in [post(png()), get("/health/ready")] {
        let response = send(Arc::clone(&app), request).await;
        assert_eq!(response.headers()[RETRY_AFTER], "1");
        assert_eq!(response.headers()[CONNECTION], "close");
        expect_problem(response, 503, "draining").await;
    }
    assert_eq!(rejections(&app, "draining"), 1.0);
    let leaving = Setup::running(Behavior::Logits, Limits::default());
    leaving.start_leaving();
    let response = send(Arc::clone(&leaving), get("/health/ready")).await;
    assert_eq!(response.headers()[CONNECTION], "close");
    expect_problem(response, 503, "draining").await;
    let response = send(leaving, post(png())).await;
    assert_eq!(response.headers()[CONNECTION], "close");
    assert_eq!(response.status(), StatusCode::OK);
    let live = send(app, get("/health/live")).await;
    assert_eq!(live.status(), StatusCode::OK);
}

#[tokio::test]
async fn an_exhausted_body_budget_rejects() {
    let app = Setup::running(Behavior::Logits, Limits::default());
    let others = app.bodies.try_acquire(app.bodies.total()).unwrap();
    let response = send(Arc::clone(&app), post(png())).await;
    assert_eq!(response.headers()[RETRY_AFTER], "1");
    expect_problem(response, 429, "body_memory").await;
    assert_eq!(rejections(&app, "body_memory"), 1.0);
    drop(others);
    let response = send(Arc::clone(&app), post(png())).await;
    assert_eq!(response.status(), StatusCode::OK);
    drop(response);
    expect_nothing_reserved(&app).await;
}

/// Returns a server with one fake model and with a memory plan that `change` has modified; the plan
/// before this change has no limit on the total memory.
fn with_memory(change: impl FnOnce(&mut MemoryPlan)) -> Arc<App> {
    let limits = Limits::default();
    let demands = Demands::new(&limits, 1, Demand::fixed(0));
    let mut plan = MemoryPlan::unlimited(&demands);
    change(&mut plan);
    Setup::with(Behavior::Logits, App::planned(limits, 1, &plan)).app
}

#[tokio::test]
async fn responses_have_memory_of_their_own() {
    let app = Setup::running(Behavior::Logits, Limits::default());
    let others = app.responses.try_acquire(app.responses.total()).unwrap();
    let response = send(Arc::clone(&app), post(png())).await;
    assert_eq!(response.headers()[RETRY_AFTER], "1");
    expect_problem(response, 429, "response_memory").await;
    assert_eq!(rejections(&app, "response_memory"), 1.0);
    drop(others);
    let response = send(Arc::clone(&app), post(png())).await;
    assert_eq!(response.status(), StatusCode::OK);
    let held = metric(&app, "kind=\"responses\",state=\"used\"");
    assert_eq!(held, 65_536.0, "until the client has read it");
    drop(response);
    expect_nothing_reserved(&app).await;
}

#[tokio::test]
async fn a_response_over_all_memory_for_responses_is_too_large() {
    let app = with_memory(|plan| plan.responses = 0);
    let response = send(Arc::clone(&app), post(png())).await;
    assert!(!response.headers().contains_key(RETRY_AFTER));
    expect_problem(response, 413, "response_too_large").await;
    expect_nothing_reserved(&app).await;
}

#[tokio::test]
async fn an_image_over_all_memory_for_images_is_rejected() {
    // The predicted memory for decoding this PNG of 4.5 megapixels is 15.4 MB.
    let image = png_of(3000, 1500);
    for (megabytes, status) in [(15, 413), (16, 200)] {
        let app = with_memory(|plan| plan.large_pixels = megabytes * 1_000_000);
        let response = send(Arc::clone(&app), post(Body::from(image.clone()))).await;
        if status == 413 {
            expect_problem(response, 413, "too_much_memory").await;
            let small = send(Arc::clone(&app), post(png())).await;
            assert_eq!(small.status(), StatusCode::OK);
        } else {
            assert_eq!(response.status(), status);
        }
    }
}

#[test]
fn models_share_the_memory_for_tensors() {
    let app = App::new(Limits::default(), 1);
    let (started, permits) = (mpsc::channel().0, mpsc::channel().1);
    let engine = FakeEngine {
        behavior: Behavior::Logits,
        started,
        permits,
    };
    let boxes = FakeEngine {
        started: mpsc::channel().0,
        permits: mpsc::channel().1,
        behavior: Behavior::Logits,
    };
    let detector = "ssdlite320_mobilenet_v3_large";
    let models = [
        fake_model(&app, catalogue::DEFAULT_MODEL, Box::new(engine)),
        fake_model(&app, detector, Box::new(boxes)),
    ];
    // The input tensor of the largest image for a fake model takes 12 MiB, so two models need 24
    // MiB.
    let total = || metric(&app, "kind=\"tensors\",state=\"total\"") as u64 >> 20;
    let error = share_tensor_memory(&models, 23 << 20).unwrap_err();
    let message = error.to_string();
    assert!(
        message.contains("set `tensor_memory_bytes` to at least 25165824"),
        "{message}"
    );
    assert!(
        message.contains("ssdlite320_mobilenet_v3_large@fp32: 12582912"),
        "{message}"
    );
    assert_eq!(total(), 24, "room for one image of each");
    share_tensor_memory(&models, 100 << 20).unwrap();
    assert_eq!(total(), 100);
}

#[tokio::test]
async fn a_busy_pool_delays() {
    let app = Setup::running(Behavior::Logits, Limits::default());
    let (release, held) = mpsc::channel::<()>();
    let others = app.pool.start(JobCost::time(1), move || held.recv()).await;
    let waiting = tokio::spawn(send(Arc::clone(&app), post(png())));
    eventually(&app, "kind=\"tensors\",state=\"used\"", 655_360.0).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    drop(release);
    let _ = others.unwrap().await;
    let response = waiting.await.unwrap();
    let timing = response.headers()["server-timing"].to_str().unwrap();
    let admission = timing.strip_prefix("admission;dur=").unwrap();
    let admission = admission.split(',').next().unwrap();
    assert!(admission.parse::<f64>().unwrap() >= 20.0, "{timing}");
}

#[tokio::test]
async fn a_ready_tensor_enters_at_the_queue() {
    let app = Setup::running(Behavior::Logits, Limits::default());
    let run = async |side: u32, values: usize| {
        let model = Arc::clone(&app.registry()?.snapshot().models()[0]);
        let deadline = Deadline::after(app.limits.request_timeout);
        let admission = Admission::new(&app, model, deadline)?;
        let size = ImageSize {
            width: side,
            height: side,
        };
        let tensor = PreparedImage::whole(size, vec![0.0; values]);
        let request = pipeline::Request {
            inputs: vec![Input::Prepared(tensor)],
            postprocess: RawOutputs,
        };
        pipeline::run(&app, admission, request).await
    };
    let response = run(4, 48).await.unwrap();
    assert_eq!(
        response.results[0].f32("logits").unwrap().data,
        [1.0, 3.0, 2.0]
    );
    for (side, values) in [(4, 47), (0, 0), (2000, 12_000_000)] {
        let error = run(side, values).await.err().unwrap().to_string();
        assert!(error.starts_with("`inputs[0]`: expected"), "{error}");
    }
    drop(response);
    expect_nothing_reserved(&app).await;
}
