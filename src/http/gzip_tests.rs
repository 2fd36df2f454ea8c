//! Tests of the router with request bodies that are compressed with gzip.

use std::io::{self, Write as _};
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::{StreamExt as _, stream};
use image::{ImageFormat, RgbImage};

use super::router_tests::{
    Behavior, Setup, eventually, expect_nothing_reserved, expect_problem, json, metric, png_file,
    post, send, within,
};
use super::*;
use crate::app::Limits;
use crate::memory::{Demand, Demands, MemoryPlan};

const MIB: usize = 1 << 20;

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn app(limits: Limits) -> Arc<App> {
    Setup::with(Behavior::Logits, App::new(limits, 1)).app
}

fn small_bodies() -> Limits {
    Limits {
        max_body_bytes: 4 * MIB,
        ..Limits::default()
    }
}

fn compressed(body: impl Into<Body>) -> Request<Body> {
    let mut request = post(body.into());
    let gzip = "gzip".parse().unwrap();
    request.headers_mut().insert(CONTENT_ENCODING, gzip);
    request
}

fn of_type(mut request: Request<Body>, kind: &str) -> Request<Body> {
    request
        .headers_mut()
        .insert(CONTENT_TYPE, kind.parse().unwrap());
    request
}

/// Returns a body that arrives in pieces of `size` bytes, and never ends if `silent`.
fn pieces(data: &[u8], size: usize, silent: bool) -> Body {
    let pieces: Vec<io::Result<Bytes>> = data
        .chunks(size)
        .map(|piece| Ok(Bytes::copy_from_slice(piece)))
        .collect();
    let pieces = stream::iter(pieces);
    if silent {
        return Body::from_stream(pieces.chain(stream::pending()));
    }
    Body::from_stream(pieces)
}

async fn expect_labels(response: Response, images: usize) {
    assert_eq!(response.status(), 200);
    let body = json(response).await;
    let results = body["results"].as_array().unwrap();
    assert_eq!(results.len(), images);
    for result in results {
        assert_eq!(result["predictions"][0]["label"], "dog");
    }
}

/// Returns a PNG file of noise, which has about 3 bytes per pixel.
fn noise(side: u32) -> Vec<u8> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    let image = RgbImage::from_fn(side, side, |_, _| image::Rgb([next(), next(), next()]));
    let mut file = io::Cursor::new(Vec::new());
    image.write_to(&mut file, ImageFormat::Png).unwrap();
    file.into_inner()
}

#[tokio::test]
async fn bodies_of_every_kind_are_decoded() {
    let app = app(Limits::default());
    let file = png_file();
    let response = send(Arc::clone(&app), compressed(gzip(&file))).await;
    expect_labels(response, 1).await;
    let form = [
        &b"--b\r\ncontent-disposition: form-data; name=\"image\"; filename=\"a\"\r\n\r\n"[..],
        &file,
        b"\r\n--b--\r\n",
    ];
    let request = of_type(
        compressed(gzip(&form.concat())),
        "multipart/form-data; boundary=b",
    );
    expect_labels(send(Arc::clone(&app), request).await, 1).await;
    let data = serde_json::json!({"images": [{"data": STANDARD.encode(&file)}]});
    let request = of_type(
        compressed(gzip(data.to_string().as_bytes())),
        "application/json",
    );
    expect_labels(send(Arc::clone(&app), request).await, 1).await;
    let mut request = compressed(gzip(&file));
    let names = "identity, X-GZIP".parse().unwrap();
    request.headers_mut().insert(CONTENT_ENCODING, names);
    expect_labels(send(Arc::clone(&app), request).await, 1).await;
    expect_nothing_reserved(&app).await;
}

#[tokio::test]
async fn large_bodies_and_small_pieces_are_decoded() {
    let app = app(Limits::default());
    let file = noise(400);
    assert!(file.len() > 400_000);
    let (first, second) = file.split_at(150_000);
    let members = [gzip(first), gzip(b""), gzip(second)].concat();
    for size in [1000, 40_000, members.len()] {
        let body = pieces(&members, size, false);
        expect_labels(send(Arc::clone(&app), compressed(body)).await, 1).await;
    }
    let body = pieces(&gzip(&png_file()), 1, false);
    expect_labels(send(Arc::clone(&app), compressed(body)).await, 1).await;
    expect_nothing_reserved(&app).await;
}

#[tokio::test]
async fn a_body_that_decodes_to_more_than_the_limit_is_rejected_in_bounded_memory() {
    let app = app(small_bodies());
    let limit = app.limits.max_body_bytes;
    let exact = gzip(&vec![0; limit]);
    let response = send(Arc::clone(&app), compressed(exact)).await;
    expect_problem(response, 415, "unknown_image_format").await;
    for more in [limit + 1, 100 * limit] {
        let bomb = gzip(&vec![0; more]);
        assert!(bomb.len() < more / 500);
        let response = send(Arc::clone(&app), compressed(bomb)).await;
        expect_problem(response, 413, "body_too_large").await;
    }
    // Many members, none of which has content.
    let empty = gzip(b"").repeat(limit / 20 + 1);
    let response = send(Arc::clone(&app), compressed(pieces(&empty, 30_000, false))).await;
    expect_problem(response, 413, "body_too_large").await;
    let mut request = compressed(gzip(b"x"));
    request
        .headers_mut()
        .insert(CONTENT_LENGTH, (limit + 1).into());
    let response = send(Arc::clone(&app), request).await;
    expect_problem(response, 413, "body_too_large").await;
    expect_nothing_reserved(&app).await;
}

#[tokio::test]
async fn a_bomb_is_rejected_before_it_has_arrived() {
    let app = app(small_bodies());
    let bomb = gzip(&vec![0; 1000 * MIB]);
    // Rejecting waits for the rest of the body, which never ends, for two seconds at most.
    let body = pieces(&bomb[..bomb.len() / 2], 4096, true);
    let response = send(Arc::clone(&app), compressed(body)).await;
    expect_problem(response, 413, "body_too_large").await;
    expect_nothing_reserved(&app).await;
}

#[tokio::test]
async fn damaged_bodies_are_rejected_with_the_reason() {
    let app = app(small_bodies());
    let whole = gzip(&noise(200));
    let middle = whole.len() / 2;
    let mut changed = whole.clone();
    changed[middle] ^= 0xff;
    let cases = [
        (whole[..middle].to_vec(), "ends before"),
        (whole[..whole.len() - 1].to_vec(), "ends before"),
        (Vec::new(), "ends before"),
        ([&whole[..], b"garbage"].concat(), "other bytes follow"),
        (png_file(), "does not begin as gzip"),
        (changed, ""),
    ];
    for (body, reason) in cases {
        let response = send(Arc::clone(&app), compressed(body)).await;
        assert_eq!(response.status(), 400);
        let problem = json(response).await;
        assert_eq!(problem["code"], "bad_body");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(reason), "{detail}");
    }
    expect_nothing_reserved(&app).await;
}

#[tokio::test]
async fn other_encodings_are_unsupported() {
    let app = app(small_bodies());
    for encoding in [
        "br",
        "deflate",
        "zstd",
        "gzip, gzip",
        "gzip, br",
        "compress",
    ] {
        let mut request = post(Body::from(gzip(&png_file())));
        let value = encoding.parse().unwrap();
        request.headers_mut().insert(CONTENT_ENCODING, value);
        let response = send(Arc::clone(&app), request).await;
        expect_problem(response, 415, "unsupported_media_type").await;
    }
}

#[tokio::test]
async fn a_client_that_leaves_while_its_body_arrives_returns_everything() {
    let app = app(Limits::default());
    let data = gzip(&noise(400));
    let body = pieces(&data[..data.len() - 1], 10_000, true);
    let request = {
        let app = Arc::clone(&app);
        tokio::spawn(async move { send(app, compressed(body)).await })
    };
    let reserved = async {
        while metric(&app, "kind=\"bodies\",state=\"used\"") < 400_000.0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), reserved)
        .await
        .unwrap();
    request.abort();
    assert!(request.await.is_err());
    expect_nothing_reserved(&app).await;
}

#[tokio::test]
async fn a_body_that_arrives_too_late_is_a_timeout_of_the_client() {
    let app = app(within(50));
    let body = pieces(&gzip(&png_file())[..20], 10, true);
    let response = send(Arc::clone(&app), compressed(body)).await;
    expect_problem(response, 408, "body_timeout").await;
    expect_nothing_reserved(&app).await;
}

#[tokio::test]
async fn bodies_share_the_memory_for_bodies() {
    let limits = small_bodies();
    let mut plan = MemoryPlan::unlimited(&Demands::new(&limits, 1, Demand::fixed(0)));
    plan.bodies = limits.max_body_bytes as u64;
    let app = Setup::with(Behavior::Logits, App::planned(limits, 1, &plan)).app;
    // The largest body fits.
    let exact = gzip(&vec![0; limits.max_body_bytes]);
    let response = send(Arc::clone(&app), compressed(exact)).await;
    expect_problem(response, 415, "unknown_image_format").await;
    let held = app.bodies.try_acquire(3 * MIB as u64).unwrap();
    let response = send(Arc::clone(&app), compressed(gzip(&noise(700)))).await;
    expect_problem(response, 429, "body_memory").await;
    drop(held);
    expect_labels(
        send(Arc::clone(&app), compressed(gzip(&noise(700)))).await,
        1,
    )
    .await;
    eventually(&app, "state=\"used\"", 0.0).await;
}
