//! Tracks what one connection is doing, from its reads, writes and requests, and decides when the
//! server has to close it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::idle::{IdleQueue, Ticket, Wake};

/// Lowest mean rate at which a client must read its response, in bytes per second.
const MIN_READ_RATE: f64 = 1000.0;

/// Time limits of a connection. They do not limit how long the body of a request takes to arrive;
/// the deadline of the request does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionTimeouts {
    /// Longest time that an idle connection may wait for the first byte of its first or next
    /// request.
    pub keep_alive: Duration,
    /// Longest time from the first to the last byte of the head of a request.
    pub head: Duration,
    /// Period over which the reading rate of a client is measured while a response does not fit the
    /// send buffer of the socket. A client that reads fewer than 1,000 bytes per second on average
    /// is disconnected.
    pub slow_read: Duration,
}

impl Default for ConnectionTimeouts {
    fn default() -> Self {
        Self {
            // Common load balancers close an idle connection after 60 s. The server waits longer,
            // so that it does not close a connection that a balancer is about to use.
            keep_alive: Duration::from_secs(75),
            head: Duration::from_secs(10),
            // The kernel reports free space in the send buffer only when a third of the buffer is
            // free. Within this period, even a client at twice the lowest rate frees a third.
            slow_read: Duration::from_mins(1),
        }
    }
}

/// Why the server closes a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CloseReason {
    /// No request came within [`ConnectionTimeouts::keep_alive`].
    KeepAlive,
    /// The head of a request took longer than [`ConnectionTimeouts::head`].
    SlowHead,
    /// The client reads its response at less than `MIN_READ_RATE`.
    SlowRead,
    /// The connection has no complete request, and a new connection needs its slot or the server stops.
    Unwanted,
}

/// What one connection is doing, as reported by its socket and its requests.
#[derive(Debug)]
pub(super) struct Activity {
    timeouts: ConnectionTimeouts,
    idle: Arc<IdleQueue>,
    /// Wakes the task that drives the connection.
    pub(super) wake: Arc<Wake>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    /// The current period in which the send buffer of the socket is full. `None` if no write waits
    /// for the client to read.
    stall: Option<Stall>,
    /// Position of the connection in the idle queue. `None` while a request is in flight or a
    /// response waits to be read.
    ticket: Option<Ticket>,
}

/// What the connection waits for, and since when.
#[derive(Debug, Clone, Copy)]
enum Phase {
    /// Waits for the first byte of a request since this instant.
    Idle(Instant),
    /// Waits for the rest of the head of a request, whose first byte arrived at this instant.
    Head(Instant),
    /// Waits for the response to a request.
    Request,
}

/// A period in which the send buffer of the socket is full.
#[derive(Debug, Clone, Copy)]
struct Stall {
    since: Instant,
    /// Bytes that the socket has accepted since the period began.
    written: usize,
}

impl Activity {
    /// Returns the activity of a new connection, which is idle.
    pub(super) fn new(timeouts: ConnectionTimeouts, idle: Arc<IdleQueue>) -> Self {
        let wake = Arc::default();
        let state = State {
            phase: Phase::Idle(Instant::now()),
            stall: None,
            ticket: Some(idle.enter(&wake)),
        };
        Self {
            timeouts,
            idle,
            wake,
            state: Mutex::new(state),
        }
    }

    /// Records that bytes were read from the client.
    pub(super) fn received(&self) {
        let mut state = self.lock();
        if matches!(state.phase, Phase::Idle(_)) {
            state.phase = Phase::Head(Instant::now());
        }
    }

    /// Records that a request is in flight until the returned guard is dropped.
    pub(super) fn request(self: &Arc<Self>) -> InFlight {
        let mut state = self.lock();
        state.phase = Phase::Request;
        self.update_ticket(&mut state);
        InFlight(Arc::clone(self))
    }

    /// Records that the send buffer of the socket is full.
    pub(super) fn blocked(&self) {
        let mut state = self.lock();
        if state.stall.is_none() {
            state.stall = Some(Stall {
                since: Instant::now(),
                written: 0,
            });
            self.update_ticket(&mut state);
        }
    }

    /// Records that the socket accepted `bytes` more bytes of a response.
    pub(super) fn wrote(&self, bytes: usize) {
        if let Some(stall) = &mut self.lock().stall {
            stall.written += bytes;
        }
    }

    /// Records that the socket accepted all bytes written so far.
    pub(super) fn flushed(&self) {
        let mut state = self.lock();
        if state.stall.take().is_some() {
            if matches!(state.phase, Phase::Idle(_)) {
                state.phase = Phase::Idle(Instant::now());
            }
            self.update_ticket(&mut state);
        }
    }

    /// Returns the time at which [`Self::reason_to_close`] has to be checked again. Returns `None`
    /// while a request is in flight and no write waits: then only the deadline of the request
    /// applies.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let state = self.lock();
        match (state.stall, state.phase) {
            (Some(stall), _) => Some(stall.since + self.timeouts.slow_read),
            (None, Phase::Idle(since)) => Some(since + self.timeouts.keep_alive),
            (None, Phase::Head(since)) => Some(since + self.timeouts.head),
            (None, Phase::Request) => None,
        }
    }

    /// Returns why the connection has to be closed now, or `None` if it may stay open.
    pub(super) fn reason_to_close(&self) -> Option<CloseReason> {
        let mut state = self.lock();
        if self.wake.take_unwanted() {
            if state.is_idle() {
                return Some(CloseReason::Unwanted);
            }
            self.idle.declined.notify_one();
        }
        let now = Instant::now();
        if let Some(stall) = &mut state.stall {
            return stall.check(now, self.timeouts.slow_read);
        }
        match state.phase {
            Phase::Idle(since) if now >= since + self.timeouts.keep_alive => {
                Some(CloseReason::KeepAlive)
            }
            Phase::Head(since) if now >= since + self.timeouts.head => Some(CloseReason::SlowHead),
            Phase::Idle(_) | Phase::Head(_) | Phase::Request => None,
        }
    }

    fn finished(&self) {
        let mut state = self.lock();
        state.phase = Phase::Idle(Instant::now());
        self.update_ticket(&mut state);
    }

    /// Adds the connection to the idle queue if it became idle, and removes it if it is no longer
    /// idle.
    fn update_ticket(&self, state: &mut State) {
        if !state.is_idle() {
            if let Some(ticket) = state.ticket.take() {
                self.idle.leave(ticket);
            }
        } else if state.ticket.is_none() {
            state.ticket = Some(self.idle.enter(&self.wake));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Activity {
    fn drop(&mut self) {
        if let Some(ticket) = self.lock().ticket {
            self.idle.leave(ticket);
        }
    }
}

impl State {
    /// Returns whether neither a request is in flight nor a response waits to be read. A connection
    /// with an incomplete head is idle, too.
    fn is_idle(&self) -> bool {
        self.stall.is_none() && !matches!(self.phase, Phase::Request)
    }
}

impl Stall {
    /// Returns [`CloseReason::SlowRead`] if the socket accepted too few bytes in a whole `period`
    /// for [`MIN_READ_RATE`]. Returns `None` before the end of the period, and if the rate is high
    /// enough; then a new period begins.
    fn check(&mut self, now: Instant, period: Duration) -> Option<CloseReason> {
        if now < self.since + period {
            return None;
        }
        if (self.written as f64) < MIN_READ_RATE * period.as_secs_f64() {
            return Some(CloseReason::SlowRead);
        }
        *self = Self {
            since: now,
            written: 0,
        };
        None
    }
}

/// Counts a request of the connection as in flight until this guard is dropped.
#[derive(Debug)]
pub(super) struct InFlight(Arc<Activity>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.finished();
    }
}
