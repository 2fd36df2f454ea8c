//! The streams of an HTTP/2 connection: what the connection waits for, and when it has to close.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::CloseReason;
use crate::http::replaceable::{Standing, Ticket};
use crate::http::wait::Wait;

/// Time without a stream after which a connection is closed that has told its client to send no further requests. A
/// request that the client sent before it knew usually arrives within this time.
const LEAVE_GRACE: Duration = Duration::from_millis(500);
/// The same for a connection whose slot a new connection needs. Its client has been idle, and a request that it sends
/// later is one that the GOAWAY tells it to send on another connection.
const REPLACED_GRACE: Duration = Duration::from_millis(20);
/// Maximum number of bytes that a client may send in addition to the flow-control window without any progress, of which
/// TLS and the heads of rejected requests are a part.
const MAX_UNPRODUCTIVE: usize = 1 << 20;
/// Maximum overhead in bytes: frames that carry neither requests nor bodies, such as PING and SETTINGS.
const MAX_OVERHEAD: usize = 32 << 10;
/// Overhead that each stream makes up for: the head of its frame, `WINDOW_UPDATE` for its response, priorities and pings.
const STREAM_OVERHEAD: usize = 128;
/// Bytes of a response for each byte of overhead that they make up for. Clients that download send `WINDOW_UPDATE` frames.
const DOWNLOAD_PER_OVERHEAD: usize = 16;
/// Number of streams that a client may reset before their responses, unless they are fewer than half of its streams.
const MAX_RESETS: u32 = 100;

/// The streams of a connection that are in flight.
#[derive(Debug)]
pub(super) struct Streams {
    /// The streams by age, each with the wait for its client; `None` while the server works on its request.
    in_flight: BTreeMap<Ticket, Option<Arc<Wait>>>,
    /// Ticket of the stream that was added last.
    last: u64,
    /// Number of streams whose requests the server works on.
    working: usize,
    /// Start of the current time without a stream.
    idle: Instant,
    leave: Leave,
    /// Number of streams with a body that their handlers have not begun to read.
    unread: usize,
    /// Size of the flow-control window of the connection in bytes.
    window: usize,
    /// Number of bytes received since the last progress of any stream.
    unproductive: usize,
    /// Bytes of frames that carry neither requests nor bodies, less what requests and responses make up for.
    overhead: usize,
    /// Number of streams so far.
    opened: u32,
    /// Number of streams that ended before their response.
    reset: u32,
}

/// Whether the client was told to send no further requests on the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leave {
    No,
    /// The client is to be told, for this reason.
    Requested(CloseReason),
    /// The client was told at this instant.
    Announced(CloseReason, Instant),
}

impl Streams {
    /// Returns the streams of a connection that has none yet, whose flow-control window has `window` bytes.
    pub(super) fn new(window: usize) -> Self {
        Self {
            in_flight: BTreeMap::new(),
            last: 0,
            working: 0,
            idle: Instant::now(),
            leave: Leave::No,
            unread: 0,
            window,
            unproductive: 0,
            overhead: 0,
            opened: 0,
            reset: 0,
        }
    }

    /// Returns whether no stream is in flight.
    pub(super) fn is_idle(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// Records a new stream.
    pub(super) fn open(&mut self) {
        self.opened += 1;
        self.progress(STREAM_OVERHEAD);
    }

    /// Records that a stream ended before its response.
    pub(super) fn was_reset(&mut self) {
        self.reset += 1;
    }

    /// Replaces the entry `old` of a stream, `None` for a new one, by one with the stream's current `standing`. Returns
    /// `None` if the stream has ended.
    pub(super) fn enter(&mut self, old: Option<Ticket>, standing: Standing) -> Option<Ticket> {
        if let Some(ticket) = old {
            self.remove(ticket);
        }
        let wait = match standing {
            Standing::Working => None,
            Standing::Waiting(wait) => Some(wait),
            Standing::New | Standing::Idle => {
                if old.is_some() && self.is_idle() {
                    self.idle = Instant::now();
                }
                return None;
            }
        };
        self.working += usize::from(wait.is_none());
        self.last += 1;
        let ticket = Ticket(self.last);
        self.in_flight.insert(ticket, wait);
        Some(ticket)
    }

    fn remove(&mut self, ticket: Ticket) {
        if let Some(None) = self.in_flight.remove(&ticket) {
            self.working -= 1;
        }
    }

    /// Returns whether the connection may be replaced. It waits for its client if every stream does; the oldest wait
    /// counts, so that new streams do not protect slow ones.
    pub(super) fn standing(&self, new: bool) -> Standing {
        let oldest = self.in_flight.values().flatten().next();
        match oldest {
            _ if self.working > 0 => Standing::Working,
            Some(wait) => Standing::Waiting(Arc::clone(wait)),
            None if new => Standing::New,
            None => Standing::Idle,
        }
    }

    /// Records that a stream's handler has (`true`) or no longer has (`false`) a body that it has not begun to read.
    pub(super) fn count_unread(&mut self, unread: bool) {
        self.unread = if unread {
            self.unread + 1
        } else {
            self.unread.saturating_sub(1)
        };
    }

    /// Returns whether unread bodies may fill the flow-control window of the connection, so that the client cannot send
    /// other bodies.
    pub(super) fn may_block_bodies(&self) -> bool {
        self.unread > 0
    }

    /// Asks for the client to be told to send no further requests. Returns `false` if that was asked before.
    pub(super) fn leave(&mut self, reason: CloseReason) -> bool {
        match &mut self.leave {
            Leave::No => {
                self.leave = Leave::Requested(reason);
                return true;
            }
            Leave::Requested(earlier) | Leave::Announced(earlier, _) => {
                if reason == CloseReason::Replaced {
                    *earlier = reason;
                }
            }
        }
        false
    }

    /// Records that the client was told at `now` to send no further requests.
    pub(super) fn announced(&mut self, now: Instant) {
        let reason = match self.leave {
            Leave::No => CloseReason::Unwanted,
            Leave::Requested(reason) => reason,
            Leave::Announced(..) => return,
        };
        self.leave = Leave::Announced(reason, now);
    }

    /// Returns whether the client was told to send no further requests.
    pub(super) fn has_announced(&self) -> bool {
        matches!(self.leave, Leave::Announced(..))
    }

    /// Records that the client has read everything that was sent so far.
    pub(super) fn flushed(&mut self) {
        if self.is_idle() {
            self.idle = Instant::now();
        }
    }

    /// Records that a stream sent or received something, which makes up for `overhead` bytes of overhead.
    pub(super) fn progress(&mut self, overhead: usize) {
        self.unproductive = 0;
        self.overhead = self.overhead.saturating_sub(overhead);
    }

    /// Records that the socket accepted `bytes` more bytes of the response of a stream.
    pub(super) fn downloaded(&mut self, bytes: usize) {
        self.progress(bytes / DOWNLOAD_PER_OVERHEAD);
    }

    /// Records `bytes` bytes of overhead. Returns a reason to close the connection if these are too many.
    pub(super) fn count_overhead(&mut self, bytes: usize) -> Option<CloseReason> {
        self.overhead = self.overhead.saturating_add(bytes);
        (self.overhead > MAX_OVERHEAD).then_some(CloseReason::Flood)
    }

    /// Records `bytes` received bytes. Returns a reason to close the connection if the client only keeps the server
    /// busy.
    pub(super) fn received(&mut self, bytes: usize) -> Option<CloseReason> {
        self.unproductive = self.unproductive.saturating_add(bytes);
        if self.unproductive > self.window + MAX_UNPRODUCTIVE {
            return Some(CloseReason::Flood);
        }
        let resets = self.reset > MAX_RESETS && self.reset > self.opened / 2;
        resets.then_some(CloseReason::Resets)
    }

    /// Returns the time at which [`Streams::overdue`] has to be called. `None` while streams are in flight, which have
    /// time limits of their own.
    pub(super) fn deadline(&self, keep_alive: Duration) -> Option<Instant> {
        if !self.is_idle() {
            return None;
        }
        match self.leave {
            Leave::No => Some(self.idle + keep_alive),
            Leave::Requested(_) => None,
            Leave::Announced(reason, at) => {
                let grace = match reason {
                    CloseReason::Replaced => REPLACED_GRACE,
                    _ => LEAVE_GRACE,
                };
                Some(self.idle.max(at) + grace)
            }
        }
    }

    /// Returns what a connection without streams has to do at `now`.
    pub(super) fn overdue(&self, now: Instant, keep_alive: Duration) -> Overdue {
        if self.deadline(keep_alive).is_none_or(|time| now < time) {
            return Overdue::Nothing;
        }
        match self.leave {
            Leave::Announced(reason, _) => Overdue::Close(reason),
            Leave::No | Leave::Requested(_) => Overdue::Leave(CloseReason::KeepAlive),
        }
    }
}

/// What a connection without streams has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Overdue {
    Nothing,
    /// Tell the client to send no further requests.
    Leave(CloseReason),
    /// Close.
    Close(CloseReason),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_responses_make_up_for_the_overhead_of_their_clients() {
        let mut streams = Streams::new(1 << 20);
        for _ in 0..100_000 {
            streams.open();
            // The heads of HEADERS, two WINDOW_UPDATE frames and a PING.
            assert_eq!(streams.count_overhead(9 + 13 + 13 + 17), None);
        }
        // A large response, of which each frame is acknowledged twice.
        for _ in 0..100_000 {
            streams.downloaded(16 << 10);
            assert_eq!(streams.count_overhead(13 + 13), None);
        }
    }

    #[test]
    fn an_allowance_for_overhead_does_not_grow() {
        let mut streams = Streams::new(1 << 20);
        for _ in 0..100_000 {
            streams.open();
            streams.downloaded(16 << 10);
        }
        assert_eq!(streams.count_overhead(MAX_OVERHEAD), None);
        assert_eq!(streams.count_overhead(1), Some(CloseReason::Flood));
        // One request does not make up for everything.
        let mut streams = Streams::new(1 << 20);
        assert_eq!(streams.count_overhead(MAX_OVERHEAD), None);
        streams.open();
        assert_eq!(streams.count_overhead(STREAM_OVERHEAD), None);
        assert_eq!(streams.count_overhead(1), Some(CloseReason::Flood));
    }

    #[test]
    fn a_connection_that_leaves_has_less_time_once_its_slot_is_needed() {
        let mut streams = Streams::new(1 << 20);
        let now = Instant::now();
        assert!(streams.leave(CloseReason::KeepAlive));
        streams.announced(now);
        streams.idle = now;
        assert_eq!(streams.deadline(Duration::ZERO), Some(now + LEAVE_GRACE));
        assert!(!streams.leave(CloseReason::Replaced));
        assert_eq!(streams.deadline(Duration::ZERO), Some(now + REPLACED_GRACE));
    }
}
