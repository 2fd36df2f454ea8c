//! Tracks what one connection is doing, from its reads, writes and requests, and decides when the
//! server has to close it. The streams of an HTTP/2 connection have activities of their own.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio::time::Instant;

use super::replaceable::{Replaceable, Standing, Ticket, Wake};
use super::wait::{Pace, Wait};

mod guards;
mod multiplexed;
mod streams;

pub(super) use guards::{BodyWait, InFlight, Unread};
pub(crate) use guards::{Standby, StandingBy};
use streams::{Overdue, Streams};

/// Time limits of a connection. They limit the rate at which the body of a request arrives. The deadline
/// of the request limits the total time of its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionTimeouts {
    /// Longest time that an idle connection may wait for the first byte of its first or next
    /// request.
    pub keep_alive: Duration,
    /// Longest time from the first to the last byte of the head of a request, or of a TLS handshake.
    pub head: Duration,
    /// Period over which the sending rate of a client is measured while the server waits for the
    /// body of a request. A request whose body arrives at fewer than 1,000 bytes per second on
    /// average fails with 408.
    pub slow_body: Duration,
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
            // A mobile client may send nothing for some seconds, for example while it changes cells.
            slow_body: Duration::from_secs(10),
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
    /// The client reads its response at less than `MIN_RATE`.
    SlowRead,
    /// The connection is idle and the server stops, or a response closes it.
    Unwanted,
    /// A new connection takes the slot of the connection.
    Replaced,
    /// The client sends HTTP/2 frames that carry neither requests nor bodies.
    Flood,
    /// The client resets most of its HTTP/2 streams before their responses.
    Resets,
}

/// What one connection, or one stream of an HTTP/2 connection, is doing, as reported by its socket and its requests.
#[derive(Debug)]
pub(super) struct Activity {
    timeouts: ConnectionTimeouts,
    scope: Scope,
    /// Wakes the task that drives the connection or the stream.
    pub(super) wake: Arc<Wake>,
    /// Notified when the client of an HTTP/2 connection has to be told to send no further requests.
    pub(super) leave: Notify,
    state: Mutex<State>,
}

/// Whose activity it is.
#[derive(Debug)]
enum Scope {
    /// A connection, one of the connections of its server.
    Connection(Arc<Replaceable>),
    /// A stream of this connection.
    Stream {
        connection: Arc<Activity>,
        /// The place of the stream among those of all connections. `None` for the first one of its connection.
        _place: Option<OwnedSemaphorePermit>,
    },
}

#[derive(Debug)]
struct State {
    phase: Phase,
    /// Whether the connection has had no request yet.
    new: bool,
    /// The current wait for the client to read, because the send buffer of the socket is full.
    stall: Option<Arc<Wait>>,
    /// Position of the connection among the replaceable ones, or `None` while the server works on a
    /// request. Position of a stream in flight among those of its connection.
    ticket: Option<Ticket>,
    /// Whether the request of a stream has its response.
    responded: bool,
}

/// What the connection waits for, and since when.
#[derive(Debug)]
enum Phase {
    /// Waits for the first byte of a request since this instant.
    Idle(Instant),
    /// Waits for the rest of the head of a request, whose first byte arrived at this instant.
    Head(Instant),
    /// Waits for the rest of the body of a request.
    Body(Arc<Wait>),
    /// Waits for the response to a request whose body arrives too slowly.
    SlowBody,
    /// Waits for the response to a request.
    Request,
    /// Waits, for its client only, for something that the next message of a response reports.
    Standby(Arc<Wait>),
    /// The connection uses HTTP/2. Each of its requests is a stream.
    Streams(Streams),
}

impl Activity {
    /// Returns the activity of a new connection, which is idle.
    pub(super) fn new(timeouts: ConnectionTimeouts, replaceable: Arc<Replaceable>) -> Self {
        let wake = Arc::default();
        let state = State {
            phase: Phase::Idle(Instant::now()),
            new: true,
            stall: None,
            ticket: replaceable.enter(Standing::New, &wake),
            responded: false,
        };
        Self {
            timeouts,
            scope: Scope::Connection(replaceable),
            wake,
            leave: Notify::new(),
            state: Mutex::new(state),
        }
    }

    /// Records that `bytes` bytes were read from the client.
    ///
    /// # Errors
    /// If the client of an HTTP/2 connection only keeps the server busy, so that the connection has to close.
    pub(super) fn received(&self, bytes: usize) -> io::Result<()> {
        let mut state = self.lock();
        match &mut state.phase {
            Phase::Idle(_) => state.phase = Phase::Head(Instant::now()),
            Phase::Streams(streams) => {
                return closing(streams.received(bytes));
            }
            _ => {}
        }
        Ok(())
    }

    /// Records that the client of an HTTP/2 connection sent `bytes` bytes of frames that carry neither requests nor
    /// bodies.
    ///
    /// # Errors
    /// If these are too many, so that the connection has to close.
    pub(super) fn overhead(&self, bytes: usize) -> io::Result<()> {
        match &mut self.lock().phase {
            Phase::Streams(streams) => closing(streams.count_overhead(bytes)),
            _ => Ok(()),
        }
    }

    /// Records the end of a TLS handshake: the connection waits for its first request.
    pub(super) fn handshaken(&self) {
        self.lock().phase = Phase::Idle(Instant::now());
    }

    /// Records that a request is in flight until the returned guard is dropped.
    pub(super) fn request(self: &Arc<Self>) -> InFlight {
        let mut state = self.lock();
        state.phase = Phase::Request;
        state.new = false;
        self.update_ticket(&mut state);
        InFlight(Arc::clone(self))
    }

    /// Records that the server waits for the client to send the body of a request, until the
    /// returned guard is dropped.
    pub(super) fn body(self: &Arc<Self>) -> BodyWait {
        let mut state = self.lock();
        state.phase = Phase::Body(Wait::new(Instant::now()));
        self.update_ticket(&mut state);
        BodyWait(Arc::clone(self))
    }

    /// Returns the period over which the rate of a request's body is measured.
    pub(super) fn slow_body(&self) -> Duration {
        self.timeouts.slow_body
    }

    /// Records that the send buffer of the socket is full.
    pub(super) fn blocked(&self) {
        let mut state = self.lock();
        if state.stall.is_none() {
            state.stall = Some(Wait::new(Instant::now()));
            self.update_ticket(&mut state);
        }
    }

    /// Records that the socket accepted `bytes` more bytes of a response.
    pub(super) fn wrote(&self, bytes: usize) {
        if let Some(stall) = &self.lock().stall {
            stall.add(bytes);
        }
        self.of_connection(|streams| streams.downloaded(bytes));
    }

    /// Returns the connections of the server.
    fn replaceable(&self) -> &Replaceable {
        match &self.scope {
            Scope::Connection(replaceable) => replaceable,
            Scope::Stream { connection, .. } => connection.replaceable(),
        }
    }

    /// Records that the socket accepted all bytes written so far.
    pub(super) fn flushed(&self) {
        let mut state = self.lock();
        if state.stall.take().is_some() {
            match &mut state.phase {
                Phase::Idle(since) => *since = Instant::now(),
                Phase::Streams(streams) => streams.flushed(),
                _ => {}
            }
            self.update_ticket(&mut state);
        }
    }

    /// Returns the time at which [`Self::reason_to_close`] has to be checked again. Returns `None`
    /// while the server works on a request and no write waits: then only the deadline of the
    /// request limits the time.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let state = self.lock();
        match (&state.stall, &state.phase) {
            (Some(stall), _) => Some(stall.lasts(self.timeouts.slow_read)),
            (None, Phase::Idle(since)) => Some(*since + self.timeouts.keep_alive),
            (None, Phase::Head(since)) => Some(*since + self.timeouts.head),
            (None, Phase::Body(wait)) => Some(wait.lasts(self.timeouts.slow_body)),
            (None, Phase::SlowBody | Phase::Request | Phase::Standby(_)) => None,
            (None, Phase::Streams(streams)) => streams.deadline(self.timeouts.keep_alive),
        }
    }

    /// Returns why the connection has to be closed now, or `None` if it may stay open. Makes
    /// [`BodyWait::check`] fail if the body of a request arrives too slowly.
    pub(super) fn reason_to_close(&self) -> Option<CloseReason> {
        let mut state = self.lock();
        let now = Instant::now();
        if let Some(reason) = self.wake.take_unwanted() {
            match state.standing() {
                // A connection that has had no stream, and whose slot is needed, has none to lose.
                Standing::New if reason == CloseReason::Replaced => return Some(reason),
                Standing::New | Standing::Idle if matches!(state.phase, Phase::Streams(_)) => {
                    self.ask_to_leave(&mut state, reason);
                }
                standing if standing.is_replaceable(now) => return Some(reason),
                _ => self.replaceable().declined.notify_one(),
            }
        }
        let timeouts = &self.timeouts;
        match (&state.stall, &state.phase) {
            (Some(stall), _) => match stall.judge(now, timeouts.slow_read)? {
                Pace::Enough => state.stall = Some(Wait::new(now)),
                Pace::TooSlow => return Some(CloseReason::SlowRead),
            },
            (None, Phase::Body(wait)) => match wait.judge(now, timeouts.slow_body)? {
                Pace::Enough => state.phase = Phase::Body(Wait::new(now)),
                Pace::TooSlow if self.of_connection(|s| s.may_block_bodies()) == Some(true) => {
                    state.phase = Phase::Body(Wait::new(now));
                }
                Pace::TooSlow => state.phase = Phase::SlowBody,
            },
            (None, Phase::Idle(since)) => {
                return (now >= *since + timeouts.keep_alive).then_some(CloseReason::KeepAlive);
            }
            (None, Phase::Head(since)) => {
                return (now >= *since + timeouts.head).then_some(CloseReason::SlowHead);
            }
            (None, Phase::SlowBody | Phase::Request | Phase::Standby(_)) => return None,
            (None, Phase::Streams(streams)) => match streams.overdue(now, timeouts.keep_alive) {
                Overdue::Nothing => return None,
                Overdue::Close(reason) => return Some(reason),
                Overdue::Leave(reason) => {
                    self.ask_to_leave(&mut state, reason);
                    return None;
                }
            },
        }
        self.update_ticket(&mut state);
        None
    }

    /// Records that the connection has ended. Its streams may end later.
    pub(super) fn ended(&self) {
        let mut state = self.lock();
        (state.phase, state.stall) = (Phase::Request, None);
        self.update_ticket(&mut state);
    }

    /// Records that the server no longer waits for the body of a request.
    fn body_ended(&self) {
        let mut state = self.lock();
        if matches!(state.phase, Phase::Body(_) | Phase::SlowBody) {
            state.phase = Phase::Request;
            self.update_ticket(&mut state);
        }
    }

    /// Records that the server works on a request again, if it has waited to report something.
    fn standby_ended(&self) {
        let mut state = self.lock();
        if matches!(state.phase, Phase::Standby(_)) {
            state.phase = Phase::Request;
            self.update_ticket(&mut state);
        }
    }

    fn finished(&self) {
        let mut state = self.lock();
        state.phase = Phase::Idle(Instant::now());
        if let Scope::Stream { .. } = self.scope {
            state.stall = None;
            if !state.responded {
                self.of_connection(Streams::was_reset);
            }
        }
        self.update_ticket(&mut state);
    }

    /// Updates the position of the connection among the replaceable ones, or of the stream among those of its
    /// connection, after a change of `state`.
    fn update_ticket(&self, state: &mut State) {
        let old = state.ticket.take();
        let standing = state.standing();
        state.ticket = match &self.scope {
            Scope::Connection(replaceable) => {
                if let Some(ticket) = old {
                    replaceable.leave(ticket);
                }
                replaceable.enter(standing, &self.wake)
            }
            Scope::Stream { connection, .. } => connection.move_stream(old, standing),
        };
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the error of a connection that has to close for `reason`.
fn closing(reason: Option<CloseReason>) -> io::Result<()> {
    reason.map_or(Ok(()), |reason| {
        Err(io::Error::other(format!("{reason:?}")))
    })
}

impl Drop for Activity {
    fn drop(&mut self) {
        // A stream has left its connection by now, at the end of its request.
        if let Scope::Connection(replaceable) = &self.scope
            && let Some(ticket) = self.lock().ticket
        {
            replaceable.leave(ticket);
        }
    }
}

impl State {
    /// Returns whether the connection may be replaced. An unread response counts even if the server
    /// works on the next request, so that no client keeps its slot by sending one.
    fn standing(&self) -> Standing {
        match (&self.stall, &self.phase) {
            (Some(wait), _) | (None, Phase::Body(wait) | Phase::Standby(wait)) => {
                Standing::Waiting(Arc::clone(wait))
            }
            (None, Phase::Idle(_) | Phase::Head(_)) if self.new => Standing::New,
            (None, Phase::Idle(_) | Phase::Head(_)) => Standing::Idle,
            (None, Phase::SlowBody | Phase::Request) => Standing::Working,
            (None, Phase::Streams(streams)) => streams.standing(self.new),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_millis(2);

    fn activity() -> Arc<Activity> {
        let timeouts = ConnectionTimeouts {
            slow_body: PERIOD,
            ..ConnectionTimeouts::default()
        };
        Arc::new(Activity::new(timeouts, Arc::default()))
    }

    fn standing(activity: &Activity) -> &'static str {
        match activity.lock().standing() {
            Standing::New => "new",
            Standing::Idle => "idle",
            Standing::Waiting(_) => "waiting",
            Standing::Working => "working",
        }
    }

    #[test]
    fn a_connection_may_be_replaced_unless_the_server_works_on_a_request() {
        let activity = activity();
        assert_eq!(standing(&activity), "new");
        activity.received(1).unwrap();
        assert_eq!(standing(&activity), "new");
        let in_flight = activity.request();
        assert_eq!(standing(&activity), "working");
        let body = activity.body();
        assert_eq!(standing(&activity), "waiting");
        drop(body);
        assert_eq!(standing(&activity), "working");
        activity.blocked();
        assert_eq!(standing(&activity), "waiting");
        drop(in_flight);
        assert_eq!(standing(&activity), "waiting");
        activity.flushed();
        assert_eq!(standing(&activity), "idle");
    }

    #[test]
    fn a_connection_whose_client_only_watches_may_be_replaced() {
        let activity = activity();
        let _in_flight = activity.request();
        let standby = Standby::of(&activity);
        let waiting = standby.begin();
        assert_eq!(standing(&activity), "waiting");
        assert_eq!(activity.deadline(), None);
        assert_eq!(activity.reason_to_close(), None);
        drop(waiting);
        assert_eq!(standing(&activity), "working");
    }

    #[test]
    fn only_a_body_that_the_server_waits_for_can_be_too_slow() {
        // Bytes of the body that arrive within the period, and whether reading the body succeeds.
        for (bytes, succeeds) in [(0, false), (1, false), (2, true)] {
            let activity = activity();
            let _in_flight = activity.request();
            assert_eq!(activity.deadline(), None);
            let body = activity.body();
            body.received(bytes);
            assert!(activity.deadline().is_some());
            assert!(body.check().is_ok());
            std::thread::sleep(PERIOD);
            assert_eq!(activity.reason_to_close(), None);
            assert_eq!(body.check().is_ok(), succeeds, "{bytes}");
            drop(body);
            assert_eq!(activity.deadline(), None);
            assert_eq!(standing(&activity), "working");
        }
    }
}
