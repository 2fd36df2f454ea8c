//! The activity of one connection, observed from its reads, writes and requests, and its deadlines.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::idle::{IdleQueue, Ticket, Wake};

/// Lowest mean rate at which a client must read its response, in bytes per second.
const MIN_READ_RATE: f64 = 1000.0;

/// Time limits of a connection. The body of a request has the deadline of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionTimeouts {
    /// Longest time without a request.
    pub keep_alive: Duration,
    /// Longest time from the first byte of a request's head to its last.
    pub head: Duration,
    /// Period over which the rate is measured at which a client reads a response that does not fit the
    /// socket's buffer. Clients slower than 1,000 bytes per second are disconnected.
    pub slow_read: Duration,
}

impl Default for ConnectionTimeouts {
    fn default() -> Self {
        Self {
            // Longer than the 60 s after which common load balancers close an idle connection, so that the
            // server does not close one that a balancer is about to use.
            keep_alive: Duration::from_secs(75),
            head: Duration::from_secs(10),
            // The kernel reports free space in steps of a third of the buffer; in this time even a client at
            // twice the lowest rate frees that much.
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
    /// The client reads its response too slowly.
    SlowRead,
    /// A new connection needs the slot of this one, which has been idle longest.
    Replaced,
}

/// The activity of one connection.
#[derive(Debug)]
pub(super) struct Activity {
    timeouts: ConnectionTimeouts,
    idle: Arc<IdleQueue>,
    /// Wakes the task of the connection.
    pub(super) wake: Arc<Wake>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    /// `None` if no write waits for the client to read.
    stall: Option<Stall>,
    /// Position in the idle queue; `None` while a request is in flight or a response waits to be read.
    ticket: Option<Ticket>,
}

/// What the connection waits for, and since when.
#[derive(Debug, Clone, Copy)]
enum Phase {
    /// The first byte of a request.
    Idle(Instant),
    /// The rest of a request's head.
    Head(Instant),
    /// The response to a request.
    Request,
}

/// A period in which the socket's buffer was full.
#[derive(Debug, Clone, Copy)]
struct Stall {
    since: Instant,
    /// Bytes that the socket has accepted in the period.
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
            self.wake.changed.notify_one();
        }
    }

    /// Records that a request is in flight until the returned guard is dropped.
    pub(super) fn request(self: &Arc<Self>) -> InFlight {
        let mut state = self.lock();
        state.phase = Phase::Request;
        self.update_ticket(&mut state);
        InFlight(Arc::clone(self))
    }

    /// Records that the socket's buffer is full.
    pub(super) fn blocked(&self) {
        let mut state = self.lock();
        if state.stall.is_none() {
            state.stall = Some(Stall {
                since: Instant::now(),
                written: 0,
            });
            self.update_ticket(&mut state);
            self.wake.changed.notify_one();
        }
    }

    /// Records that the socket accepted `bytes`.
    pub(super) fn wrote(&self, bytes: usize) {
        if let Some(stall) = &mut self.lock().stall {
            stall.written += bytes;
        }
    }

    /// Records that the socket accepted everything.
    pub(super) fn flushed(&self) {
        let mut state = self.lock();
        if state.stall.take().is_some() {
            if matches!(state.phase, Phase::Idle(_)) {
                state.phase = Phase::Idle(Instant::now());
            }
            self.update_ticket(&mut state);
            self.wake.changed.notify_one();
        }
    }

    /// Returns when the connection has to be checked again; `None` while only its request's deadline applies.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let state = self.lock();
        match (state.stall, state.phase) {
            (Some(stall), _) => Some(stall.since + self.timeouts.slow_read),
            (None, Phase::Idle(since)) => Some(since + self.timeouts.keep_alive),
            (None, Phase::Head(since)) => Some(since + self.timeouts.head),
            (None, Phase::Request) => None,
        }
    }

    /// Returns why the connection has to be closed now; `None` if it may stay open.
    pub(super) fn reason_to_close(&self) -> Option<CloseReason> {
        let mut state = self.lock();
        if self.wake.take_unwanted() {
            if state.is_idle() {
                return Some(CloseReason::Replaced);
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
        self.wake.changed.notify_one();
    }

    /// Enters the idle queue if the connection is idle, leaves it if not.
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
    /// Whether neither a request is in flight nor a response waits to be read.
    fn is_idle(&self) -> bool {
        self.stall.is_none() && !matches!(self.phase, Phase::Request)
    }
}

impl Stall {
    /// Compares the rate with the lowest one at the end of each `period`.
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

/// Keeps a request in flight until it is dropped.
#[derive(Debug)]
pub(super) struct InFlight(Arc<Activity>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.finished();
    }
}
