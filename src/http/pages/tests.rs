//! Tests of the pages through the router: who gets which representation, caching, compression, and access.

use std::fs;
use std::io::Read as _;
use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::http::header::{
    ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HOST,
    IF_NONE_MATCH, ORIGIN, VARY,
};
use axum::http::{HeaderMap, HeaderName, Request};
use axum::response::Response;
use flate2::read::GzDecoder;
use tower::ServiceExt;

use super::super::router_tests::{expect_problem, get, send};
use super::super::{admin_router, pages};
use super::asset::Asset;
use crate::app::{App, Limits};
use crate::keys::{KeyDigest, KeyFile};

/// What a browser sends for a page.
const BROWSER: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8";
const PAGES: [&str; 3] = ["/", "/docs", "/status"];
/// Most bytes that a browser receives for the pages together, without the sample photographs.
const MAX_SENT: usize = 100_000;

fn app() -> Arc<App> {
    Arc::new(App::new(Limits::default(), 1))
}

fn request(path: &str, headers: &[(HeaderName, &str)]) -> Request<Body> {
    let mut request = get(path);
    for (name, value) in headers {
        request.headers_mut().append(name, value.parse().unwrap());
    }
    request
}

async fn fetch(path: &str, headers: &[(HeaderName, &str)]) -> Response {
    send(app(), request(path, headers)).await
}

async fn body(response: Response) -> Vec<u8> {
    to_bytes(response.into_body(), usize::MAX)
        .await
        .unwrap()
        .to_vec()
}

fn header(headers: &HeaderMap, name: HeaderName) -> &str {
    headers
        .get(name)
        .map_or("", |value| value.to_str().unwrap())
}

#[tokio::test]
async fn browsers_get_the_playground_and_other_clients_the_text() {
    for accept in [
        None,
        Some("*/*"),
        Some("application/json"),
        Some("text/plain"),
        Some("text/*"),
    ] {
        let headers: Vec<_> = accept.map(|accept| (ACCEPT, accept)).into_iter().collect();
        let response = fetch("/", &headers).await;
        assert_eq!(response.status(), 200);
        assert_eq!(
            header(response.headers(), CONTENT_TYPE),
            "text/plain; charset=utf-8",
            "{accept:?}"
        );
        assert_eq!(header(response.headers(), VARY), "accept");
        let text = String::from_utf8(body(response).await).unwrap();
        assert!(
            text.starts_with("Sightline ") && text.contains("/v1/classify"),
            "{text}"
        );
    }
    let response = fetch("/", &[(ACCEPT, BROWSER)]).await;
    assert_eq!(
        header(response.headers(), CONTENT_TYPE),
        "text/html; charset=utf-8"
    );
    let vary: Vec<_> = response.headers().get_all(VARY).iter().collect();
    assert_eq!(vary, ["accept-encoding", "accept"]);
}

#[tokio::test]
async fn pages_load_nothing_from_elsewhere() {
    for path in PAGES {
        let response = fetch(path, &[(ACCEPT, BROWSER)]).await;
        let headers = response.headers().clone();
        let policy = header(&headers, CONTENT_SECURITY_POLICY);
        assert!(
            policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self';"),
            "{policy}"
        );
        assert!(
            !policy.contains("unsafe") && policy.contains("frame-ancestors 'none'"),
            "{policy}"
        );
        let page = String::from_utf8(body(response).await).unwrap();
        // The policy forbids inline scripts, styles and handlers, so the page must not rely on them.
        for forbidden in [
            "<style",
            "style=",
            " onclick",
            " onload",
            "javascript:",
            "http:",
            "https:",
            "<script>",
        ] {
            assert!(!page.contains(forbidden), "{path}: {forbidden}");
        }
        let references = page
            .split(['"', '\''])
            .filter(|text| text.starts_with("/assets/"));
        for reference in references {
            assert_eq!(
                fetch(reference, &[]).await.status(),
                200,
                "{path}: {reference}"
            );
        }
    }
}

#[tokio::test]
async fn files_are_cached_by_their_entity_tag_in_both_encodings() {
    for asset in Asset::all().iter().filter(|asset| !asset.is_page()) {
        let path = asset.route();
        let plain = fetch(&path, &[]).await;
        let tag = header(plain.headers(), ETAG).to_owned();
        assert!(plain.headers().get(CONTENT_ENCODING).is_none());
        let plain = body(plain).await;
        let compressed = fetch(&path, &[(ACCEPT_ENCODING, "br, gzip;q=0.5")]).await;
        let other = header(compressed.headers(), ETAG).to_owned();
        if header(compressed.headers(), CONTENT_ENCODING) == "gzip" {
            assert_ne!(tag, other, "{path}");
            let mut decoded = Vec::new();
            GzDecoder::new(&body(compressed).await[..])
                .read_to_end(&mut decoded)
                .unwrap();
            assert!(decoded == plain, "{path}");
        } else {
            assert_eq!(tag, other, "{path}");
        }
        for known in [
            tag.clone(),
            format!("W/{tag}"),
            format!("\"x\", {tag}"),
            "*".to_owned(),
        ] {
            let response = fetch(&path, &[(IF_NONE_MATCH, known.as_str())]).await;
            assert_eq!(response.status(), 304, "{path}: {known}");
            assert_eq!(header(response.headers(), ETAG), tag);
            assert_eq!(body(response).await, b"");
        }
        assert_eq!(
            fetch(&path, &[(IF_NONE_MATCH, "\"x\"")]).await.status(),
            200
        );
    }
}

#[tokio::test]
async fn gzip_is_sent_only_to_clients_that_accept_it() {
    let cases = [
        ("gzip", true),
        ("GZIP", true),
        ("*", true),
        ("gzip;q=0, *", false),
        ("*;q=0, gzip", true),
        ("br", false),
        ("identity", false),
        ("gzip; q=0.000", false),
        ("", false),
    ];
    for (accepted, expected) in cases {
        let response = fetch("/assets/style.css", &[(ACCEPT_ENCODING, accepted)]).await;
        let encoding = header(response.headers(), CONTENT_ENCODING);
        assert_eq!(encoding == "gzip", expected, "{accepted}");
    }
}

#[tokio::test]
async fn unknown_files_and_pages_by_their_file_names_are_not_found() {
    for path in [
        "/assets/none.js",
        "/assets/playground.html",
        "/assets/status-admin.html",
        "/assets/cat.jpg",
        "/samples/style.css",
        "/samples/..%2f..%2fetc%2fpasswd",
        "/assets/%ff",
        "/assets/",
    ] {
        expect_problem(fetch(path, &[]).await, 404, "no_route").await;
    }
    let mut head = get("/docs");
    *head.method_mut() = axum::http::Method::HEAD;
    let response = send(app(), head).await;
    assert_eq!(response.status(), 200);
    assert_eq!(body(response).await, b"");
    let mut post = get("/docs");
    *post.method_mut() = axum::http::Method::POST;
    expect_problem(send(app(), post).await, 405, "method_not_allowed").await;
}

#[tokio::test]
async fn pages_need_no_key_but_what_they_show_does() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys");
    fs::write(&path, format!("alice {}\n", KeyDigest::of(b"a"))).unwrap();
    let mut app = App::new(Limits::default(), 1);
    app.keys = Some(Arc::new(KeyFile::load(&path).unwrap()));
    let app = Arc::new(app);
    for path in [
        "/",
        "/docs",
        "/status",
        "/assets/openapi.json",
        "/samples/cat.jpg",
    ] {
        let response = send(Arc::clone(&app), request(path, &[(ACCEPT, BROWSER)])).await;
        assert_eq!(response.status(), 200, "{path}");
    }
    for path in [
        "/v1/models",
        "/metrics",
        "/openapi.yaml",
        "/docs/",
        "//docs",
        "/assets/a/b",
    ] {
        expect_problem(send(Arc::clone(&app), get(path)).await, 401, "unauthorized").await;
    }
}

#[tokio::test]
async fn the_admin_listener_has_the_status_page_with_control() {
    let ask = |path: &'static str| admin_router(app()).oneshot(get(path));
    let page = String::from_utf8(body(ask("/status").await.unwrap()).await).unwrap();
    assert!(page.contains("data-listener=\"admin\""));
    let page = String::from_utf8(body(fetch("/status", &[]).await).await).unwrap();
    assert!(page.contains("data-listener=\"public\""));
    assert_eq!(ask("/assets/status.js").await.unwrap().status(), 200);
    for path in ["/", "/docs", "/samples/cat.jpg"] {
        expect_problem(ask(path).await.unwrap(), 404, "no_route").await;
    }
}

#[tokio::test]
async fn only_the_own_page_at_a_fixed_address_can_control_models() {
    let own = ["127.0.0.1:8082", "localhost:8082", "[::1]:8082", "10.0.0.7"];
    let rebound = [
        "evil.example",
        "evil.example:8082",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
    ];
    let control = |host: &str, origin: &str| {
        let request = request("/v1/models/none/load", &[(HOST, host), (ORIGIN, origin)]);
        let (mut parts, body) = request.into_parts();
        parts.method = axum::http::Method::POST;
        admin_router(app()).oneshot(Request::from_parts(parts, body))
    };
    for host in own {
        let response = control(host, &format!("http://{host}")).await.unwrap();
        assert_ne!(response.status(), 403, "{host}");
        for foreign in [
            "null",
            "http://evil.example",
            &format!("https://{host}"),
            &format!("http://{host}:1"),
        ] {
            let response = control(host, foreign).await.unwrap();
            expect_problem(response, 403, "cross_origin").await;
        }
    }
    for host in rebound {
        let response = control(host, &format!("http://{host}")).await.unwrap();
        expect_problem(response, 403, "cross_origin").await;
    }
}

#[test]
fn the_pages_are_small() {
    let files = Asset::all().iter().filter(|asset| !asset.is_photograph());
    let sent: usize = files.map(Asset::sent_bytes).sum();
    assert!(sent < MAX_SENT, "{sent} bytes");
    assert_eq!(pages::OPEN.len(), pages::routes().len());
}
