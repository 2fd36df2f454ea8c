//! Checks HTTP/2 without TLS: the log and the metrics of streams, the statuses of rejected streams, and a stop that loses
//! no stream.

use std::process::Command;

use crate::common::{self, PATIENCE, Server, eventually, photo};
use axum::body::Bytes;
use h2::client::SendRequest;
use serde_json::Value;
use tokio::net::TcpStream;
use ureq::http::{Request, Response};

/// Runs a client within [`PATIENCE`].
fn block_on<T>(client: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, client).await.unwrap() })
}

async fn connect(server: &Server) -> SendRequest<Bytes> {
    let socket = TcpStream::connect(server.address).await.unwrap();
    let mut builder = h2::client::Builder::new();
    builder.initial_connection_window_size(1 << 20);
    let (send, connection) = builder.handshake(socket).await.unwrap();
    tokio::spawn(connection);
    send
}

/// Sends a request with `body`, and returns the response with its body.
async fn post(
    client: &SendRequest<Bytes>,
    path: &str,
    body: &[u8],
) -> Result<Response<Vec<u8>>, h2::Error> {
    let mut client = client.clone().ready().await?;
    let request = Request::post(format!("http://x{path}")).body(()).unwrap();
    let (response, mut send) = client.send_request(request, false)?;
    // An error if the server responds before it has read the body.
    let _ = send.send_data(Bytes::copy_from_slice(body), true);
    let (head, mut stream) = response.await?.into_parts();
    let mut body = Vec::new();
    while let Some(data) = stream.data().await {
        let data = data?;
        stream.flow_control().release_capacity(data.len())?;
        body.extend_from_slice(&data);
    }
    Ok(Response::from_parts(head, body))
}

#[test]
fn each_stream_has_its_own_log_event_metrics_and_request_id() {
    let server = Server::start(&["--log-format", "json", "--max-body-bytes", "3000000"]);
    let coffee = photo("coffee_500x375.jpg");
    let large = vec![0; 4_000_000];
    block_on(async {
        let client = connect(&server).await;
        let mut ids = std::collections::BTreeSet::new();
        let requests = (0..50).map(|_| post(&client, "/v1/classify?top_k=1", &coffee));
        for response in futures_util::future::join_all(requests).await {
            let response = response.unwrap();
            assert_eq!(response.status(), 200);
            let body: Value = serde_json::from_slice(response.body()).unwrap();
            assert_eq!(body["results"][0]["predictions"][0]["label"], "espresso");
            ids.insert(response.headers()["x-request-id"].clone());
            assert!(response.headers().contains_key("server-timing"));
            assert!(!response.headers().contains_key("connection"));
        }
        assert_eq!(ids.len(), 50);
        // Streams that fail do not disturb the others.
        let cases: [(&str, &[u8], u16); 4] = [
            ("/v1/classify", b"", 400),
            ("/v1/classify", &large, 413),
            ("/v1/classify?top_k=x", &coffee, 400),
            ("/nowhere", b"x", 404),
        ];
        for (path, body, status) in cases {
            let response = post(&client, path, body).await.unwrap();
            assert_eq!(response.status(), status, "{path}");
        }
        assert_eq!(
            post(&client, "/v1/classify", &coffee)
                .await
                .unwrap()
                .status(),
            200
        );
    });
    let sample = "sightline_requests_total{route=\"/v1/classify\",status=\"200\"";
    assert_eq!(server.metric(sample), 51.0);
    eventually("no request is in flight but this one", || {
        server.metric("sightline_in_flight") == 1.0
    });
    server.terminate();
    let (code, log) = server.wait();
    assert_eq!(code, Some(0));
    let events = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let finished = events.filter(|event| event["fields"]["message"] == "request finished");
    let served = finished.filter(|event| event["span"]["route"] == "/v1/classify");
    assert_eq!(
        served
            .filter(|event| event["fields"]["status"] == 200)
            .count(),
        51
    );
}

#[test]
fn a_stop_finishes_the_streams_in_flight() {
    let server = Server::start(&[]);
    let coffee = photo("coffee_500x375.jpg");
    block_on(async {
        let (busy, _idle) = (connect(&server).await, connect(&server).await);
        let mut ready = busy.clone().ready().await.unwrap();
        let mut requests = Vec::new();
        for _ in 0..20 {
            let request = Request::post("http://x/v1/classify").body(()).unwrap();
            let (response, mut body) = ready.send_request(request, false).unwrap();
            body.send_data(coffee.clone().into(), true).unwrap();
            requests.push(response);
            ready = ready.ready().await.unwrap();
        }
        let admitted = tokio::task::spawn_blocking({
            let url = server.url("/metrics");
            move || {
                eventually("every stream is in flight", || {
                    let page = common::agent()
                        .get(&url)
                        .call()
                        .unwrap()
                        .body_mut()
                        .read_to_string()
                        .unwrap();
                    page.lines().any(|line| line == "sightline_in_flight 21")
                        || page.contains("sightline_requests_total{route=\"/v1/classify\"")
                });
            }
        });
        admitted.await.unwrap();
        server.terminate();
        for response in requests {
            let response = response.await.unwrap();
            // A stream that arrives after the signal is rejected, but not lost.
            assert!(
                [200, 503].contains(&response.status().as_u16()),
                "{response:?}"
            );
        }
    });
    let (code, log) = server.wait();
    assert_eq!(code, Some(0), "{log}");
}

/// Arguments of curl for one HTTP/2 request.
const CURL: [&str; 6] = [
    "--silent",
    "--noproxy",
    "*",
    "--max-time",
    "60",
    "--http2-prior-knowledge",
];

#[test]
fn curl_speaks_http_2_by_prior_knowledge() {
    let server = Server::start(&[]);
    let image = common::path("photos/coffee_500x375.jpg");
    let output = Command::new("curl")
        .args(CURL)
        .args(["--write-out", "\n%{http_version}", "--form"])
        .arg(format!("image=@{}", image.display()))
        .arg(server.url("/v1/classify?top_k=1"))
        .output();
    let Ok(output) = output else {
        println!("skipped: no curl");
        return;
    };
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("espresso") && text.ends_with("\n2"), "{text}");
    // The host of the URLs on the index page is the one of the request.
    let output = Command::new("curl")
        .args(CURL)
        .arg(server.url("/"))
        .output();
    let text = String::from_utf8(output.unwrap().stdout).unwrap();
    assert!(text.contains(&server.url("/v1/classify")), "{text}");
}
