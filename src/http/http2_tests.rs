//! Tests of HTTP/2 without TLS, with a well-behaved client library: limits apply to streams, and no accepted stream is
//! lost.

use std::future::Future;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::http::{Request, StatusCode};
use h2::client::{Builder, ResponseFuture, SendRequest};
use h2::{Reason, SendStream};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::server::ConnectionTimeouts;
use super::server_tests::{GET, LARGE, PATIENCE, Running, TIMEOUTS, closed, read_until};

/// An HTTP/2 connection to a server.
struct Client {
    send: SendRequest<Bytes>,
    /// Ends with the connection.
    connection: JoinHandle<Result<(), h2::Error>>,
}

impl Client {
    /// Connects with a large flow-control window for the connection, and the smallest one for each stream.
    async fn connect(server: &Running) -> Self {
        let socket = TcpStream::connect(server.address).await.unwrap();
        let mut builder = Builder::new();
        builder.initial_connection_window_size(8 << 20);
        let (send, connection) = builder.handshake(socket).await.unwrap();
        let connection = tokio::spawn(connection);
        Self { send, connection }
    }

    /// Sends the head of a request. `end` says whether the request has no body.
    async fn request(
        &self,
        method: &str,
        path: &str,
        end: bool,
    ) -> (ResponseFuture, SendStream<Bytes>) {
        let mut send = self.send.clone().ready().await.unwrap();
        let uri = format!("http://x{path}");
        let request = Request::builder().method(method).uri(uri);
        send.send_request(request.body(()).unwrap(), end).unwrap()
    }

    /// Sends `GET path` and returns the body of the response, or the reason with which the stream was reset.
    async fn get(&self, path: &str) -> Result<String, Option<Reason>> {
        let (response, _) = self.request("GET", path, true).await;
        read(response).await
    }
}

/// Returns the body of a response, or the reason with which the stream was reset.
async fn read(response: ResponseFuture) -> Result<String, Option<Reason>> {
    let mut body = response.await.map_err(|error| error.reason())?.into_body();
    let mut text = Vec::new();
    while let Some(data) = body.data().await {
        let data = data.map_err(|error| error.reason())?;
        body.flow_control().release_capacity(data.len()).unwrap();
        text.extend_from_slice(&data);
    }
    Ok(String::from_utf8(text).unwrap())
}

/// Runs a client within [`PATIENCE`].
fn run<T>(client: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, client).await.unwrap() })
}

/// Returns a response with the body `text`.
#[expect(clippy::unnecessary_wraps, reason = "compared with results")]
fn ok(text: &str) -> Result<String, Option<Reason>> {
    Ok(text.to_owned())
}

#[test]
fn requests_of_one_connection_are_served_at_the_same_time() {
    let server = Running::start(64, TIMEOUTS);
    run(async {
        let client = Client::connect(&server).await;
        let started = Instant::now();
        let slow = (0..50).map(|_| client.get("/slow"));
        for response in futures_util::future::join_all(slow).await {
            assert_eq!(response, ok("slow"));
        }
        // One after the other, they take 25 s.
        assert!(started.elapsed() < Duration::from_secs(10));
        assert_eq!(client.get("/large").await.unwrap().len(), LARGE);
        let (response, mut body) = client.request("POST", "/upload", false).await;
        for _ in 0..100 {
            body.send_data(Bytes::from(vec![0; 10_000]), false).unwrap();
        }
        body.send_data(Bytes::new(), true).unwrap();
        assert_eq!(read(response).await, ok("received"));
    });
    // The same listener serves HTTP/1.1.
    read_until(&mut server.connect(GET), "quick");
}

#[test]
fn a_stream_whose_body_arrives_too_slowly_fails_alone() {
    let timeouts = ConnectionTimeouts {
        slow_body: Duration::from_millis(300),
        ..TIMEOUTS
    };
    let server = Running::start(8, timeouts);
    run(async {
        let client = Client::connect(&server).await;
        let started = Instant::now();
        let (stuck, mut body) = client.request("POST", "/upload", false).await;
        body.send_data(Bytes::from_static(b"x"), false).unwrap();
        assert_eq!(client.get("/slow").await, ok("slow"));
        let text = read(stuck).await.unwrap();
        assert!(text.contains("less than 1000 bytes per second"), "{text}");
        assert!(started.elapsed() >= timeouts.slow_body);
        // A client that is twice as fast as it must be.
        let (response, mut body) = client.request("POST", "/upload", false).await;
        for _ in 0..20 {
            body.send_data(Bytes::from(vec![0; 80]), false).unwrap();
            tokio::time::sleep(Duration::from_millis(40)).await;
        }
        body.send_data(Bytes::new(), true).unwrap();
        assert_eq!(read(response).await, ok("received"));
    });
}

#[test]
fn a_stream_that_is_never_read_is_reset_alone() {
    let timeouts = ConnectionTimeouts {
        slow_read: Duration::from_millis(500),
        ..TIMEOUTS
    };
    let server = Running::start(8, timeouts);
    run(async {
        let client = Client::connect(&server).await;
        let (unread, _) = client.request("GET", "/large", true).await;
        let mut unread = unread.await.unwrap().into_body();
        // A slow reader: 16 MiB within a second or more.
        let (slow, _) = client.request("GET", "/large", true).await;
        let mut slow = slow.await.unwrap().into_body();
        let mut bytes = 0;
        while let Some(data) = slow.data().await {
            let data = data.unwrap();
            bytes += data.len();
            slow.flow_control().release_capacity(data.len()).unwrap();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(bytes, LARGE);
        let reason = loop {
            match unread.data().await {
                Some(Ok(_)) => {}
                Some(Err(error)) => break error.reason(),
                None => panic!("the response ended"),
            }
        };
        assert_eq!(reason, Some(Reason::CANCEL));
        assert_eq!(client.get("/").await, ok("quick"));
    });
}

#[test]
fn a_stream_without_a_window_is_reset() {
    let timeouts = ConnectionTimeouts {
        slow_read: Duration::from_millis(300),
        ..TIMEOUTS
    };
    let server = Running::start(8, timeouts);
    run(async {
        let socket = TcpStream::connect(server.address).await.unwrap();
        let mut builder = Builder::new();
        let (send, connection) = builder
            .initial_window_size(0)
            .handshake(socket)
            .await
            .unwrap();
        let client = Client {
            send,
            connection: tokio::spawn(connection),
        };
        for _ in 0..3 {
            assert_eq!(client.get("/").await, Err(Some(Reason::CANCEL)));
        }
    });
}

#[test]
fn an_idle_connection_is_told_to_leave_and_then_closed() {
    let timeouts = ConnectionTimeouts {
        keep_alive: Duration::from_millis(800),
        ..TIMEOUTS
    };
    let server = Running::start(8, timeouts);
    run(async {
        let client = Client::connect(&server).await;
        // A request that takes longer than the time without a request.
        assert_eq!(client.get("/slow").await, ok("slow"));
        let (long, mut body) = client.request("POST", "/long", false).await;
        body.send_data(Bytes::from_static(b"body"), true).unwrap();
        assert_eq!(read(long).await, ok("long"));
        let idle = Instant::now();
        client.connection.await.unwrap().unwrap();
        assert!(idle.elapsed() + Duration::from_millis(200) >= timeouts.keep_alive);
    });
}

#[test]
fn a_stop_loses_no_accepted_stream() {
    let server = Running::start(64, TIMEOUTS);
    let stop = server.stop.clone();
    // A client that has sent only the preface and its settings, and does not answer the server's ping.
    let mut silent = server.connect(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
    run(async {
        let idle = Client::connect(&server).await;
        assert_eq!(idle.get("/").await, ok("quick"));
        let busy = Client::connect(&server).await;
        let mut requests = Vec::new();
        for _ in 0..20 {
            requests.push(busy.request("GET", "/slow", true).await.0);
        }
        let (long, mut body) = busy.request("POST", "/long", false).await;
        body.send_data(Bytes::from_static(b"body"), true).unwrap();
        // The streams have been accepted when the first one has its response.
        assert_eq!(read(requests.pop().unwrap()).await, ok("slow"));
        stop.cancel();
        for request in requests {
            assert_eq!(read(request).await, ok("slow"));
        }
        assert_eq!(read(long).await, ok("long"));
        // Both connections end without an error.
        busy.connection.await.unwrap().unwrap();
        idle.connection.await.unwrap().unwrap();
    });
    let stopping = Instant::now();
    closed(&mut silent);
    assert!(server.finish());
    assert!(stopping.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_response_that_closes_its_connection_is_followed_by_goaway_and_loses_no_stream() {
    let server = Running::start(64, TIMEOUTS);
    run(async {
        let client = Client::connect(&server).await;
        let slow = (0..10).map(|_| client.get("/slow"));
        let slow = futures_util::future::join_all(slow);
        let last = async {
            let (response, _) = client.request("GET", "/last", true).await;
            let response = response.await.unwrap();
            assert!(!response.headers().contains_key("connection"));
        };
        let (slow, ()) = tokio::join!(slow, last);
        for response in slow {
            assert_eq!(response, ok("slow"));
        }
        client.connection.await.unwrap().unwrap();
    });
}

#[test]
fn a_new_connection_takes_the_place_of_an_idle_one() {
    let server = Running::start(1, TIMEOUTS);
    run(async {
        let idle = Client::connect(&server).await;
        assert_eq!(idle.get("/").await, ok("quick"));
        let started = Instant::now();
        let next = Client::connect(&server).await;
        assert_eq!(next.get("/").await, ok("quick"));
        assert!(started.elapsed() < Duration::from_secs(2));
        idle.connection.await.unwrap().unwrap();
    });
}

#[test]
fn a_new_connection_takes_the_place_of_slow_streams_but_not_of_work() {
    let server = Running::start(1, TIMEOUTS);
    run(async {
        let client = Client::connect(&server).await;
        let (upload, mut stuck) = client.request("POST", "/upload", false).await;
        stuck.send_data(Bytes::from_static(b"x"), false).unwrap();
        let (long, mut body) = client.request("POST", "/long", false).await;
        body.send_data(Bytes::from_static(b"body"), true).unwrap();
        let started = Instant::now();
        let next = Client::connect(&server);
        let (next, long) = tokio::join!(next, read(long));
        assert_eq!(long, ok("long"));
        assert_eq!(next.get("/").await, ok("quick"));
        assert!(started.elapsed() >= Duration::from_millis(900));
        assert!(upload.await.is_err());
    });
}

#[test]
fn a_new_connection_takes_the_place_of_a_client_that_never_pauses() {
    let server = Running::start(1, TIMEOUTS);
    run(async {
        let busy = Client::connect(&server).await;
        let requests = async {
            let mut served = 0;
            loop {
                let mut ready = match busy.send.clone().ready().await {
                    Ok(ready) => ready,
                    Err(error) => break (served, error.reason()),
                };
                let request = Request::builder().uri("http://x/slow").body(()).unwrap();
                let (response, _) = ready.send_request(request, true).unwrap();
                match read(response).await {
                    Ok(_) => served += 1,
                    Err(reason) => break (served, reason),
                }
            }
        };
        let next = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let started = Instant::now();
            let next = Client::connect(&server).await;
            assert_eq!(next.get("/").await, ok("quick"));
            started.elapsed()
        };
        let ((served, reason), waited) = tokio::join!(requests, next);
        assert!(waited < Duration::from_secs(4), "{waited:?}");
        assert!(served > 0);
        assert_eq!(reason, Some(Reason::NO_ERROR));
    });
}

#[test]
fn streams_beyond_the_limit_are_refused_and_every_connection_has_one() {
    // Places for two streams in addition to the first one of each connection.
    let server = Running::start(2, TIMEOUTS);
    run(async {
        let client = Client::connect(&server).await;
        let mut slow = Vec::new();
        for _ in 0..5 {
            slow.push(client.request("GET", "/slow", true).await.0);
        }
        let other = Client::connect(&server).await;
        assert_eq!(other.get("/").await, ok("quick"));
        let results = futures_util::future::join_all(slow.into_iter().map(read)).await;
        let refused = Err(Some(Reason::REFUSED_STREAM));
        assert_eq!(
            results,
            [ok("slow"), ok("slow"), ok("slow"), refused.clone(), refused]
        );
        assert_eq!(client.get("/").await, ok("quick"));
    });
}

#[test]
fn a_head_of_32_kib_is_rejected_with_431() {
    let server = Running::start(8, TIMEOUTS);
    run(async {
        let client = Client::connect(&server).await;
        for (length, expected) in [
            (31 << 10, StatusCode::OK),
            (33 << 10, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
        ] {
            let mut send = client.send.clone().ready().await.unwrap();
            let request = Request::builder()
                .uri("http://x/")
                .header("padding", "a".repeat(length));
            let (response, _) = send.send_request(request.body(()).unwrap(), true).unwrap();
            assert_eq!(response.await.unwrap().status(), expected, "{length}");
        }
        assert_eq!(client.get("/").await, ok("quick"));
    });
}
