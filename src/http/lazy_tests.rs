//! Tests of the router with models that are loaded on first use by a fake loader: waiting, failure
//! and retry, the limits on waiting requests and on memory, and shutdown.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use axum::http::header::RETRY_AFTER;
use axum::response::Response;
use serde_json::Value;
use tokio::task::JoinHandle;

use super::grpc_tests::{self, STREAM, call, errors, framed, image, with};
use super::router_tests::{
    Behavior, FakeEngine, eventually, expect_nothing_reserved, expect_problem, fake_source,
    fake_variant, get, json, metric, png, png_file, post, rejections, send,
};
use super::*;
use crate::app::Limits;
use crate::catalogue::DEFAULT_MODEL;
use crate::registry::{
    DefaultRules, Entry, LoadFailure, LoadJob, Loads, MAX_WAITING, ModelPlan, Registry,
};

const MIB: u64 = 1 << 20;
const SEGMENTATION: &str = "lraspp_mobilenet_v3_large";

/// What the fake loader does with the next attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attempt {
    Succeeds,
    Fails,
    FindsChanges,
    Panics,
}

/// A server with the built-in model, whose fp32 variant is loaded, and whose variant `int8` a fake
/// loader loads, as well as a segmentation model that is not loaded.
struct Lazy {
    app: Arc<App>,
    attempt: Arc<Mutex<Attempt>>,
    /// Number of attempts that have begun.
    attempts: Arc<AtomicUsize>,
    /// Each message lets one attempt end. Attempts do not wait once the sender is dropped.
    permits: Option<mpsc::Sender<()>>,
}

fn engine() -> FakeEngine {
    FakeEngine {
        behavior: Behavior::Logits,
        started: mpsc::channel().0,
        permits: mpsc::channel().1,
    }
}

impl Lazy {
    fn new() -> Self {
        Self::with(Limits::default(), 1024 * MIB)
    }

    fn with(limits: Limits, tensor_bytes: u64) -> Self {
        let app = Arc::new(App::new(limits, 1));
        let attempt = Arc::new(Mutex::new(Attempt::Succeeds));
        let attempts = Arc::new(AtomicUsize::new(0));
        let (permits, wait) = mpsc::channel();
        let loads = Loads::new(tensor_bytes, {
            let (app, attempt, attempts) = (
                Arc::clone(&app),
                Arc::clone(&attempt),
                Arc::clone(&attempts),
            );
            let wait = Mutex::new(wait);
            move |job: LoadJob| {
                attempts.fetch_add(1, Ordering::SeqCst);
                let _ = wait.lock().unwrap().recv();
                let attempt = *attempt.lock().unwrap();
                match attempt {
                    Attempt::Succeeds => Ok(fake_variant(&app, job.source, Box::new(engine()), 8)),
                    Attempt::Fails => Err(LoadFailure::Other(
                        "/secret/model.onnx is damaged".to_owned(),
                    )),
                    Attempt::FindsChanges => Err(LoadFailure::Changed("/secret".to_owned())),
                    Attempt::Panics => panic!("the fake loader panics"),
                }
            }
        });
        let fp32 = fake_source(DEFAULT_MODEL, "fp32");
        let model = fake_variant(&app, fp32.clone(), Box::new(engine()), 8);
        let not_loaded = |source: crate::store::ModelSource| {
            let plan = ModelPlan::new(&source.manifest, 1, None);
            Entry::new(source, plan)
        };
        let entries = vec![
            Entry::loaded(fp32, model),
            not_loaded(fake_source(DEFAULT_MODEL, "int8")),
            not_loaded(fake_source(SEGMENTATION, "fp32")),
        ];
        let loads = loads.measured(app.metrics.loads.clone());
        let registry = Registry::with(entries, loads, DefaultRules::default()).unwrap();
        registry.share_tensor_memory(tensor_bytes).unwrap();
        app.set_ready(registry);
        Self {
            app,
            attempt,
            attempts,
            permits: Some(permits),
        }
    }

    /// Lets all attempts end without waiting for permits.
    fn release(&mut self) {
        self.permits = None;
    }

    fn begin(&self, attempt: Attempt) {
        *self.attempt.lock().unwrap() = attempt;
    }

    fn attempts(&self) -> usize {
        self.attempts.load(Ordering::SeqCst)
    }

    /// Waits until `attempts` attempts have begun.
    async fn begun(&self, attempts: usize) {
        while self.attempts() < attempts {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Starts a request for the variant `int8`.
    fn ask(&self) -> JoinHandle<Response> {
        tokio::spawn(send(
            Arc::clone(&self.app),
            to("model=efficientnet_lite0@int8"),
        ))
    }

    async fn answer(&self) -> Response {
        self.ask().await.unwrap()
    }

    /// Returns the state that `/v1/models` lists for the variant `int8`.
    async fn state(&self) -> String {
        let list = json(send(Arc::clone(&self.app), get("/v1/models")).await).await;
        list["models"][1]["state"].as_str().unwrap().to_owned()
    }
}

/// Returns a request to classify an image with the query `query`.
fn to(query: &str) -> Request<Body> {
    let mut request = post(png());
    *request.uri_mut() = format!("/v1/classify?{query}").parse().unwrap();
    request
}

async fn variant_of(response: Response) -> Value {
    assert_eq!(response.status(), 200);
    json(response).await["variant"].clone()
}

#[tokio::test]
async fn requests_for_a_variant_share_one_load() {
    let mut lazy = Lazy::new();
    assert_eq!(lazy.state().await, "not_loaded");
    let bare = send(Arc::clone(&lazy.app), to("model=efficientnet_lite0")).await;
    assert_eq!(variant_of(bare).await, "fp32");
    assert_eq!(lazy.attempts(), 0, "the bare name loads nothing");
    let waiting = [lazy.ask(), lazy.ask(), lazy.ask()];
    lazy.begun(1).await;
    assert_eq!(lazy.state().await, "loading");
    let ready = send(Arc::clone(&lazy.app), get("/health/ready")).await;
    assert_eq!(ready.status(), 200);
    // A client that leaves does not stop the load, from which the others are served.
    let [first, others @ ..] = waiting;
    first.abort();
    lazy.release();
    for response in others {
        assert_eq!(variant_of(response.await.unwrap()).await, "int8");
    }
    assert_eq!(variant_of(lazy.answer().await).await, "int8");
    assert_eq!(lazy.attempts(), 1);
    assert_eq!(lazy.state().await, "loaded");
    let loaded = r#"sightline_model_loaded{model="efficientnet_lite0",variant="int8"}"#;
    assert_eq!(metric(&lazy.app, loaded), 1.0);
    expect_nothing_reserved(&lazy.app).await;
}

#[tokio::test]
async fn a_load_continues_if_all_its_clients_leave() {
    let mut lazy = Lazy::new();
    let request = lazy.ask();
    lazy.begun(1).await;
    request.abort();
    let _ = request.await;
    lazy.release();
    while lazy.state().await != "loaded" {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(variant_of(lazy.answer().await).await, "int8");
    assert_eq!(lazy.attempts(), 1);
}

#[tokio::test]
async fn a_failed_load_is_a_problem_and_is_retried_after_a_pause() {
    for attempt in [Attempt::Fails, Attempt::Panics] {
        let mut lazy = Lazy::new();
        lazy.release();
        lazy.begin(attempt);
        let response = lazy.answer().await;
        assert!(response.headers().contains_key(RETRY_AFTER));
        assert_eq!(response.status(), 503);
        let problem = json(response).await;
        assert_eq!(problem["code"], "model_load_failed");
        assert!(!problem.to_string().contains("secret"), "{problem}");
        assert_eq!(lazy.state().await, "failed");
        let ready = send(Arc::clone(&lazy.app), get("/health/ready")).await;
        assert_eq!(ready.status(), 200, "the server serves its other models");
        let other = send(Arc::clone(&lazy.app), to("")).await;
        assert_eq!(variant_of(other).await, "fp32");

        // The model is repaired. Requests fail without an attempt until the pause has passed.
        lazy.begin(Attempt::Succeeds);
        let mut failed = 1;
        loop {
            let response = lazy.answer().await;
            if response.status() == 200 {
                assert_eq!(variant_of(response).await, "int8");
                break;
            }
            expect_problem(response, 503, "model_load_failed").await;
            failed += 1;
        }
        assert_eq!(lazy.attempts(), 2, "{failed} requests failed");
        assert_eq!(
            rejections(&lazy.app, "model_load_failed"),
            f64::from(failed)
        );
        expect_nothing_reserved(&lazy.app).await;
    }
}

/// Returns a request to segment an image with the model that is not loaded.
fn segment() -> Request<Body> {
    let mut request = post(png());
    *request.uri_mut() = "/v1/segment?mask=none".parse().unwrap();
    request
}

#[tokio::test]
async fn after_a_failed_load_only_models_that_have_not_failed_are_loaded_during_the_pause() {
    let mut lazy = Lazy::new();
    lazy.begin(Attempt::Fails);
    let first = lazy.ask();
    lazy.begun(1).await;
    // The attempt takes long enough that the pause outlasts this test.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let next = tokio::spawn(send(Arc::clone(&lazy.app), segment()));
    eventually(&lazy.app, "sightline_in_flight", 2.0).await;
    lazy.permits.as_ref().unwrap().send(()).unwrap();
    expect_problem(first.await.unwrap(), 503, "model_load_failed").await;
    // A model that was never tried fails once, in spite of the pause.
    lazy.release();
    expect_problem(next.await.unwrap(), 503, "model_load_failed").await;
    assert_eq!(lazy.attempts(), 2);
    // Both have failed now, and neither is tried again.
    for _ in 0..3 {
        let response = send(Arc::clone(&lazy.app), segment()).await;
        assert!(response.headers().contains_key(RETRY_AFTER));
        expect_problem(response, 503, "model_load_failed").await;
        expect_problem(lazy.answer().await, 503, "model_load_failed").await;
    }
    let other = send(Arc::clone(&lazy.app), to("")).await;
    assert_eq!(variant_of(other).await, "fp32");
    assert_eq!(lazy.attempts(), 2);
}

#[tokio::test]
async fn a_broken_variant_that_is_polled_does_not_keep_a_healthy_one_from_loading() {
    let mut lazy = Lazy::new();
    lazy.release();
    lazy.begin(Attempt::Fails);
    expect_problem(lazy.answer().await, 503, "model_load_failed").await;
    lazy.begin(Attempt::Succeeds);
    expect_problem(lazy.answer().await, 503, "model_load_failed").await;
    // The fake engine's outputs are not those of a segmentation model, but the model is loaded.
    expect_problem(
        send(Arc::clone(&lazy.app), segment()).await,
        500,
        "internal",
    )
    .await;
    assert_eq!(lazy.attempts(), 2);
}

#[tokio::test]
async fn a_load_that_needs_an_operator_is_not_repeated() {
    let small = 23 * MIB;
    for (attempt, tensor_bytes, code) in [
        (Attempt::FindsChanges, 1024 * MIB, "model_load_failed"),
        (Attempt::Succeeds, small, "model_memory"),
    ] {
        let mut lazy = Lazy::with(Limits::default(), tensor_bytes);
        lazy.release();
        lazy.begin(attempt);
        for wait in [Duration::ZERO, Duration::from_millis(1100)] {
            tokio::time::sleep(wait).await;
            let response = lazy.answer().await;
            assert_eq!(response.headers()[RETRY_AFTER], "3600");
            assert_eq!(response.status(), 503);
            let problem = json(response).await;
            assert_eq!(problem["code"], code);
            let detail = problem["detail"].as_str().unwrap();
            assert!(detail.contains("the operator has to"), "{detail}");
            assert!(!problem.to_string().contains("secret"), "{problem}");
        }
        assert_eq!(lazy.attempts(), 1);
    }
}

#[tokio::test]
async fn few_requests_wait_and_no_longer_than_their_deadline() {
    let limits = Limits {
        request_timeout: Duration::from_secs(2),
        ..Limits::default()
    };
    let lazy = Lazy::with(limits, 1024 * MIB);
    let waiting: Vec<_> = (0..MAX_WAITING).map(|_| lazy.ask()).collect();
    eventually(&lazy.app, "sightline_in_flight", MAX_WAITING as f64).await;
    lazy.begun(1).await;
    let response = lazy.answer().await;
    assert!(response.headers().contains_key(RETRY_AFTER));
    expect_problem(response, 503, "model_loading").await;
    assert_eq!(metric(&lazy.app, "state=\"used\""), 0.0, "no body was read");
    for response in waiting {
        expect_problem(response.await.unwrap(), 504, "deadline_passed").await;
    }
    assert_eq!(lazy.attempts(), 1);
}

#[tokio::test]
async fn a_wrong_request_loads_nothing() {
    let lazy = Lazy::new();
    for (query, status, code) in [
        (
            "model=efficientnet_lite0@int8&top_k=0",
            400,
            "bad_parameter",
        ),
        ("model=efficientnet_lite0@int8&topk=1", 400, "bad_parameter"),
        ("model=lraspp_mobilenet_v3_large", 404, "wrong_task"),
        ("model=efficientnet_lite0@int4", 404, "unknown_model"),
    ] {
        let response = send(Arc::clone(&lazy.app), to(query)).await;
        expect_problem(response, status, code).await;
    }
    let shown = get("/v1/models/efficientnet_lite0@int8");
    let shown = json(send(Arc::clone(&lazy.app), shown).await).await;
    assert_eq!(shown["state"], "not_loaded");
    assert_eq!(shown["labels"][1], "dog");
    assert_eq!(shown["batching"]["max_queue_size"], 256);
    assert_eq!(lazy.attempts(), 0);
}

#[tokio::test]
async fn a_stop_ends_the_waiting_but_not_the_process_that_loads() {
    let mut lazy = Lazy::new();
    let waiting = lazy.ask();
    lazy.begun(1).await;
    lazy.app.start_draining();
    expect_problem(waiting.await.unwrap(), 503, "draining").await;
    expect_problem(lazy.answer().await, 503, "draining").await;
    expect_nothing_reserved(&lazy.app).await;
    lazy.release();
}

#[tokio::test]
async fn during_the_drain_delay_requests_wait_for_a_load_in_progress_but_none_begins() {
    let mut lazy = Lazy::new();
    let waiting = lazy.ask();
    lazy.begun(1).await;
    lazy.app.start_leaving();
    let other = send(Arc::clone(&lazy.app), segment()).await;
    expect_problem(other, 503, "draining").await;
    let later = lazy.ask();
    lazy.release();
    for response in [waiting.await.unwrap(), later.await.unwrap()] {
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["connection"], "close");
    }
    assert_eq!(lazy.attempts(), 1);
}

#[tokio::test]
async fn models_are_loaded_one_after_the_other() {
    let mut lazy = Lazy::new();
    let first = lazy.ask();
    lazy.begun(1).await;
    let second = tokio::spawn(send(Arc::clone(&lazy.app), segment()));
    eventually(&lazy.app, "sightline_in_flight", 2.0).await;
    while json(send(Arc::clone(&lazy.app), get("/v1/models")).await).await["models"][2]["state"]
        != "loading"
    {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(lazy.attempts(), 1);
    lazy.release();
    assert_eq!(first.await.unwrap().status(), 200);
    // The fake engine's outputs are not those of a segmentation model.
    expect_problem(second.await.unwrap(), 500, "internal").await;
    assert_eq!(lazy.attempts(), 2);
}

#[tokio::test]
async fn a_new_model_takes_its_part_of_the_memory_for_tensors() {
    // The input tensor of the largest image for a fake model takes 12 MiB.
    let total = |app: &App| metric(app, "kind=\"tensors\",state=\"total\"") as u64 / MIB;
    for (tensor_bytes, fits) in [(24, true), (100, true), (23, false)] {
        let mut lazy = Lazy::with(Limits::default(), tensor_bytes * MIB);
        lazy.release();
        assert_eq!(total(&lazy.app), tensor_bytes);
        let response = lazy.answer().await;
        if fits {
            assert_eq!(variant_of(response).await, "int8");
        } else {
            assert!(response.headers().contains_key(RETRY_AFTER));
            expect_problem(response, 503, "model_memory").await;
            assert_eq!(rejections(&lazy.app, "model_memory"), 1.0);
            let loaded = r#"sightline_model_loaded{model="efficientnet_lite0",variant="int8"}"#;
            assert_eq!(metric(&lazy.app, loaded), 0.0);
        }
        // A model that does not fit is dropped on another thread.
        let budget = "kind=\"tensors\",state=\"total\"";
        eventually(&lazy.app, budget, (tensor_bytes * MIB) as f64).await;
        let other = send(Arc::clone(&lazy.app), to("")).await;
        assert_eq!(variant_of(other).await, "fp32");
        expect_nothing_reserved(&lazy.app).await;
    }
}

#[tokio::test]
async fn an_unknown_name_is_answered_with_what_exists() {
    let lazy = Lazy::new();
    let all = "efficientnet_lite0@fp32, efficientnet_lite0@int8, lraspp_mobilenet_v3_large@fp32";
    let segmentation = "lraspp_mobilenet_v3_large@fp32, efficientnet_lite0@fp32, \
                        efficientnet_lite0@int8";
    for (name, meant, served) in [
        (
            "efficientnet_lite",
            "; did you mean `efficientnet_lite0`?",
            all,
        ),
        (
            "efficientnet_lite0@int4",
            "; did you mean `efficientnet_lite0@int8`?",
            all,
        ),
        (
            "eficientnet_lite0@int8",
            "; did you mean `efficientnet_lite0@int8`?",
            all,
        ),
        (
            "eficientnet_lite0@int4",
            "; did you mean `efficientnet_lite0`?",
            all,
        ),
        ("vgg16", ";", all),
        ("lraspp_mobilenet_v3_large@320", ";", segmentation),
    ] {
        let response = send(Arc::clone(&lazy.app), to(&format!("model={name}"))).await;
        assert_eq!(response.status(), 404);
        let problem = json(response).await;
        let detail = format!("model `{name}` is not served{meant} served models: {served}");
        assert_eq!(problem["detail"], detail);
        assert_eq!(problem["expected"], served);
        assert_eq!(problem["got"], name);
    }
}

#[tokio::test]
async fn a_stream_ends_at_its_deadline_although_a_model_is_loaded() {
    let lazy = Lazy::new();
    let mut request = image("0", png_file());
    request.model_name = format!("{DEFAULT_MODEL}_image@int8");
    let stream = with(call(STREAM, framed(&[request])), "grpc-timeout", "100m");
    let ended = grpc_tests::send(&lazy.app, stream).await;
    assert_eq!(lazy.attempts(), 1);
    let errors = errors(&ended);
    assert!(errors[0].contains("within its deadline"), "{errors:?}");
}
