//! Checks the spans that a server sends to an OTLP collector, and the request ids of its log.

mod collector;

use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::time::Instant;

use crate::common::hostile::endless_above;
use crate::common::onnx::write_model;
use crate::common::{self, Reply, Server, agent, eventually, photo};
use collector::{Collector, Span, attribute, hex};
use image::{ImageFormat, Rgb, RgbImage};
use serde_json::Value;

/// Traces of callers, one for each kind of request.
const SUCCESS: &str = "0af7651916cd43dd8448eb211c80319c";
const EXPIRED: &str = "1bf7651916cd43dd8448eb211c80319c";
const CANCELLED: &str = "2cf7651916cd43dd8448eb211c80319c";
const REJECTED: &str = "3df7651916cd43dd8448eb211c80319c";
const UNSAMPLED: &str = "4ef7651916cd43dd8448eb211c80319c";
/// Span of every caller.
const CALLER: &str = "b7ad6b7169203331";

/// Status code `STATUS_CODE_ERROR` of OTLP.
const ERROR: i32 = 2;
/// Span kind `SPAN_KIND_SERVER` of OTLP.
const SERVER: i32 = 2;

/// Returns a PNG file of one color. The model runs endlessly on white.
fn png(gray: u8) -> Vec<u8> {
    let mut file = std::io::Cursor::new(Vec::new());
    let image = RgbImage::from_pixel(16, 16, Rgb([gray; 3]));
    image.write_to(&mut file, ImageFormat::Png).unwrap();
    file.into_inner()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Sends an image with the header `traceparent: 00-TRACE-CALLER-FLAGS`.
fn classify(server: &Server, image: &[u8], trace: &str, flags: &str) -> Reply {
    let request = agent().post(server.url("/v1/classify"));
    let request = request
        .header("content-type", "image/png")
        .header("traceparent", format!("00-{trace}-{CALLER}-{flags}"))
        .header("tracestate", "vendor=1");
    common::client::reply(request.send(image))
}

/// Sends a request whose response is not awaited.
fn send(server: &Server, image: &[u8], trace: &str) -> TcpStream {
    let mut stream = server.connect();
    let head = format!(
        "POST /v1/classify HTTP/1.1\r\nhost: x\r\ncontent-type: image/png\r\ncontent-length: {}\r\n\
         traceparent: 00-{trace}-{CALLER}-01\r\n\r\n",
        image.len()
    );
    stream
        .write_all(&[head.as_bytes(), image].concat())
        .unwrap();
    stream
}

/// Returns the server's span of a trace, and the names of the spans of its stages.
fn request<'a>(spans: &'a [Span], trace: &str) -> (&'a Span, Vec<&'a str>) {
    let (roots, stages): (Vec<_>, Vec<_>) = spans.iter().partition(|span| span.kind == SERVER);
    let [root] = roots[..] else {
        panic!("{trace}: {spans:#?}");
    };
    assert_eq!(hex(&root.parent_span_id), CALLER, "{trace}");
    assert_eq!(root.name, "POST /v1/classify");
    for stage in &stages {
        assert_eq!(stage.parent_span_id, root.span_id, "{stage:?}");
        assert!(stage.start_time_unix_nano >= root.start_time_unix_nano);
        assert!(stage.end_time_unix_nano >= stage.start_time_unix_nano);
    }
    (
        root,
        stages.iter().map(|stage| stage.name.as_str()).collect(),
    )
}

fn is_error(span: &Span) -> bool {
    span.status
        .as_ref()
        .is_some_and(|status| status.code == ERROR)
}

/// Returns the JSON records of a log.
fn records(log: &str) -> Vec<Value> {
    let lines = log.lines().filter(|line| line.starts_with('{'));
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// What a collector and the log have after requests of each kind.
struct Recorded {
    collector: Collector,
    /// Response to the request that succeeded.
    success: Reply,
    log: String,
}

/// Sends a request of each kind to a server with a collector.
fn record() -> Recorded {
    let collector = Collector::start();
    let models = tempfile::tempdir().unwrap();
    write_model(models.path(), "looping", &endless_above(0.9));
    let endpoint = format!("http://{}", collector.address);
    let server = Server::start(&[
        "--models",
        text(models.path()),
        "--instances=1",
        "--max-batch-size=1",
        "--max-queue-size=1",
        "--request-timeout-ms=8000",
        "--log-format",
        "json",
        "--otlp-endpoint",
        &endpoint,
    ]);
    let (gray, white) = (png(128), png(255));
    let success = classify(&server, &gray, SUCCESS, "01");
    assert_eq!(success.status, 200);
    assert_eq!(classify(&server, &gray, UNSAMPLED, "00").status, 200);
    // The first white image occupies the worker until its deadline has passed, the second one the queue.
    let batches = r#"sightline_batch_size_count{model="looping""#;
    let before = server.metric(batches);
    let _expired = send(&server, &white, EXPIRED);
    eventually("the image runs", || server.metric(batches) > before);
    let cancelled = send(&server, &white, CANCELLED);
    eventually("the image waits", || {
        server.metric("sightline_queue_depth") > 0.0
    });
    assert_eq!(classify(&server, &gray, REJECTED, "01").status, 429);
    drop(cancelled);
    // A request without a trace begins one.
    eventually("the worker is free", || {
        server.post("/v1/classify", "image/png", &gray).status == 200
    });
    server.terminate();
    let (code, log) = server.wait();
    assert_eq!(code, Some(0), "{log}");
    Recorded {
        collector,
        success,
        log,
    }
}

#[test]
fn a_collector_sees_each_request_in_the_trace_of_its_caller() {
    let recorded = record();
    check_success(&recorded);
    check_failures(&recorded.collector);
    assert!(recorded.collector.trace(UNSAMPLED).is_empty());
    let spans = recorded.collector.spans().into_iter();
    let begun = spans.filter(|span| span.kind == SERVER && span.parent_span_id.is_empty());
    // Probes and scrapes have no spans.
    let mut routes: Vec<_> = begun.map(|span| span.name).collect();
    routes.dedup();
    assert_eq!(routes, ["POST /v1/classify"]);
    check_log(&recorded.log);
}

/// Checks the spans of the request that succeeded.
fn check_success(recorded: &Recorded) {
    let Recorded {
        collector, success, ..
    } = recorded;
    let spans = collector.trace(SUCCESS);
    let (root, stages) = request(&spans, SUCCESS);
    let expected =
        "admission receive admission decode preprocess queue inference postprocess encode";
    assert_eq!(stages.join(" "), expected);
    assert!(!spans.iter().any(is_error), "{spans:#?}");
    assert_eq!(root.trace_state, "vendor=1");
    let traceparent = format!("00-{SUCCESS}-{}-01", hex(&root.span_id));
    assert_eq!(success.header("traceparent"), traceparent);
    for (name, value) in [
        ("http.request.method", "POST"),
        ("http.route", "/v1/classify"),
        ("http.response.status_code", "200"),
        ("url.path", "/v1/classify"),
        ("url.scheme", "http"),
        ("client.address", "127.0.0.1"),
        ("sightline.model", "looping"),
        ("sightline.variant", "fp32"),
        ("sightline.request_id", success.header("x-request-id")),
        ("error.type", ""),
    ] {
        assert_eq!(attribute(&root.attributes, name), value, "{name}");
    }
    let inference = spans.iter().find(|span| span.name == "inference").unwrap();
    for (name, value) in [("sightline.batch_size", "1"), ("sightline.image", "0")] {
        assert_eq!(attribute(&inference.attributes, name), value, "{name}");
    }
    assert_eq!(collector.resource("service.name"), "sightline");
    assert_eq!(collector.resource("service.instance.id").len(), 8);
}

/// Checks the spans of the requests that were rejected, expired and cancelled: their last stage, status and error.
fn check_failures(collector: &Collector) {
    for (trace, last, status, error) in [
        (REJECTED, "admission", "429", "queue_full"),
        (EXPIRED, "inference", "504", "deadline_passed"),
        (CANCELLED, "queue", "", "client_disconnected"),
    ] {
        let spans = collector.trace(trace);
        let (root, stages) = request(&spans, trace);
        assert_eq!(stages.last(), Some(&last));
        assert!(is_error(spans.last().unwrap()), "{spans:#?}");
        // An error of the client is none of the server's.
        assert_eq!(is_error(root), status != "429", "{root:?}");
        for (name, value) in [("http.response.status_code", status), ("error.type", error)] {
            assert_eq!(attribute(&root.attributes, name), value, "{trace}: {name}");
        }
    }
}

/// Checks that the log has the trace of each request.
fn check_log(log: &str) {
    let records = records(log);
    let stopped = "run stopped at its time limit";
    let message = |record: &Value| record["fields"]["message"].as_str().map(str::to_owned);
    let stopped = records
        .iter()
        .find(|record| message(record).is_some_and(|text| text.starts_with(stopped)));
    assert_eq!(stopped.unwrap()["span"]["trace_id"], EXPIRED);
    for (trace, status) in [
        (SUCCESS, Some(200)),
        (UNSAMPLED, Some(200)),
        (REJECTED, Some(429)),
        (EXPIRED, Some(504)),
        (CANCELLED, None),
    ] {
        let of_trace = |record: &&Value| {
            record["target"] == "sightline::access" && record["span"]["trace_id"] == trace
        };
        let record = records.iter().find(of_trace);
        let record = record.unwrap_or_else(|| panic!("{trace}: {log}"));
        assert_eq!(record["fields"]["status"].as_u64(), status, "{trace}");
    }
}

#[test]
fn every_line_about_a_request_has_its_id() {
    let server = Server::start(&["--log-format", "json", "--log", "sightline=trace,warn"]);
    let coffee = photo("coffee_500x375.jpg");
    let ids: Vec<String> = (0..3)
        .map(|_| {
            let reply = server.classify("", &coffee);
            assert_eq!(reply.status, 200);
            // Without a collector and a caller's trace there is nothing to name.
            assert_eq!(reply.header("traceparent"), "");
            reply.header("x-request-id").to_owned()
        })
        .collect();
    server.terminate();
    let (code, log) = server.wait();
    assert_eq!(code, Some(0), "{log}");
    let records = records(&log);
    for message in ["inference finished", "request finished"] {
        let of_message = |record: &&Value| {
            record["fields"]["message"] == message && record["span"]["route"] == "/v1/classify"
        };
        let logged: Vec<_> = records.iter().filter(of_message).collect();
        let logged: Vec<_> = logged
            .iter()
            .map(|record| &record["span"]["request_id"])
            .collect();
        assert_eq!(logged, ids.iter().collect::<Vec<_>>(), "{message}");
    }
}

#[test]
fn an_unreachable_collector_costs_a_warning_and_no_request() {
    // A listener that never accepts is a collector that hangs; a closed port is one that is gone.
    let hanging = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    for collector in [hanging.local_addr().unwrap(), closed] {
        let endpoint = format!("http://{collector}");
        let server = Server::start(&["--otlp-endpoint", &endpoint, "--log-format", "json"]);
        let coffee = photo("coffee_500x375.jpg");
        for _ in 0..3 {
            assert_eq!(server.classify("", &coffee).status, 200);
        }
        if collector == closed {
            eventually("the failure is counted", || {
                server.metric(r#"sightline_spans_total{result="failed"}"#) > 0.0
            });
        }
        let stopping = Instant::now();
        server.terminate();
        let (code, log) = server.wait();
        assert_eq!(code, Some(0), "{log}");
        let seconds = stopping.elapsed().as_secs();
        assert!(seconds < 20, "the server took {seconds} s to stop");
        if collector == closed {
            let records = records(&log);
            let warnings = records
                .iter()
                .filter(|record| record["fields"]["message"] == "cannot export spans");
            assert_eq!(warnings.count(), 1, "{log}");
        }
    }
}

#[test]
fn a_trace_is_logged_and_returned_without_a_collector() {
    let server = Server::start(&["--log-format", "json"]);
    let reply = classify(&server, &photo("coffee_500x375.jpg"), SUCCESS, "01");
    assert_eq!(reply.status, 200);
    assert_eq!(
        reply.header("traceparent"),
        format!("00-{SUCCESS}-{CALLER}-01")
    );
    let request = agent()
        .get(server.url("/v1/models"))
        .header("traceparent", "00-0-0-00");
    let reply = common::client::reply(request.call());
    assert_eq!((reply.status, reply.header("traceparent")), (200, ""));
    server.terminate();
    let (_, log) = server.wait();
    let with_trace = records(&log)
        .into_iter()
        .filter(|record| record["span"]["trace_id"] == SUCCESS);
    assert!(with_trace.count() >= 1, "{log}");
}
