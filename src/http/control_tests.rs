//! Tests of the control of models on the admin listener, with fake engines: what happens to requests
//! while their model is replaced, unloaded or removed.

use std::collections::HashMap;
use std::sync::{Mutex, mpsc};

use axum::body::Body;
use axum::http::{Method, Request};
use axum::response::Response;
use serde_json::Value;
use tower::ServiceExt;

use super::router_tests::{
    Behavior, FakeEngine, expect_nothing_reserved, expect_problem, fake_source, fake_variant, get,
    json, metric, png, post, send,
};
use super::*;
use crate::app::Limits;
use crate::catalogue::DEFAULT_MODEL;
use crate::defaults::DefaultModel;
use crate::registry::{
    BrokenModel, DefaultRules, Entry, Find, Found, LoadFailure, LoadJob, Loads, ModelPlan, Offer,
    Registry,
};
use crate::store::{FileList, ModelSource};

const MIB: u64 = 1 << 20;
const SEGMENTATION: &str = "lraspp_mobilenet_v3_large";

/// The models that a fake search finds.
#[derive(Clone, Default)]
struct Files(Arc<Mutex<(Vec<ModelSource>, Vec<BrokenModel>)>>);

impl Find for Files {
    fn find(&self) -> Result<Found, String> {
        let (sources, broken) = self.0.lock().unwrap().clone();
        let files = |source: &ModelSource| (source.manifest.name.clone(), source.fingerprint());
        Ok(Found {
            files: sources.iter().map(files).collect::<HashMap<_, _>>(),
            offers: sources.into_iter().map(offer).collect(),
            broken,
        })
    }

    fn files(&self) -> FileList {
        FileList::default()
    }
}

impl Files {
    fn set(&self, sources: Vec<ModelSource>) {
        self.0.lock().unwrap().0 = sources;
    }
}

fn offer(source: ModelSource) -> Offer {
    Offer {
        plan: ModelPlan::new(&source.manifest, 1, None),
        source,
        at_start: true,
    }
}

/// Returns the built-in model with the labels `label` 0 to 2.
fn version(label: &str) -> ModelSource {
    let mut source = fake_source(DEFAULT_MODEL, "fp32");
    source.labels = (0..3).map(|id| format!("{label} {id}")).collect();
    source
}

/// A server with one loaded model, whose engine waits for permits, and a loader of fake models, whose
/// loads wait for permits.
struct Live {
    app: Arc<App>,
    registry: Registry,
    files: Files,
    /// Receives a message when the engine of the first version begins a batch.
    started: mpsc::Receiver<usize>,
    /// Each message lets that engine return one batch.
    batches: mpsc::Sender<()>,
    /// Each message lets one load end; loads do not wait once it is dropped.
    loads: Option<mpsc::Sender<()>>,
}

impl Live {
    fn new(configured: Option<&str>) -> Self {
        let app = Arc::new(App::new(Limits::default(), 1));
        let ((started_sender, started), (batches, permits)) = (mpsc::channel(), mpsc::channel());
        let engine = FakeEngine {
            behavior: Behavior::Logits,
            started: started_sender,
            permits,
        };
        let source = version("old");
        let mut model = fake_variant(&app, source.clone(), Box::new(engine), 8);
        model.batcher.finish_in_background();
        let (loads_sender, wait) = mpsc::channel::<()>();
        let (wait, loader) = (Mutex::new(wait), Arc::clone(&app));
        let load = move |job: LoadJob| {
            let _ = wait.lock().unwrap().recv();
            if job.source.labels[0].starts_with("broken") {
                return Err(LoadFailure::Other("the network is damaged".to_owned()));
            }
            let engine = FakeEngine {
                behavior: Behavior::Logits,
                started: mpsc::channel().0,
                permits: mpsc::channel().1,
            };
            Ok(fake_variant(&loader, job.source, Box::new(engine), 8))
        };
        let files = Files::default();
        files.set(vec![source.clone()]);
        let loads = Loads::new(1024 * MIB, load)
            .finding(files.clone())
            .measured(app.metrics.loads.clone());
        let configured = configured.map(|text| text.parse::<DefaultModel>().unwrap());
        let defaults = DefaultRules {
            configured: configured.into_iter().collect(),
            named: false,
        };
        let entries = vec![Entry::loaded(source, model)];
        let registry = Registry::with(entries, loads, defaults).unwrap();
        registry.remember(files.find().unwrap().files);
        app.set_ready(registry.clone());
        Self {
            app,
            registry,
            files,
            started,
            batches,
            loads: Some(loads_sender),
        }
    }

    /// Lets all loads end without waiting.
    fn release(&mut self) {
        self.loads = None;
    }

    /// Lets the engine of the first version return batches without waiting.
    fn run_freely(&mut self) {
        self.batches = mpsc::channel().0;
    }

    fn ask(&self) -> tokio::task::JoinHandle<Response> {
        tokio::spawn(send(Arc::clone(&self.app), post(png())))
    }

    /// Starts a request and waits until the engine of the first version runs it.
    async fn running(&self) -> tokio::task::JoinHandle<Response> {
        let request = self.ask();
        while self.started.try_recv().is_err() {
            tokio::task::yield_now().await;
        }
        request
    }

    fn control(&self, path: &str) -> tokio::task::JoinHandle<Response> {
        let request = Request::builder().method(Method::POST);
        let request = request.uri(format!("/v1/models/{path}"));
        let request = request.body(Body::empty()).unwrap();
        let router = admin_router(Arc::clone(&self.app));
        tokio::spawn(async move { router.oneshot(request).await.unwrap() })
    }

    async fn listed(&self) -> Vec<Value> {
        let list = json(send(Arc::clone(&self.app), get("/v1/models")).await).await;
        list["models"].as_array().unwrap().clone()
    }
}

async fn label(response: Response) -> String {
    let body = json(response).await;
    let label = &body["results"][0]["predictions"][0]["label"];
    label
        .as_str()
        .unwrap_or_else(|| panic!("{body}"))
        .to_owned()
}

#[tokio::test]
async fn a_request_keeps_its_model_to_the_end_and_its_stuck_worker_delays_nobody() {
    let mut live = Live::new(None);
    live.release();
    let running = live.running().await;
    let queued = live.ask();
    while metric(&live.app, "sightline_queue_depth") < 1.0 {
        tokio::task::yield_now().await;
    }
    live.files.set(vec![version("new")]);
    let loaded = live.control("efficientnet_lite0/load").await.unwrap();
    assert_eq!(loaded.status(), 200);
    assert_eq!(json(loaded).await["labels"][0], "new 0");
    assert_eq!(label(live.ask().await.unwrap()).await, "new 1");
    let unloaded = live.control("efficientnet_lite0/unload").await.unwrap();
    assert_eq!(json(unloaded).await["state"], "unloaded");
    // The worker of the old version still runs the first batch.
    live.batches.send(()).unwrap();
    assert_eq!(label(running.await.unwrap()).await, "old 1");
    live.batches.send(()).unwrap();
    assert_eq!(label(queued.await.unwrap()).await, "old 1");
    let problem = live.ask().await.unwrap();
    expect_problem(problem, 503, "model_unloaded").await;
    assert!(live.started.recv().is_ok_and(|images| images == 1));
    assert!(live.started.recv().is_err(), "the old engine was dropped");
    expect_nothing_reserved(&live.app).await;
}

#[tokio::test]
async fn a_model_with_another_task_replaces_one_that_is_not_a_configured_default() {
    let mut other = fake_source(SEGMENTATION, "fp32");
    DEFAULT_MODEL.clone_into(&mut other.manifest.name);
    for (configured, replaced) in [
        (None, true),
        (Some("classification=efficientnet_lite0"), false),
    ] {
        let mut live = Live::new(configured);
        live.release();
        let running = live.running().await;
        live.files.set(vec![other.clone()]);
        let response = live.control("efficientnet_lite0/load").await.unwrap();
        assert_eq!(response.status() == 200, replaced);
        live.batches.send(()).unwrap();
        assert_eq!(label(running.await.unwrap()).await, "old 1");
        let listed = live.listed().await;
        if replaced {
            assert_eq!(listed[0]["task"], "segmentation");
            expect_problem(live.ask().await.unwrap(), 404, "no_model").await;
        } else {
            let error = listed[0]["error"].as_str().unwrap();
            assert!(error.contains("`default_models`"), "{error}");
            assert_eq!(listed[0]["task"], "classification");
        }
    }
}

#[tokio::test]
async fn a_second_operation_on_a_model_is_a_conflict() {
    let mut live = Live::new(None);
    live.files.set(vec![version("new")]);
    let first = live.control("efficientnet_lite0/load");
    for path in ["efficientnet_lite0/load", "efficientnet_lite0@fp32/unload"] {
        let response = live.control(path).await.unwrap();
        expect_problem(response, 409, "model_busy").await;
    }
    // The client leaves; the load continues.
    first.abort();
    live.run_freely();
    assert_eq!(label(live.ask().await.unwrap()).await, "old 1");
    live.release();
    while label(live.ask().await.unwrap()).await != "new 1" {}
}

#[tokio::test]
async fn failures_are_reported_and_the_old_model_serves() {
    let mut live = Live::new(None);
    live.release();
    live.run_freely();
    let sample = r#"sightline_model_reloads_total{model="efficientnet_lite0",variant="fp32",result="failure"}"#;
    live.files.set(vec![version("broken")]);
    let response = live.control("efficientnet_lite0/load").await.unwrap();
    assert_eq!(response.status(), 503);
    let detail = json(response).await["detail"].clone();
    assert!(detail.as_str().unwrap().contains("the network is damaged"));
    assert_eq!(live.listed().await[0]["error"], "the network is damaged");
    assert_eq!(label(live.ask().await.unwrap()).await, "old 1");
    assert_eq!(metric(&live.app, sample), 1.0);

    // A broken entry is not a removed one, and an empty directory removes nothing.
    let broken = BrokenModel {
        name: DEFAULT_MODEL.to_owned(),
        path: None,
        reason: "the manifest\nis damaged".to_owned(),
    };
    let mut other = version("other");
    "fish".clone_into(&mut other.manifest.name);
    *live.files.0.lock().unwrap() = (vec![other], vec![broken]);
    assert_eq!(live.registry.sync(true).await.failed, 1);
    let listed = live.listed().await;
    assert_eq!(listed[0]["error"], "the manifest\\nis damaged");
    assert_eq!(listed[1]["name"], "fish");
    *live.files.0.lock().unwrap() = (Vec::new(), Vec::new());
    assert_eq!(live.registry.sync(false).await.failed, 1);
    assert_eq!(live.listed().await.len(), 2);

    // The repaired model clears the error; the other one is gone.
    live.files.set(vec![version("new")]);
    let changes = live.registry.sync(false).await;
    assert_eq!((changes.changed, changes.failed), (2, 0));
    let listed = live.listed().await;
    assert_eq!((listed.len(), &listed[0]["error"]), (1, &Value::Null));
    assert_eq!(label(live.ask().await.unwrap()).await, "new 1");
    assert_eq!(live.registry.sync(false).await.changed, 0);
}

#[tokio::test]
async fn an_unloaded_model_stays_unloaded_when_its_files_change() {
    let mut live = Live::new(None);
    live.release();
    live.control("efficientnet_lite0/unload").await.unwrap();
    live.files.set(vec![version("new")]);
    assert_eq!(live.registry.sync(false).await.changed, 1);
    assert_eq!(live.listed().await[0]["state"], "unloaded");
    expect_problem(live.ask().await.unwrap(), 503, "model_unloaded").await;
    live.control("efficientnet_lite0/load").await.unwrap();
    assert_eq!(label(live.ask().await.unwrap()).await, "new 1");
}

#[tokio::test]
async fn a_web_page_cannot_change_models() {
    let mut live = Live::new(None);
    live.release();
    let foreign = [
        ("origin", "https://evil.example"),
        ("origin", "null"),
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
    ];
    let own = [
        ("sec-fetch-site", "none"),
        ("sec-fetch-site", "same-origin"),
    ];
    let control = |path, (name, value)| {
        let request = Request::builder().method(Method::POST).header(name, value);
        let request = request.uri(format!("/v1/models/efficientnet_lite0/{path}"));
        let request = request.body(Body::empty()).unwrap();
        admin_router(Arc::clone(&live.app)).oneshot(request)
    };
    for path in ["load", "unload"] {
        for header in foreign {
            let response = control(path, header).await.unwrap();
            expect_problem(response, 403, "cross_origin").await;
        }
    }
    assert_eq!(live.listed().await[0]["state"], "loaded");
    for header in own {
        assert_eq!(control("load", header).await.unwrap().status(), 200);
    }
}

#[tokio::test]
async fn a_load_that_waits_ends_when_the_server_drains() {
    let live = Live::new(None);
    let load = live.control("efficientnet_lite0/load");
    let second = live.control("efficientnet_lite0/load").await.unwrap();
    expect_problem(second, 409, "model_busy").await;
    live.app.start_draining();
    expect_problem(load.await.unwrap(), 503, "draining").await;
}

#[tokio::test]
async fn the_public_listener_points_to_the_admin_listener() {
    let live = Live::new(None);
    for (method, status, hint) in [("POST", 404, "--admin-listen"), ("GET", 405, "use POST")] {
        let request = Request::builder().method(method);
        let request = request.uri("/v1/models/efficientnet_lite0/unload");
        let request = request.body(Body::empty()).unwrap();
        let response = send(Arc::clone(&live.app), request).await;
        assert_eq!(response.status(), status);
        assert!(
            json(response).await["detail"]
                .as_str()
                .unwrap()
                .contains(hint)
        );
    }
    assert_eq!(live.listed().await[0]["state"], "loaded");
}
