//! Tests of HTTP/2 with frames that no client library sends: floods, rapid resets, and frames that lie.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::server::ConnectionTimeouts;
use super::server_tests::{GET, Running, TIMEOUTS, closed, read_until};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// `:method: GET`, `:scheme: http`, `:path: /`, `:authority: x`.
const REQUEST: &[u8] = &[0x82, 0x86, 0x84, 0x41, 1, b'x'];

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// Returns the odd ids of streams.
fn ids() -> impl Iterator<Item = u32> {
    (1..).step_by(2)
}

/// Opens a connection and sends the preface and empty settings.
fn connect(server: &Running) -> TcpStream {
    let start = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    server.connect(&start)
}

/// Sends the frames, of which there are more than the server should accept, and reads what it sends meanwhile. Returns the
/// number of frames that were sent before the server closed the connection, and the bytes that it sent.
fn flood(stream: &TcpStream, frames: impl Iterator<Item = Vec<u8>>) -> (usize, Vec<u8>) {
    let mut reader = stream.try_clone().unwrap();
    let reader = std::thread::spawn(move || {
        let mut received = Vec::new();
        let mut buffer = vec![0; 1 << 16];
        while let Ok(bytes @ 1..) = reader.read(&mut buffer) {
            // The beginning and the end are enough.
            received.truncate(1 << 20);
            received.extend_from_slice(&buffer[..bytes]);
        }
        received
    });
    let mut writer = stream;
    let sent = frames
        .take_while(|frame| writer.write_all(frame).is_ok())
        .count();
    (sent, reader.join().unwrap())
}

/// Returns the error codes of the GOAWAY frames in `bytes`, which begin with a frame.
fn goaways(mut bytes: &[u8]) -> Vec<u32> {
    let mut codes = Vec::new();
    while bytes.len() >= 9 {
        let length = u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]) as usize;
        if bytes[3] == GOAWAY && bytes.len() >= 17 {
            codes.push(u32::from_be_bytes([
                bytes[13], bytes[14], bytes[15], bytes[16],
            ]));
        }
        bytes = bytes.get(9 + length..).unwrap_or_default();
    }
    codes
}

/// Checks that a server survives `frames`, and closes their connection before all of them were sent.
fn check(name: &str, frames: impl Fn() -> Box<dyn Iterator<Item = Vec<u8>>>, most: usize) {
    let server = Running::start(8, TIMEOUTS);
    let (sent, received) = flood(&connect(&server), frames().take(most));
    println!("{name}: {sent} frames, then {:?}", goaways(&received));
    assert!(sent < most, "{name}: {sent}");
    read_until(&mut server.connect(GET), "quick");
}

#[test]
fn floods_of_frames_close_their_connection() {
    let request = |id| frame(HEADERS, END_HEADERS | END_STREAM, id, REQUEST);
    let open = |id| frame(HEADERS, END_HEADERS, id, REQUEST);
    check(
        "ping",
        || Box::new(std::iter::repeat_with(|| frame(PING, 0, 0, &[0; 8]))),
        1_000_000,
    );
    check(
        "settings",
        || Box::new(std::iter::repeat_with(|| frame(SETTINGS, 0, 0, &[]))),
        1_000_000,
    );
    check(
        "window updates",
        || {
            Box::new(std::iter::repeat_with(|| {
                frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])
            }))
        },
        3_000_000_000,
    );
    check(
        "rapid reset",
        move || {
            let reset = move |id| [request(id), frame(RST_STREAM, 0, id, &[0, 0, 0, 8])].concat();
            Box::new(ids().map(reset))
        },
        100_000,
    );
    check(
        "resets by invalid window updates",
        move || {
            let lie = move |id| [open(id), frame(WINDOW_UPDATE, 0, id, &[0, 0, 0, 0])].concat();
            Box::new(ids().map(lie))
        },
        100_000,
    );
    check(
        "continuation",
        || {
            let first = frame(HEADERS, END_STREAM, 1, REQUEST);
            let next = std::iter::repeat_with(|| frame(CONTINUATION, 0, 1, &[]));
            Box::new(std::iter::once(first).chain(next))
        },
        1_000_000,
    );
    check(
        "continuation with headers",
        || {
            let first = frame(HEADERS, END_STREAM, 1, REQUEST);
            let header = [&[0x40, 1, b'a', 0x7f, 0x80, 0x7d][..], &[b'x'; 16_000]].concat();
            let next = std::iter::repeat_with(move || frame(CONTINUATION, 0, 1, &header));
            Box::new(std::iter::once(first).chain(next))
        },
        10_000,
    );
    check(
        "empty data",
        move || {
            let post = [
                0x83, 0x86, 0x04, 7, b'/', b'u', b'p', b'l', b'o', b'a', b'd', 0x41, 1, b'x',
            ];
            let first = frame(HEADERS, END_HEADERS, 1, &post);
            let next = std::iter::repeat_with(|| frame(DATA, 0, 1, &[]));
            Box::new(std::iter::once(first).chain(next))
        },
        1_000_000,
    );
}

#[test]
fn a_few_thousand_frames_that_carry_nothing_close_their_connection_despite_requests() {
    let floods = [
        // An acknowledgment of a ping that was never sent.
        ("pong", frame(PING, 1, 0, &[0; 8])),
        ("priority", frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1])),
        ("unknown", frame(0x77, 0, 0, &[0; 8])),
        ("empty unknown", frame(0x77, 0, 0, &[])),
    ];
    for (name, nothing) in floods {
        let server = Running::start(8, TIMEOUTS);
        let mut stream = connect(&server);
        for id in ids().take(8) {
            let request = frame(HEADERS, END_HEADERS | END_STREAM, id, REQUEST);
            let burst = [nothing.repeat(1000), request].concat();
            if stream.write_all(&burst).is_err() {
                break;
            }
        }
        println!("{name}");
        closed(&mut stream);
        read_until(&mut server.connect(GET), "quick");
    }
}

#[test]
fn idle_connections_give_way_at_once_if_they_never_had_a_request() {
    let server = Running::start(2, TIMEOUTS);
    let idle: Vec<TcpStream> = (0..20).map(|_| connect(&server)).collect();
    let started = Instant::now();
    read_until(&mut server.connect(GET), "quick");
    // Half a second for each of them is 10 s.
    assert!(started.elapsed() < Duration::from_secs(4));
    drop(idle);
}

#[test]
fn connections_give_way_soon_after_their_requests() {
    let server = Running::start(2, TIMEOUTS);
    let used = (0..20).map(|_| {
        let mut stream = connect(&server);
        let request = frame(HEADERS, END_HEADERS | END_STREAM, 1, REQUEST);
        stream.write_all(&request).unwrap();
        stream
    });
    let used: Vec<TcpStream> = used.collect();
    let started = Instant::now();
    read_until(&mut server.connect(GET), "quick");
    assert!(started.elapsed() < Duration::from_secs(4));
    drop(used);
}

#[test]
fn frames_that_lie_end_their_connection_only() {
    let server = Running::start(8, TIMEOUTS);
    let frames = [
        // A frame of 16 MB, a frame for a stream that is not open, an even stream, a ping of the wrong length, a broken
        // header block, a padding longer than its frame, and bytes that are no frames.
        vec![0xff, 0xff, 0xff, DATA, 0, 0, 0, 0, 1],
        frame(DATA, 0, 9, b"x"),
        frame(HEADERS, END_HEADERS | END_STREAM, 2, REQUEST),
        frame(PING, 0, 0, b"x"),
        frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0xff; 20]),
        frame(HEADERS, END_HEADERS | END_STREAM | 8, 1, &[200]),
        b"GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n".to_vec(),
    ];
    for bytes in frames {
        let mut stream = connect(&server);
        stream.write_all(&bytes).unwrap();
        closed(&mut stream);
    }
    read_until(&mut server.connect(GET), "quick");
}

#[test]
fn a_trickled_preface_has_the_deadline_of_a_head() {
    let timeouts = ConnectionTimeouts {
        head: Duration::from_millis(300),
        ..TIMEOUTS
    };
    let server = Running::start(8, timeouts);
    let mut stream = server.connect(b"PRI * HTTP/2.0\r\n\r\nSM");
    let waited = closed(&mut stream);
    assert!(
        waited + Duration::from_millis(100) >= timeouts.head,
        "{waited:?}"
    );
}

#[test]
fn a_trickled_head_does_not_keep_an_idle_connection_open() {
    let timeouts = ConnectionTimeouts {
        keep_alive: Duration::from_millis(500),
        ..TIMEOUTS
    };
    let server = Running::start(8, timeouts);
    let mut stream = connect(&server);
    let mut writer = stream.try_clone().unwrap();
    std::thread::spawn(move || {
        let head = frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0; 10_000]);
        let mut bytes = head.iter();
        while bytes
            .next()
            .is_some_and(|byte| writer.write_all(&[*byte]).is_ok())
        {
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    let waited = closed(&mut stream);
    assert!(waited < Duration::from_secs(5), "{waited:?}");
}
