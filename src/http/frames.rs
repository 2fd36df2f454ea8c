//! Counts the bytes of an HTTP/2 client that carry neither requests nor bodies.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, ReadBuf};

use super::activity::Activity;
use super::opening::PREFACE;
use super::stream::pass_writes;

/// Length of the head of a frame in bytes.
const HEAD: usize = 9;
/// Cost of frames after which a connection lets other tasks run, although it could read more: h2 parses every frame that
/// it can read before it returns. A byte costs 1, but those of bodies cost less, see [`Parser::cost`].
const MAX_BURST: usize = 16 << 10;
/// Number of bytes of bodies that cost as much as one other byte: they are passed on, not parsed, and flow control limits
/// them. A whole window of them costs a burst.
const BODY_BYTES: usize = 64;
/// The types of frames that carry requests and bodies.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const PRIORITY: u8 = 2;
/// Overhead of a PRIORITY frame, which is obsolete. Old clients send a few of them, and one for each request.
const OBSOLETE: usize = 64;
const PING: u8 = 6;
/// Flag of a PING frame that answers a ping.
const ACK: u8 = 1;
/// Shortest time between two answers to pings, of which the server sends fewer.
const PONG_PERIOD: Duration = Duration::from_secs(10);
/// Overhead of an answer that comes earlier. h2 logs a warning for an answer to a ping that it never sent.
const EARLY_PONG: usize = 2 << 10;

/// The decrypted bytes of an HTTP/2 connection. Reading fails once the client has used up its allowance for frames that
/// carry neither requests nor bodies.
pub(super) struct Frames<S> {
    inner: S,
    activity: Arc<Activity>,
    parser: Parser,
    /// Cost of the frames that were read since the connection last let other tasks run.
    burst: usize,
}

impl<S> Frames<S> {
    /// Returns the bytes of a connection, which begin with the preface.
    pub(super) fn new(inner: S, activity: Arc<Activity>) -> Self {
        Self {
            inner,
            activity,
            parser: Parser::default(),
            burst: 0,
        }
    }
}

/// Returns the overhead of a DATA frame with a payload of `length` bytes: flow control bounds the bytes of bodies, but
/// not the number of frames that carry them.
pub(super) fn data_overhead(length: usize) -> usize {
    HEAD.saturating_sub(length)
}

/// Finds the heads of frames in the bytes of a client.
#[derive(Debug)]
struct Parser {
    head: [u8; HEAD],
    /// Number of bytes of `head` that arrived.
    filled: usize,
    /// Number of bytes before the next head.
    skip: usize,
    /// Whether these bytes are those of a body.
    in_body: bool,
    /// Number of bytes of bodies that were read.
    body: usize,
    /// When the last answer to a ping arrived.
    pong: Option<Instant>,
}

impl Default for Parser {
    fn default() -> Self {
        Self {
            head: [0; HEAD],
            filled: 0,
            skip: PREFACE.len(),
            in_body: false,
            body: 0,
            pong: None,
        }
    }
}

impl Parser {
    /// Returns the overhead of the frames whose heads end in `bytes`, the next ones of the client.
    fn overhead(&mut self, mut bytes: &[u8]) -> usize {
        let mut overhead = 0;
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            self.body += if self.in_body { skipped } else { 0 };
            bytes = &bytes[skipped..];
            let taken = (HEAD - self.filled).min(bytes.len());
            self.head[self.filled..][..taken].copy_from_slice(&bytes[..taken]);
            self.filled += taken;
            bytes = &bytes[taken..];
            if self.filled == HEAD {
                overhead += self.frame();
            }
        }
        overhead
    }

    /// Returns the overhead of the frame whose head is complete.
    fn frame(&mut self) -> usize {
        let [high, middle, low, kind, flags, ..] = self.head;
        self.filled = 0;
        self.in_body = kind == DATA;
        self.skip = u32::from_be_bytes([0, high, middle, low]) as usize;
        match kind {
            DATA => data_overhead(self.skip),
            // A stream that is opened makes up for its head.
            HEADERS | CONTINUATION => HEAD,
            PING if flags & ACK != 0 && self.is_early_pong() => EARLY_PONG,
            PRIORITY => OBSOLETE,
            _ => HEAD + self.skip,
        }
    }

    /// Returns the cost of `bytes` bytes of frames, after [`Parser::overhead`] has read them: that of all bytes but those of
    /// bodies, and a small part of those.
    fn cost(&mut self, bytes: usize) -> usize {
        let body = std::mem::take(&mut self.body);
        bytes.saturating_sub(body) + body / BODY_BYTES
    }

    /// Records an answer to a ping, and returns whether the one before it has just arrived.
    fn is_early_pong(&mut self) -> bool {
        let last = self.pong.replace(Instant::now());
        last.is_some_and(|last| last.elapsed() < PONG_PERIOD)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Frames<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.burst >= MAX_BURST {
            self.burst = 0;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let Poll::Ready(read) = Pin::new(&mut self.inner).poll_read(context, buffer) else {
            self.burst = 0;
            return Poll::Pending;
        };
        read?;
        let read = &buffer.filled()[before..];
        let overhead = self.parser.overhead(read);
        self.burst += self.parser.cost(read.len());
        Poll::Ready(self.activity.overhead(overhead))
    }
}

pass_writes!(Frames);

#[cfg(test)]
mod tests {
    use super::super::server::ConnectionTimeouts;
    use super::*;

    fn frame(kind: u8, length: usize) -> Vec<u8> {
        let mut frame = vec![0, (length >> 8) as u8, length as u8, kind, 0, 0, 0, 0, 1];
        frame.resize(HEAD + length, 0xff);
        frame
    }

    #[test]
    fn answers_to_pings_that_were_never_sent_are_expensive() {
        let mut parser = Parser::default();
        let mut pong = frame(PING, 8);
        pong[4] = ACK;
        assert_eq!(parser.overhead(PREFACE), 0);
        assert_eq!(parser.overhead(&pong), 17);
        assert_eq!(parser.overhead(&pong), EARLY_PONG);
    }

    /// Returns how many bytes of `sent` a connection reads before it lets other tasks run.
    fn burst(sent: &[u8]) -> usize {
        let activity = Activity::new(ConnectionTimeouts::default(), Arc::default());
        activity.multiplex(1 << 20);
        let mut io = Frames::new(sent, Arc::new(activity));
        io.parser.skip = 0;
        let mut context = Context::from_waker(std::task::Waker::noop());
        let mut bytes = 0;
        while bytes < sent.len() {
            let mut part = [0; 1 << 10];
            let mut part = ReadBuf::new(&mut part);
            if Pin::new(&mut io)
                .poll_read(&mut context, &mut part)
                .is_pending()
            {
                break;
            }
            bytes += part.filled().len();
        }
        bytes
    }

    #[test]
    fn a_connection_with_much_to_read_lets_other_tasks_run() {
        // Heads of requests, and bodies in frames of one byte.
        let heads = frame(HEADERS, 119).repeat(1 << 10);
        assert_eq!(burst(&heads), MAX_BURST);
        let tiny = frame(DATA, 1).repeat(10 << 10);
        assert!((MAX_BURST..MAX_BURST + (4 << 10)).contains(&burst(&tiny)));
        // Bodies in large frames.
        let large = frame(DATA, 16 << 10).repeat(128);
        let bytes = burst(&large);
        assert!((900 << 10..1 << 20).contains(&bytes), "{bytes}");
    }

    #[test]
    fn only_frames_without_requests_and_bodies_are_overhead() {
        let frames = [
            PREFACE.to_vec(),
            // SETTINGS, HEADERS, CONTINUATION, DATA, empty DATA, PING, and a frame of an unknown type.
            frame(4, 0),
            frame(HEADERS, 300),
            frame(CONTINUATION, 0),
            frame(DATA, 16_384),
            frame(DATA, 0),
            frame(6, 8),
            frame(0x77, 1000),
        ]
        .concat();
        let expected = 4 * HEAD + 17 + 1009;
        for step in [1, 7, 9, 4096, frames.len()] {
            let mut parser = Parser::default();
            let overhead: usize = frames.chunks(step).map(|part| parser.overhead(part)).sum();
            assert_eq!(overhead, expected, "{step}");
        }
    }
}
