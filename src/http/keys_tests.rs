//! Tests of the router with API keys: who is let in, what others are told, and the limits of a key.

use std::fs;
use std::io;

use axum::body::Body;
use axum::http::Request;
use axum::http::header::{AUTHORIZATION, EXPECT, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use tower::ServiceExt;

use super::router_tests::{
    Behavior, Setup, eventually, expect_nothing_reserved, expect_problem, get, json, metric, png,
    post, rejections, send,
};
use super::*;
use crate::app::Limits;
use crate::keys::{KeyDigest, KeyFile};

/// Returns a server with the keys of `lines`, pairs of a name with limits and a key.
fn setup(lines: &[(&str, &str)]) -> Setup {
    let line = |(name, key): &(&str, &str)| {
        let (name, limits) = name.split_once(' ').unwrap_or((name, ""));
        format!("{name} {} {limits}\n", KeyDigest::of(key.as_bytes()))
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys");
    fs::write(&path, lines.iter().map(line).collect::<String>()).unwrap();
    let mut app = App::new(Limits::default(), 1);
    app.keys = Some(Arc::new(KeyFile::load(&path).unwrap()));
    Setup::with(Behavior::Logits, app)
}

fn app(lines: &[(&str, &str)]) -> Arc<App> {
    setup(lines).app
}

fn with_key(mut request: Request<Body>, key: &str) -> Request<Body> {
    let value = format!("Bearer {key}").parse().unwrap();
    request.headers_mut().insert(AUTHORIZATION, value);
    request
}

fn with(mut request: Request<Body>, name: &'static str, value: &str) -> Request<Body> {
    request.headers_mut().append(name, value.parse().unwrap());
    request
}

async fn classify(app: &Arc<App>, key: &str) -> Response {
    send(Arc::clone(app), with_key(post(png()), key)).await
}

#[tokio::test]
async fn either_header_lets_a_request_in() {
    let app = app(&[("alice", "a"), ("bob", "b")]);
    let requests = [
        with_key(post(png()), "a"),
        with(post(png()), "x-api-key", "b"),
        with(with_key(post(png()), "a"), "x-api-key", "a"),
        with(
            with(post(png()), "authorization", "Basic dTpw"),
            "x-api-key",
            "b",
        ),
    ];
    for request in requests {
        let response = send(Arc::clone(&app), request).await;
        assert_eq!(response.status(), 200);
        let body = json(response).await;
        assert_eq!(body["results"][0]["predictions"][0]["label"], "dog");
    }
    let count = |key: &str| metric(&app, &format!("{{key=\"{key}\",status=\"200\"}}"));
    assert_eq!([count("alice"), count("bob")], [2.0, 2.0]);
    expect_nothing_reserved(&app).await;
}

#[tokio::test]
async fn a_request_without_a_valid_key_is_rejected_before_its_body_is_read() {
    let app = app(&[("alice", "a")]);
    let silent = || Body::from_stream(stream::pending::<io::Result<Bytes>>());
    let waiting = || {
        let mut request = post(silent());
        let expect = "100-continue".parse().unwrap();
        request.headers_mut().insert(EXPECT, expect);
        request
    };
    let long = "x".repeat(20_000);
    let cases = [
        (waiting(), 401, "unauthorized"),
        (
            with(waiting(), "authorization", "Basic YTph"),
            401,
            "unauthorized",
        ),
        (with_key(waiting(), "wrong"), 401, "invalid_api_key"),
        (with_key(waiting(), ""), 401, "invalid_api_key"),
        (with_key(waiting(), &long), 401, "invalid_api_key"),
        (with(waiting(), "x-api-key", "A"), 401, "invalid_api_key"),
        (
            with(with_key(waiting(), "a"), "x-api-key", "b"),
            400,
            "bad_parameter",
        ),
        (
            with(with_key(waiting(), "a"), "authorization", "Bearer b"),
            400,
            "bad_parameter",
        ),
    ];
    for (request, status, code) in cases {
        let response = send(Arc::clone(&app), request).await;
        let challenge = response.headers().get(WWW_AUTHENTICATE);
        let challenge = challenge.map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(
            challenge.is_some_and(|it| it.starts_with("Bearer realm=")),
            status == 401
        );
        expect_problem(response, status, code).await;
    }
    assert_eq!(metric(&app, "sightline_key_requests_total"), 0.0);
    assert_eq!(
        metric(
            &app,
            "sightline_requests_total{route=\"/v1/classify\",status=\"401\""
        ),
        6.0
    );
    expect_nothing_reserved(&app).await;
}

#[tokio::test]
async fn every_route_but_probes_and_pages_needs_a_key() {
    let app = app(&[("alice", "a")]);
    for (path, _) in routes() {
        let open = pages::OPEN.contains(&path);
        let path = path.replace("{model}", "efficientnet_lite0");
        let probe = ["/health/", "/v2/health/"];
        let probe = probe.iter().any(|start| path.starts_with(start));
        let expected = match () {
            () if path.contains("{file}") => 404,
            () if probe || open => 200,
            () => 401,
        };
        let response = send(Arc::clone(&app), get(&path)).await;
        assert_eq!(response.status().as_u16(), expected, "{path}");
    }
    for path in [
        "/none",
        "/health",
        "/health/live/",
        "//health/live",
        "/HEALTH/LIVE",
    ] {
        let response = send(Arc::clone(&app), get(path)).await;
        expect_problem(response, 401, "unauthorized").await;
        let response = send(Arc::clone(&app), with_key(get(path), "a")).await;
        expect_problem(response, 404, "no_route").await;
    }
    let response = send(Arc::clone(&app), with_key(get("/metrics"), "a")).await;
    assert_eq!(response.status(), 200);
}

#[tokio::test]
async fn the_admin_listener_serves_probes_and_metrics_without_a_key() {
    let app = app(&[("alice", "a")]);
    let send = |path| admin_router(Arc::clone(&app)).oneshot(get(path));
    for path in ["/health/live", "/health/ready", "/metrics"] {
        assert_eq!(send(path).await.unwrap().status(), 200, "{path}");
    }
    let response = send("/v1/models/efficientnet_lite0/load").await.unwrap();
    expect_problem(response, 401, "unauthorized").await;
}

#[tokio::test]
async fn a_key_over_its_rate_is_told_when_to_retry() {
    let app = app(&[("slow rate=1/m", "a"), ("free", "b")]);
    assert_eq!(classify(&app, "a").await.status(), 200);
    let response = classify(&app, "a").await;
    let retry: u64 = response.headers()[RETRY_AFTER]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!((1..=60).contains(&retry), "{retry}");
    expect_problem(response, 429, "key_rate").await;
    assert_eq!(
        classify(&app, "b").await.status(),
        200,
        "others are not limited"
    );
    // A probe does not need the key and does not count.
    let probe = send(Arc::clone(&app), with_key(get("/health/live"), "a")).await;
    assert_eq!(probe.status(), 200);
    assert_eq!(metric(&app, "{key=\"slow\",status=\"429\"}"), 1.0);
    assert_eq!(rejections(&app, "key_rate"), 1.0);
}

#[tokio::test]
async fn a_key_has_a_number_of_requests_in_flight() {
    let setup = setup(&[("one concurrency=1", "a")]);
    let request = || {
        let app = Arc::clone(&setup.app);
        tokio::spawn(async move { classify(&app, "a").await })
    };
    let first = request();
    while setup.started.try_recv().is_err() {
        tokio::task::yield_now().await;
    }
    let response = request().await.unwrap();
    assert_eq!(response.headers()[RETRY_AFTER], "1");
    expect_problem(response, 429, "key_concurrency").await;
    assert_eq!(rejections(&setup.app, "key_concurrency"), 1.0);
    // A client that leaves frees its place.
    first.abort();
    assert!(first.await.is_err());
    drop(setup.permits);
    assert_eq!(request().await.unwrap().status(), 200);
    eventually(&setup.app, "sightline_in_flight", 0.0).await;
}

#[tokio::test]
async fn without_a_file_no_key_is_needed_and_keys_are_ignored() {
    let app = Setup::with(Behavior::Logits, App::new(Limits::default(), 1)).app;
    assert_eq!(classify(&app, "anything").await.status(), 200);
    assert_eq!(send(Arc::clone(&app), get("/metrics")).await.status(), 200);
    assert_eq!(metric(&app, "sightline_key_requests_total"), 0.0);
}

#[tokio::test]
async fn a_request_without_tls_is_rejected_without_asking_for_a_key() {
    let app = app(&[("alice", "a")]);
    for request in [
        post(png()),
        get("/health/ready"),
        with_key(post(png()), "a"),
    ] {
        let router = https_required_router(Arc::clone(&app));
        let response = router.oneshot(request).await.unwrap();
        assert!(!response.headers().contains_key(WWW_AUTHENTICATE));
        expect_problem(response, 400, "https_required").await;
    }
    let page = app.metrics.page();
    assert!(!page.contains("key=\"alice\""), "{page}");
}
