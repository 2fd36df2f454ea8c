//! Connections that are held without being used: they stay silent, send one byte per second
//! (trickle), or never read a response.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::http::Request;
use crate::load::on_threads;

/// Time between the starts of two passes over all connections. In each pass, a trickling connection
/// sends one byte.
const PASS: Duration = Duration::from_secs(1);
/// Maximum number of closed connections that each thread opens again in one pass.
const REOPENED: usize = 100;
/// Pause of a thread after each connection that it opens.
const PAUSE: Duration = Duration::from_micros(500);

/// What a held connection does. All connections of one thread do the same.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// Sends nothing.
    Silent,
    /// Sends the head of a request, one byte per pass.
    Head,
    /// Sends the head of a request immediately, then the request's body, one byte per pass.
    Body,
    /// Sends complete requests immediately and never reads a response.
    Unread,
}

const KINDS: [Kind; 4] = [Kind::Silent, Kind::Head, Kind::Body, Kind::Unread];

/// Counters of the threads that hold connections.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// Number of attempts to open a connection, including those that replace a closed connection.
    pub(super) opened: AtomicUsize,
    /// Number of threads that have opened all their connections once.
    ready: AtomicUsize,
}

impl Held {
    /// Waits until every connection has been opened once, but at most one minute.
    pub(super) fn wait_until_open(&self) {
        let deadline = Instant::now() + Duration::from_mins(1);
        while self.ready.load(Ordering::Relaxed) < KINDS.len() && Instant::now() < deadline {
            sleep(Duration::from_millis(10));
        }
    }

    /// Holds `connections` connections, a quarter of each kind, until `stop` is set. Connections
    /// that the server closes are opened again, up to 400 per second.
    ///
    /// # Errors
    /// If a thread cannot be started or panics.
    pub(super) fn hold(
        &self,
        address: SocketAddr,
        connections: usize,
        stop: &AtomicBool,
    ) -> std::io::Result<()> {
        on_threads(KINDS.len(), |index, _| {
            let kind = KINDS[index];
            let mut sockets: Vec<Socket> = Vec::new();
            sockets.resize_with(connections / KINDS.len(), Socket::default);
            let mut budget = sockets.len();
            let mut first = true;
            while !stop.load(Ordering::Relaxed) {
                let start = Instant::now();
                for socket in &mut sockets {
                    if socket.stream.is_none() && budget > 0 {
                        budget -= 1;
                        socket.open(address, kind);
                        self.opened.fetch_add(1, Ordering::Relaxed);
                        sleep(PAUSE);
                    }
                    socket.use_slowly(kind);
                }
                self.ready.fetch_add(usize::from(first), Ordering::Relaxed);
                (first, budget) = (false, REOPENED);
                sleep(PASS.saturating_sub(start.elapsed()));
            }
        })?;
        Ok(())
    }
}

/// One held connection.
#[derive(Debug, Default)]
struct Socket {
    /// `None` if the connection is not open: not opened yet, failed to open, or closed by the
    /// server.
    stream: Option<TcpStream>,
    /// Number of bytes of the request that were sent since the connection was opened.
    sent: usize,
}

impl Socket {
    fn open(&mut self, address: SocketAddr, kind: Kind) {
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(2));
        self.stream = stream.ok();
        self.sent = 0;
        let Some(stream) = &mut self.stream else {
            return;
        };
        let request = request(kind);
        let first = match kind {
            Kind::Silent | Kind::Head => &[],
            Kind::Body => &request.bytes()[..request.head()],
            Kind::Unread => request.bytes(),
        };
        self.sent = first.len();
        if stream.set_nonblocking(true).is_err() || stream.write_all(first).is_err() {
            self.stream = None;
        }
    }

    /// Sends the next byte if the connection is a trickling one. Sets `stream` to `None` if the
    /// server has closed the connection.
    fn use_slowly(&mut self, kind: Kind) {
        let Some(stream) = &mut self.stream else {
            return;
        };
        let open = match kind {
            Kind::Silent => still_open(stream),
            Kind::Head | Kind::Body => {
                let request = request(kind);
                let at = self.sent.min(request.bytes().len() - 1);
                self.sent += 1;
                still_open(stream) && is_open(stream.write(&request.bytes()[at..=at]))
            }
            // Writing shows whether the connection is open without reading responses. The server
            // ignores an empty line between requests.
            Kind::Unread => is_open(stream.write(b"\r\n")),
        };
        if !open {
            self.stream = None;
        }
    }
}

/// Returns the request that a connection of this kind sends.
fn request(kind: Kind) -> &'static Request {
    static POST: LazyLock<Request> =
        LazyLock::new(|| Request::post("/v1/classify", "image/jpeg", &[0; 10_000]));
    static GET: LazyLock<Request> = LazyLock::new(|| Request::get("/openapi.yaml").repeated(20));
    match kind {
        Kind::Silent | Kind::Head | Kind::Body => &POST,
        Kind::Unread => &GET,
    }
}

/// Reads and discards up to 1 KiB that has arrived. Returns `false` if the server has closed the
/// connection.
fn still_open(stream: &mut TcpStream) -> bool {
    match stream.read(&mut [0; 1024]) {
        Ok(read) => read > 0,
        error => is_open(error),
    }
}

/// Returns whether a nonblocking read or write shows that the connection is open: it succeeded, or
/// would have blocked.
fn is_open(result: std::io::Result<usize>) -> bool {
    result.map_or_else(|error| error.kind() == ErrorKind::WouldBlock, |_| true)
}
