//! Tests of the server on loopback sockets, with clients that are silent or slow, or never read.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::header::CONNECTION;
use axum::routing::{get, post};
use futures_util::StreamExt as _;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::server::{ConnectionTimeouts, MAX_HEAD_BYTES, Server};

pub(super) const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
/// Length in bytes of the response of `/large`: more than the socket buffers of server and client
/// hold.
pub(super) const LARGE: usize = 16 << 20;
/// Longest time that a test waits for something that should happen soon.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// The head of a request with a body of 1 MB, and the first byte of this body.
const UPLOAD: &[u8] = b"POST /upload HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\nx";

/// A complete request that the server processes for 1.5 s after its body has arrived.
const LONG: &[u8] = b"POST /long HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nbody";

pub(super) const TIMEOUTS: ConnectionTimeouts = ConnectionTimeouts {
    keep_alive: Duration::from_mins(1),
    head: Duration::from_mins(1),
    slow_body: Duration::from_mins(1),
    slow_read: Duration::from_mins(1),
};

/// A server on a local port that runs until its token `stop` is cancelled or this value is dropped.
pub(super) struct Running {
    pub(super) address: SocketAddr,
    pub(super) stop: CancellationToken,
    finished: JoinHandle<bool>,
    runtime: Runtime,
}

impl Running {
    pub(super) fn start(max_connections: usize, timeouts: ConnectionTimeouts) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let slow = || async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            "slow"
        };
        let long = |_: Bytes| async {
            tokio::time::sleep(Duration::from_millis(1500)).await;
            "long"
        };
        // Takes 3 s for the first two bytes.
        let decoded = |body: Body| async {
            let (mut data, mut bytes) = (body.into_data_stream(), 0);
            while let Some(Ok(part)) = data.next().await {
                bytes += part.len();
                if bytes == 2 {
                    tokio::time::sleep(Duration::from_secs(3)).await;
                }
            }
            format!("{bytes} bytes")
        };
        let router = Router::new()
            .route("/", get(|| async { "quick" }))
            .route("/slow", get(slow))
            .route("/upload", post(|_: Bytes| async { "received" }))
            .route("/long", post(long))
            .route("/large", get(|| async { vec![b'x'; LARGE] }))
            .route("/decoded", post(decoded))
            .route("/last", get(|| async { ([(CONNECTION, "close")], "last") }));
        let server = Server {
            listeners: listener.into(),
            router,
            max_connections,
            timeouts,
            transport: Arc::default(),
        };
        let stop = CancellationToken::new();
        let finished = runtime.spawn(server.run(stop.clone().cancelled_owned(), PATIENCE));
        Self {
            address,
            stop,
            finished,
            runtime,
        }
    }

    /// Waits until the server, which must have been told to stop, has finished. Returns whether the
    /// requests in flight finished within [`PATIENCE`].
    pub(super) fn finish(self) -> bool {
        self.runtime.block_on(self.finished).unwrap()
    }

    pub(super) fn connect(&self, request: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(request).unwrap();
        stream
    }
}

/// Reads from `stream` until the received text ends with `end`. Panics if the server closes the
/// connection before.
pub(super) fn read_until(stream: &mut TcpStream, end: &str) {
    let mut text = String::new();
    while !text.ends_with(end) {
        let mut buffer = [0; 1024];
        let bytes = stream.read(&mut buffer).unwrap();
        assert_ne!(bytes, 0, "connection closed after {text:?}, before {end:?}");
        text.push_str(std::str::from_utf8(&buffer[..bytes]).unwrap());
    }
}

/// Waits until the server closes or resets the connection, and returns how long that took.
pub(super) fn closed(stream: &mut TcpStream) -> Duration {
    let started = Instant::now();
    let _ = stream.read_to_end(&mut Vec::new());
    assert!(started.elapsed() < PATIENCE);
    started.elapsed()
}

#[test]
fn a_client_is_not_slow_while_the_server_decodes_its_body() {
    let timeouts = ConnectionTimeouts {
        slow_body: Duration::from_secs(2),
        ..TIMEOUTS
    };
    let server = Running::start(8, timeouts);
    let mut client =
        server.connect(b"POST /decoded HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nx");
    sleep(Duration::from_millis(200));
    client.write_all(b"x").unwrap();
    // The server asks for the third byte after 3 s and waits for it for 2 s.
    sleep(Duration::from_secs(4));
    client.write_all(b"x").unwrap();
    read_until(&mut client, "3 bytes");
}

#[test]
fn a_trickled_head_and_an_idle_connection_have_deadlines_of_their_own() {
    let timeouts = ConnectionTimeouts {
        head: Duration::from_millis(300),
        keep_alive: Duration::from_secs(2),
        ..TIMEOUTS
    };
    let server = Running::start(8, timeouts);
    let mut idle = server.connect(GET);
    read_until(&mut idle, "quick");
    let idle = std::thread::spawn(move || closed(&mut idle));
    let connecting = Instant::now();
    let mut trickled = server.connect(b"GET / HTTP/1.1\r\npadding: ");
    let mut writer = trickled.try_clone().unwrap();
    std::thread::spawn(move || {
        while writer.write_all(b"x").is_ok() {
            sleep(Duration::from_millis(50));
        }
    });
    closed(&mut trickled);
    let trickled = connecting.elapsed();
    let idle = idle.join().unwrap();
    let slack = Duration::from_millis(200);
    assert!(trickled >= timeouts.head, "{trickled:?}");
    assert!(idle + slack >= timeouts.keep_alive, "{idle:?}");
    assert!(trickled < idle, "{trickled:?} {idle:?}");
}

#[test]
fn a_head_of_32_kib_is_rejected_with_431() {
    let server = Running::start(8, TIMEOUTS);
    let mut head = b"GET / HTTP/1.1\r\nhost: x\r\npadding: ".to_vec();
    head.resize(MAX_HEAD_BYTES, b'a');
    let mut reply = String::new();
    server.connect(&head).read_to_string(&mut reply).unwrap();
    assert!(reply.starts_with("HTTP/1.1 431 "), "{reply}");
    head.truncate(MAX_HEAD_BYTES - 1024);
    head.extend_from_slice(b"\r\n\r\n");
    read_until(&mut server.connect(&head), "quick");
}

#[test]
fn a_new_connection_takes_the_place_of_the_one_idle_longest() {
    let server = Running::start(2, TIMEOUTS);
    let mut first = server.connect(GET);
    read_until(&mut first, "quick");
    let mut second = server.connect(b"");
    // The first connection sends one more request, so the second connection has been idle longest.
    sleep(Duration::from_millis(200));
    first.write_all(GET).unwrap();
    read_until(&mut first, "quick");
    let mut third = server.connect(GET);
    read_until(&mut third, "quick");
    closed(&mut second);
    first.write_all(GET).unwrap();
    read_until(&mut first, "quick");
    // Connections that are silent or sent an incomplete head do not keep a new client out, even if
    // there are more of them than slots.
    let held = [b"".as_slice(), b"GET"].into_iter().cycle().take(50);
    let _held: Vec<_> = held.map(|start| server.connect(start)).collect();
    read_until(&mut server.connect(GET), "quick");
}

#[test]
fn a_connection_with_a_request_in_flight_keeps_its_place() {
    let server = Running::start(1, TIMEOUTS);
    let mut slow = server.connect(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n");
    sleep(Duration::from_millis(100));
    let started = Instant::now();
    let mut next = server.connect(GET);
    read_until(&mut next, "quick");
    assert!(started.elapsed() >= Duration::from_millis(200));
    read_until(&mut slow, "slow");
    closed(&mut slow);
}

#[test]
fn a_stop_closes_connections_without_a_request_and_finishes_the_others() {
    let server = Running::start(64, TIMEOUTS);
    let mut idle = server.connect(GET);
    read_until(&mut idle, "quick");
    let starts: [&[u8]; 4] = [
        b"",
        b"G",
        b"GET / HTTP/1.1\r\nhost: x\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\nGET / HT",
    ];
    let mut without_request: Vec<_> = starts.map(|start| server.connect(start)).into();
    read_until(&mut without_request[3], "quick");
    without_request.push(idle);
    let mut slow = server.connect(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n");
    // This connection has a complete request in flight and an incomplete one behind it. The server
    // responds to the complete request and then closes the connection.
    let mut pipelined = server.connect(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\nGET /");
    sleep(Duration::from_millis(100));
    let stopping = Instant::now();
    server.stop.cancel();
    for connection in &mut without_request {
        closed(connection);
    }
    read_until(&mut slow, "slow");
    read_until(&mut pipelined, "slow");
    assert!(server.finish());
    assert!(stopping.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_request_on_an_idle_connection_at_the_moment_of_the_stop_gets_a_response() {
    let server = Running::start(8, TIMEOUTS);
    let mut idle = server.connect(GET);
    read_until(&mut idle, "quick");
    server.stop.cancel();
    idle.write_all(GET).unwrap();
    read_until(&mut idle, "quick");
    closed(&mut idle);
    assert!(server.finish());
}

#[test]
fn a_client_that_never_reads_is_disconnected_and_a_slow_one_is_not() {
    let timeouts = ConnectionTimeouts {
        slow_read: Duration::from_millis(500),
        ..TIMEOUTS
    };
    let server = Running::start(1, timeouts);
    let request = b"GET /large HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let mut slow = server.connect(request);
    let (started, mut received) = (Instant::now(), 0);
    let mut buffer = vec![0; 1 << 18];
    loop {
        let bytes = slow.read(&mut buffer).unwrap();
        if bytes == 0 {
            break;
        }
        received += bytes;
        sleep(Duration::from_millis(15));
    }
    assert!(received > LARGE, "{received}");
    assert!(started.elapsed() > timeouts.slow_read);
    let _unread = server.connect(request);
    sleep(Duration::from_millis(100));
    read_until(&mut server.connect(GET), "quick");
}

#[test]
fn a_request_whose_body_arrives_too_slowly_fails() {
    let timeouts = ConnectionTimeouts {
        slow_body: Duration::from_millis(300),
        ..TIMEOUTS
    };
    let server = Running::start(8, timeouts);
    let started = Instant::now();
    let mut stuck = server.connect(UPLOAD);
    read_until(
        &mut stuck,
        "less than 1000 bytes per second on average over 300 ms",
    );
    assert!(started.elapsed() >= timeouts.slow_body);
    closed(&mut stuck);
    // A client that is twice as fast as it must be.
    let mut slow = server.connect(&UPLOAD[..UPLOAD.len() - 1]);
    let started = Instant::now();
    for part in vec![0; 1_000_000].chunks(1_000_000 / 20) {
        slow.write_all(part).unwrap();
        sleep(Duration::from_millis(40));
    }
    assert!(started.elapsed() > 2 * timeouts.slow_body);
    read_until(&mut slow, "received");
    // The body has arrived, so only the server is slow.
    let (head, body) = LONG.split_at(LONG.len() - 1);
    let mut long = server.connect(head);
    sleep(Duration::from_millis(100));
    long.write_all(body).unwrap();
    read_until(&mut long, "long");
}

#[test]
fn a_new_connection_takes_the_place_of_a_slow_client_after_a_second() {
    let server = Running::start(2, TIMEOUTS);
    let mut long = server.connect(LONG);
    let mut stuck = server.connect(UPLOAD);
    let started = Instant::now();
    read_until(&mut server.connect(GET), "quick");
    let waited = started.elapsed();
    assert!(waited >= Duration::from_millis(900), "{waited:?}");
    closed(&mut stuck);
    read_until(&mut long, "long");
    // The server has read the whole body of the request, so the connection kept its place.
    assert!(started.elapsed() > waited);
}

#[test]
fn a_new_connection_takes_the_place_of_a_client_that_never_pauses() {
    let server = Running::start(1, TIMEOUTS);
    let mut busy = server.connect(GET);
    let pipelining = std::thread::spawn(move || {
        // One request is always ahead of the response that is read.
        while busy.write_all(GET).is_ok() {
            let mut buffer = [0; 1024];
            match busy.read(&mut buffer) {
                Ok(bytes) if bytes > 0 => {}
                _ => return,
            }
        }
    });
    sleep(Duration::from_millis(100));
    let started = Instant::now();
    read_until(&mut server.connect(GET), "quick");
    assert!(started.elapsed() < Duration::from_secs(2));
    pipelining.join().unwrap();
}

#[test]
fn a_new_connection_takes_the_place_of_the_slowest_client() {
    let server = Running::start(2, TIMEOUTS);
    let mut upload = server.connect(UPLOAD);
    let _unread = server.connect(b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n");
    sleep(Duration::from_millis(1200));
    // A tenth of the body; the other client reads nothing.
    upload.write_all(&vec![0; 99_999]).unwrap();
    sleep(Duration::from_millis(100));
    let started = Instant::now();
    read_until(&mut server.connect(GET), "quick");
    assert!(started.elapsed() < Duration::from_millis(900));
    upload.write_all(&vec![0; 900_000]).unwrap();
    read_until(&mut upload, "received");
}
