//! Tests of the router with origins: preflight requests, and the headers of responses and errors.

use std::fs;

use axum::body::Body;
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, VARY,
};
use axum::http::{HeaderName, Request};
use axum::response::Response;
use axum::routing;
use tower::ServiceExt;

use super::middleware::{guard, surround};
use super::router_tests::{Behavior, Setup, expect_problem, get, png, post, send};
use super::*;
use crate::app::Limits;
use crate::config::CorsOrigins;
use crate::keys::{KeyDigest, KeyFile};

const PAGE: &str = "https://app.example.com";

fn listed(origins: &[&str]) -> CorsOrigins {
    let origins = origins.iter().map(|origin| origin.parse().unwrap());
    CorsOrigins::Listed(origins.collect())
}

fn app(cors: CorsOrigins) -> Arc<App> {
    let mut app = App::new(Limits::default(), 1);
    app.cors = cors;
    Setup::with(Behavior::Logits, app).app
}

fn preflight(path: &str, origin: &str) -> Request<Body> {
    let request = Request::builder()
        .method("OPTIONS")
        .uri(path)
        .header("origin", origin)
        .header("access-control-request-method", "POST")
        .header(
            "access-control-request-headers",
            "authorization,content-type",
        );
    request.body(Body::empty()).unwrap()
}

fn from_page(mut request: Request<Body>, origin: &str) -> Request<Body> {
    let origin = origin.parse().unwrap();
    request.headers_mut().insert("origin", origin);
    request
}

fn header(response: &Response, name: HeaderName) -> String {
    let values = response.headers().get_all(name).iter();
    let values: Vec<&str> = values.map(|value| value.to_str().unwrap()).collect();
    values.join(", ").to_ascii_lowercase()
}

#[tokio::test]
async fn without_origins_no_response_has_cors_headers() {
    let app = app(CorsOrigins::Off);
    let response = send(Arc::clone(&app), from_page(get("/health/live"), PAGE)).await;
    assert_eq!(header(&response, ACCESS_CONTROL_ALLOW_ORIGIN), "");
    assert_eq!(header(&response, VARY), "");
    let response = send(app, preflight("/v1/classify", PAGE)).await;
    expect_problem(response, 405, "method_not_allowed").await;
}

#[tokio::test]
async fn a_preflight_request_tells_what_is_allowed() {
    let app = app(listed(&[PAGE, "http://localhost:3000"]));
    for origin in [PAGE, "http://localhost:3000"] {
        let response = send(Arc::clone(&app), preflight("/v1/classify", origin)).await;
        assert_eq!(response.status(), 200);
        assert_eq!(header(&response, ACCESS_CONTROL_ALLOW_ORIGIN), origin);
        assert!(header(&response, VARY).contains("origin"));
        assert_eq!(header(&response, ACCESS_CONTROL_MAX_AGE), "600");
        assert!(header(&response, ACCESS_CONTROL_ALLOW_METHODS).contains("post"));
        let allowed = header(&response, ACCESS_CONTROL_ALLOW_HEADERS);
        for name in [
            "authorization",
            "x-api-key",
            "content-type",
            "content-encoding",
        ] {
            assert!(allowed.contains(name), "{allowed}");
        }
        assert!(response.headers().contains_key("x-request-id"));
    }
    for other in [
        "https://evil.example",
        "null",
        "https://app.example.com.evil.example",
    ] {
        let response = send(Arc::clone(&app), preflight("/v1/classify", other)).await;
        assert_eq!(
            header(&response, ACCESS_CONTROL_ALLOW_ORIGIN),
            "",
            "{other}"
        );
        assert!(header(&response, VARY).contains("origin"));
    }
}

#[tokio::test]
async fn a_request_with_options_that_no_browser_sent_is_not_a_preflight_request() {
    let app = app(listed(&[PAGE]));
    let mut request = preflight("/v1/classify", PAGE);
    request
        .headers_mut()
        .remove("access-control-request-method");
    let response = send(app, request).await;
    assert!(header(&response, VARY).contains("access-control-request-method"));
    expect_problem(response, 405, "method_not_allowed").await;
}

#[tokio::test]
async fn results_and_errors_have_the_headers() {
    let app = app(listed(&[PAGE]));
    let large = vec![0; app.limits.max_body_bytes + 1];
    let cases = [
        (post(png()), 200),
        (get("/v1/models"), 200),
        (get("/none"), 404),
        (get("/v1/classify"), 405),
        (post(Body::from(large)), 413),
        (post(Body::from("text")), 415),
    ];
    for (request, status) in cases {
        let response = send(Arc::clone(&app), from_page(request, PAGE)).await;
        assert_eq!(response.status().as_u16(), status);
        expect_headers(&response, PAGE);
    }
}

fn expect_headers(response: &Response, origin: &str) {
    assert_eq!(header(response, ACCESS_CONTROL_ALLOW_ORIGIN), origin);
    let exposed = header(response, ACCESS_CONTROL_EXPOSE_HEADERS);
    for name in [
        "x-request-id",
        "server-timing",
        "retry-after",
        "traceparent",
    ] {
        assert!(exposed.contains(name), "{exposed}");
    }
}

#[tokio::test]
async fn a_page_can_read_that_its_key_is_wrong_and_needs_none_for_a_preflight_request() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys");
    let line = format!("slow {} rate=1/h", KeyDigest::of(b"a"));
    fs::write(&path, line).unwrap();
    let mut app = App::new(Limits::default(), 1);
    app.cors = listed(&[PAGE]);
    app.keys = Some(Arc::new(KeyFile::load(&path).unwrap()));
    let app = Setup::with(Behavior::Logits, app).app;
    let response = send(Arc::clone(&app), preflight("/v1/classify", PAGE)).await;
    assert_eq!(response.status(), 200);
    for (key, status) in [
        (None, 401),
        (Some("b"), 401),
        (Some("a"), 200),
        (Some("a"), 429),
    ] {
        let mut request = from_page(get("/v1/models"), PAGE);
        if let Some(key) = key {
            request
                .headers_mut()
                .insert("x-api-key", key.parse().unwrap());
        }
        let response = send(Arc::clone(&app), request).await;
        assert_eq!(response.status().as_u16(), status);
        expect_headers(&response, PAGE);
    }
}

async fn fails() -> &'static str {
    panic!("the handler panics")
}

#[tokio::test]
async fn the_response_to_a_panic_has_the_headers() {
    let app = app(listed(&[PAGE]));
    let routes = Router::new().route("/fails", routing::get(fails));
    let routes = guard(routes, &app, Listener::Public);
    let router = surround(routes, &app).with_state(Arc::clone(&app));
    let request = from_page(get("/fails"), PAGE);
    let response = router.oneshot(request).await.unwrap();
    expect_headers(&response, PAGE);
    expect_problem(response, 500, "internal").await;
}

#[tokio::test]
async fn all_origins_can_be_allowed() {
    let app = app(CorsOrigins::Any);
    for origin in [PAGE, "null"] {
        let request = from_page(get("/v1/models"), origin);
        let response = send(Arc::clone(&app), request).await;
        expect_headers(&response, "*");
        let credentials = response.headers().get("access-control-allow-credentials");
        assert!(credentials.is_none());
    }
}

#[tokio::test]
async fn the_admin_listener_has_no_cors() {
    let app = app(listed(&[PAGE]));
    let request = from_page(get("/health/live"), PAGE);
    let response = admin_router(app).oneshot(request).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(header(&response, ACCESS_CONTROL_ALLOW_ORIGIN), "");
}
