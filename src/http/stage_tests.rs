//! Tests of the stages of requests: their times, and the stage in which a request is cancelled.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::mpsc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::StatusCode;
use axum::response::Response;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use tokio::task::JoinHandle;

use super::router_tests::{
    Behavior, Setup, eventually, expect_nothing_reserved, expect_problem, metric, png, png_of,
    post, rejections, send, within,
};
use super::*;
use crate::app::{App, Limits};
use crate::manifest::Task;
use crate::metrics::Stage;
use crate::pool::JobCost;

/// Returns the number of requests that were cancelled in `stage`, over all models.
fn cancelled(app: &App, stage: &str) -> f64 {
    metric(
        app,
        &format!("sightline_cancelled_total{{stage=\"{stage}\""),
    )
}

fn all_cancelled(app: &App) -> f64 {
    metric(app, "sightline_cancelled_total")
}

/// Makes a client disconnect that waits for `request`.
async fn disconnect(request: JoinHandle<Response>) {
    request.abort();
    assert!(request.await.is_err());
}

/// Returns a body whose last part never arrives.
fn endless_body() -> Body {
    let start = stream::once(async { Ok::<_, Infallible>(Bytes::from_static(b"half")) });
    Body::from_stream(start.chain(stream::pending()))
}

#[tokio::test]
async fn a_client_that_disconnects_is_counted_in_the_stage_of_its_image() {
    let setup = Setup::new(Behavior::Logits, Limits::default());
    let [running, queued] = setup.fill().await;
    disconnect(queued).await;
    assert_eq!(cancelled(&setup.app, "queue"), 1.0);
    disconnect(running).await;
    assert_eq!(cancelled(&setup.app, "inference"), 1.0);
    let model = "stage=\"inference\",model=\"efficientnet_lite0\",variant=\"fp32\"";
    assert_eq!(metric(&setup.app, model), 1.0);
    assert_eq!(all_cancelled(&setup.app), 2.0);
    drop(setup.permits);
    expect_nothing_reserved(&setup.app).await;
}

#[tokio::test]
async fn a_client_that_disconnects_while_the_pool_is_busy_waited_for_admission() {
    let app = Setup::running(Behavior::Logits, Limits::default());
    let (release, held) = mpsc::channel::<()>();
    let others = app.pool.start(JobCost::time(1), move || held.recv()).await;
    let waiting = tokio::spawn(send(Arc::clone(&app), post(png())));
    eventually(&app, "sightline_queue_depth", 1.0).await;
    disconnect(waiting).await;
    assert_eq!(cancelled(&app, "admission"), 1.0);
    drop(release);
    let _ = others.unwrap().await;
    expect_nothing_reserved(&app).await;
    assert_eq!(metric(&app, "sightline_images_total"), 0.0);
}

#[tokio::test]
async fn images_are_decoded_only_as_far_ahead_as_the_workers_need() {
    // Two batches of one image for the only worker, and one image for the only thread.
    let ahead = 3;
    let queued = ahead + 5;
    let app = App::new(Limits::default(), 1);
    let setup = Setup::with_queue(Behavior::Logits, app, queued);
    let app = &setup.app;
    let models = app.registry().unwrap().snapshot();
    let entry = models.for_task(Task::Classification, None).unwrap();
    let model = entry.model().unwrap();
    model.batcher.use_all_tensor_memory();
    let ask = || tokio::spawn(send(Arc::clone(app), post(png())));
    let running = ask();
    while setup.started.try_recv().is_err() {
        tokio::task::yield_now().await;
    }
    let tensors = || metric(app, "kind=\"tensors\",state=\"used\"");
    let one = tensors();
    let mut requests: Vec<_> = std::iter::repeat_with(ask).take(queued).collect();
    eventually(app, "sightline_queue_depth", queued as f64).await;
    for _ in 0..queued {
        app.pool.run(JobCost::time(1), || ()).await.unwrap();
    }
    assert_eq!(tensors(), one * (1 + ahead) as f64);
    // The last one waits for its turn: other images are before it.
    disconnect(requests.pop().unwrap()).await;
    assert_eq!(cancelled(app, "queue"), 1.0);
    eventually(app, "sightline_queue_depth", (queued - 1) as f64).await;
    drop(setup.permits);
    for request in requests.into_iter().chain([running]) {
        assert_eq!(request.await.unwrap().status(), StatusCode::OK);
    }
    expect_nothing_reserved(app).await;
}

#[tokio::test]
async fn a_body_that_does_not_arrive_is_counted_as_received() {
    let app = Setup::running(Behavior::Logits, Limits::default());
    let request = tokio::spawn(send(Arc::clone(&app), post(endless_body())));
    eventually(&app, "kind=\"bodies\",state=\"used\"", 65_536.0).await;
    disconnect(request).await;
    assert_eq!(cancelled(&app, "receive"), 1.0);
    assert_eq!(rejections(&app, "deadline"), 0.0);

    let app = Setup::running(Behavior::Logits, within(50));
    let mut request = post(endless_body());
    let expect = "100-continue".parse().unwrap();
    request.headers_mut().insert("expect", expect);
    let response = send(Arc::clone(&app), request).await;
    expect_problem(response, 408, "body_timeout").await;
    assert_eq!(cancelled(&app, "receive"), 1.0);
    assert_eq!(rejections(&app, "deadline"), 1.0);
    assert_eq!(all_cancelled(&app), 1.0);
}

#[tokio::test]
async fn a_passed_deadline_is_counted_in_its_stage() {
    // Enough to reach the engine on a busy machine.
    let setup = Setup::new(Behavior::Logits, within(1000));
    let response = send(Arc::clone(&setup.app), post(png())).await;
    expect_problem(response, 504, "deadline_passed").await;
    assert_eq!(cancelled(&setup.app, "inference"), 1.0);
    // The worker is still busy, so the second request waits in the queue.
    let response = send(Arc::clone(&setup.app), post(png())).await;
    expect_problem(response, 504, "deadline_passed").await;
    assert_eq!(cancelled(&setup.app, "queue"), 1.0);
    assert_eq!(all_cancelled(&setup.app), 2.0);
    drop(setup.permits);
}

#[tokio::test]
async fn rejected_failed_and_successful_requests_are_not_cancelled() {
    let setup = Setup::new(Behavior::Logits, Limits::default());
    let waiting = setup.fill().await;
    assert_eq!(metric(&setup.app, "sightline_queue_capacity"), 1.0);
    let response = send(Arc::clone(&setup.app), post(png())).await;
    expect_problem(response, 429, "queue_full").await;
    drop(setup.permits);
    for request in waiting {
        assert_eq!(request.await.unwrap().status(), StatusCode::OK);
    }
    let bad = send(Arc::clone(&setup.app), post(Body::from("no image"))).await;
    assert_eq!(bad.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert_eq!(all_cancelled(&setup.app), 0.0);
    let panics = Setup::running(Behavior::Panic, Limits::default());
    let response = send(Arc::clone(&panics), post(png())).await;
    expect_problem(response, 500, "internal").await;
    assert_eq!(all_cancelled(&panics), 0.0);
}

/// Returns the times in the header `Server-Timing`, in milliseconds: the sum of the stages, and the total.
fn sum_and_total(response: &Response) -> (f64, f64) {
    let text = response.headers()["server-timing"].to_str().unwrap();
    let times = text.split(", ").map(|entry| {
        let (name, time) = entry.split_once(";dur=").unwrap();
        (name, time.parse::<f64>().unwrap())
    });
    let (total, stages): (Vec<_>, Vec<_>) = times.partition(|(name, _)| *name == "total");
    assert_eq!(stages.len(), Stage::ALL.len());
    (stages.iter().map(|(_, time)| time).sum(), total[0].1)
}

/// Sends a request that waits for its body, for a thread and for inference. Returns its response.
async fn delayed(image: &[u8]) -> Response {
    const DELAY: Duration = Duration::from_millis(20);
    let setup = Setup::new(Behavior::Logits, Limits::default());
    let (release, held) = mpsc::channel::<()>();
    let app = Arc::clone(&setup.app);
    let others = app.pool.start(JobCost::time(1), move || held.recv()).await;
    let (first, rest) = image.split_at(image.len() / 2);
    let (first, rest) = (Bytes::copy_from_slice(first), Bytes::copy_from_slice(rest));
    let late = stream::once(async {
        tokio::time::sleep(DELAY).await;
        Ok(rest)
    });
    let body = stream::once(async { Ok::<_, Infallible>(first) }).chain(late);
    let request = tokio::spawn(send(Arc::clone(&app), post(Body::from_stream(body))));
    eventually(&app, "sightline_queue_depth", 1.0).await;
    tokio::time::sleep(DELAY).await;
    drop(release);
    let _ = others.unwrap().await;
    let running = tokio::task::spawn_blocking(move || {
        setup.started.recv().unwrap();
        std::thread::sleep(DELAY);
        setup.permits.send(()).unwrap();
    });
    running.await.unwrap();
    request.await.unwrap()
}

#[tokio::test]
async fn the_stages_of_a_request_add_up_to_its_duration() {
    // One body is scanned on the thread of the connection, the other one on the image pool.
    for side in [8, 512] {
        let mut image = png_of(side, side);
        // Bytes after the end of a PNG file are ignored.
        image.resize(image.len() + (side as usize * 256), 0);
        let mut seen = Vec::new();
        // Several attempts, because tests that run at the same time can delay each step.
        for _ in 0..5 {
            let response = delayed(&image).await;
            assert_eq!(response.status(), StatusCode::OK);
            let (sum, total) = sum_and_total(&response);
            // Each of the values is cut to microseconds.
            assert!(total >= 60.0 && sum < total + 0.01, "{sum} of {total} ms");
            seen.push((sum, total));
            if total - sum < 2.0 {
                break;
            }
        }
        let (sum, total) = seen[seen.len() - 1];
        assert!(total - sum < 2.0, "stages and totals: {seen:?}");
    }
}

#[tokio::test]
async fn the_format_of_the_metrics_follows_the_accept_header() {
    let app = Setup::running(Behavior::Logits, Limits::default());
    let prometheus_2 = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
        text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
    let prometheus_3 = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6,\
        application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
        text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1";
    let cases = [
        (None, "text/plain; version=0.0.4; charset=utf-8"),
        (Some("*/*"), "text/plain; version=0.0.4; charset=utf-8"),
        (
            Some("text/html"),
            "text/plain; version=0.0.4; charset=utf-8",
        ),
        (
            Some("text/plain;version=0.0.4"),
            "text/plain; version=0.0.4; charset=utf-8",
        ),
        (
            Some(prometheus_2),
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        ),
        (
            Some(prometheus_3),
            "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited",
        ),
        (
            Some(
                "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=text, text/plain;q=0.1",
            ),
            "text/plain; version=0.0.4; charset=utf-8",
        ),
    ];
    for (accept, expected) in cases {
        let mut request = super::router_tests::get("/metrics");
        if let Some(accept) = accept {
            request
                .headers_mut()
                .insert("accept", accept.parse().unwrap());
        }
        let response = send(Arc::clone(&app), request).await;
        assert_eq!(response.headers()["content-type"], expected, "{accept:?}");
        assert_eq!(response.headers()["vary"], "accept");
    }
}

#[tokio::test]
async fn scrapes_at_the_same_time_share_pages() {
    let app = Setup::running(Behavior::Logits, Limits::default());
    let scrape = || tokio::spawn(send(Arc::clone(&app), super::router_tests::get("/metrics")));
    let scrapes: Vec<_> = (0..64).map(|_| scrape()).collect();
    let mut pages = Vec::new();
    for scrape in scrapes {
        let response = scrape.await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        pages.push(to_bytes(response.into_body(), 1 << 20).await.unwrap());
    }
    // They are the same memory, not only the same text.
    let distinct: BTreeSet<*const u8> = pages.iter().map(|page| page.as_ptr()).collect();
    assert!(distinct.len() < 16, "{} pages", distinct.len());
    // A page is never older than the request for it.
    let before = metric(&app, "sightline_requests_total{route=\"/metrics\"");
    assert_eq!(before, 64.0);
}

#[tokio::test]
async fn clients_cannot_add_series() {
    let app = Setup::running(Behavior::Logits, Limits::default());
    let series = || {
        let page = app
            .metrics
            .render(crate::metrics::Exposition::Text)
            .unwrap();
        String::from_utf8(page).unwrap().lines().count()
    };
    let mut before = None;
    for id in 0..50 {
        for uri in [
            format!("/path-{id}"),
            format!("/v1/models/model-{id}"),
            format!("/v1/classify?model=model-{id}"),
            format!("/v1/classify?parameter-{id}=1"),
        ] {
            let mut request = post(png());
            if !uri.starts_with("/v1/classify") {
                *request.method_mut() = format!("METHOD{id}").parse().unwrap();
            }
            request
                .headers_mut()
                .insert("x-request-id", format!("id-{id}").parse().unwrap());
            *request.uri_mut() = uri.parse().unwrap();
            assert!(
                send(Arc::clone(&app), request)
                    .await
                    .status()
                    .is_client_error()
            );
        }
        assert_eq!(series(), *before.get_or_insert_with(series));
    }
}
