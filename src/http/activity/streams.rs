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
/// Maximum number of bytes that a client may send in addition to the flow-control window without any progress: frames
/// that carry no request and no body, such as PING and SETTINGS.
const MAX_OVERHEAD: usize = 1 << 20;
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
        self.progress();
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
        let first = self.leave == Leave::No;
        if first {
            self.leave = Leave::Requested(reason);
        }
        first
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

    /// Records that a stream sent or received something.
    pub(super) fn progress(&mut self) {
        self.overhead = 0;
    }

    /// Records `bytes` received bytes. Returns a reason to close the connection if the client only keeps the server
    /// busy.
    pub(super) fn received(&mut self, bytes: usize) -> Option<CloseReason> {
        self.overhead = self.overhead.saturating_add(bytes);
        if self.overhead > self.window + MAX_OVERHEAD {
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
            Leave::Announced(_, at) => Some(self.idle.max(at) + LEAVE_GRACE),
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
