//! Tracks what one connection is doing, from its reads, writes and requests, and decides when the
//! server has to close it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::replaceable::{Replaceable, Standing, Ticket, Wake};
use super::wait::{MIN_RATE, Pace, Wait};
use crate::error::ServeError;

/// Time limits of a connection. They limit the rate at which the body of a request arrives. The deadline
/// of the request limits the total time of its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionTimeouts {
    /// Longest time that an idle connection may wait for the first byte of its first or next
    /// request.
    pub keep_alive: Duration,
    /// Longest time from the first to the last byte of the head of a request.
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
    /// The client reads its response at less than [`MIN_RATE`].
    SlowRead,
    /// The connection is idle and the server stops, or a new connection takes its slot.
    Unwanted,
}

/// What one connection is doing, as reported by its socket and its requests.
#[derive(Debug)]
pub(super) struct Activity {
    timeouts: ConnectionTimeouts,
    replaceable: Arc<Replaceable>,
    /// Wakes the task that drives the connection.
    pub(super) wake: Arc<Wake>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    /// Whether the connection has had no request yet.
    new: bool,
    /// The current wait for the client to read, because the send buffer of the socket is full.
    stall: Option<Arc<Wait>>,
    /// Position of the connection among the replaceable ones. `None` while the server works on a
    /// request.
    ticket: Option<Ticket>,
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
        };
        Self {
            timeouts,
            replaceable,
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
    /// while the server works on a request and no write waits: then only the deadline of the
    /// request limits the time.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let state = self.lock();
        match (&state.stall, &state.phase) {
            (Some(stall), _) => Some(stall.lasts(self.timeouts.slow_read)),
            (None, Phase::Idle(since)) => Some(*since + self.timeouts.keep_alive),
            (None, Phase::Head(since)) => Some(*since + self.timeouts.head),
            (None, Phase::Body(wait)) => Some(wait.lasts(self.timeouts.slow_body)),
            (None, Phase::SlowBody | Phase::Request) => None,
        }
    }

    /// Returns why the connection has to be closed now, or `None` if it may stay open. Makes
    /// [`BodyWait::check`] fail if the body of a request arrives too slowly.
    pub(super) fn reason_to_close(&self) -> Option<CloseReason> {
        let mut state = self.lock();
        let now = Instant::now();
        if self.wake.take_unwanted() {
            if state.standing().is_replaceable(now) {
                return Some(CloseReason::Unwanted);
            }
            self.replaceable.declined.notify_one();
        }
        let timeouts = &self.timeouts;
        match (&state.stall, &state.phase) {
            (Some(stall), _) => match stall.judge(now, timeouts.slow_read)? {
                Pace::Enough => state.stall = Some(Wait::new(now)),
                Pace::TooSlow => return Some(CloseReason::SlowRead),
            },
            (None, Phase::Body(wait)) => match wait.judge(now, timeouts.slow_body)? {
                Pace::Enough => state.phase = Phase::Body(Wait::new(now)),
                Pace::TooSlow => state.phase = Phase::SlowBody,
            },
            (None, Phase::Idle(since)) => {
                return (now >= *since + timeouts.keep_alive).then_some(CloseReason::KeepAlive);
            }
            (None, Phase::Head(since)) => {
                return (now >= *since + timeouts.head).then_some(CloseReason::SlowHead);
            }
            (None, Phase::SlowBody | Phase::Request) => return None,
        }
        self.update_ticket(&mut state);
        None
    }

    /// Records that the server no longer waits for the body of a request.
    fn body_ended(&self) {
        let mut state = self.lock();
        if matches!(state.phase, Phase::Body(_) | Phase::SlowBody) {
            state.phase = Phase::Request;
            self.update_ticket(&mut state);
        }
    }

    fn finished(&self) {
        let mut state = self.lock();
        state.phase = Phase::Idle(Instant::now());
        self.update_ticket(&mut state);
    }

    /// Updates the position of the connection among the replaceable ones after a change of
    /// `state`.
    fn update_ticket(&self, state: &mut State) {
        if let Some(ticket) = state.ticket.take() {
            self.replaceable.leave(ticket);
        }
        state.ticket = self.replaceable.enter(state.standing(), &self.wake);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Activity {
    fn drop(&mut self) {
        if let Some(ticket) = self.lock().ticket {
            self.replaceable.leave(ticket);
        }
    }
}

impl State {
    /// Returns whether the connection may be replaced. An unread response counts even if the server
    /// works on the next request, so that no client keeps its slot by sending one.
    fn standing(&self) -> Standing {
        match (&self.stall, &self.phase) {
            (Some(wait), _) | (None, Phase::Body(wait)) => Standing::Waiting(Arc::clone(wait)),
            (None, Phase::Idle(_) | Phase::Head(_)) if self.new => Standing::New,
            (None, Phase::Idle(_) | Phase::Head(_)) => Standing::Idle,
            (None, Phase::SlowBody | Phase::Request) => Standing::Working,
        }
    }
}

/// Counts a request of the connection as in flight until this guard is dropped.
#[derive(Debug)]
pub(super) struct InFlight(Arc<Activity>);

impl InFlight {
    /// Returns whether the connection has to close after the response that is sent now, because a new connection
    /// needs its slot.
    pub(super) fn is_last(&self) -> bool {
        self.0.replaceable.takes_next()
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.finished();
    }
}

/// Counts the server as waiting for the body of a request until this guard is dropped.
#[derive(Debug)]
pub(super) struct BodyWait(Arc<Activity>);

impl BodyWait {
    /// Records that `bytes` more bytes of the body arrived.
    pub(super) fn received(&self, bytes: usize) {
        if let Phase::Body(wait) = &self.0.lock().phase {
            wait.add(bytes);
        }
    }

    /// Checks the rate at which the body arrives.
    ///
    /// # Errors
    /// [`ServeError::BodyTooSlow`] if the rate was below [`MIN_RATE`] over a whole period.
    pub(super) fn check(&self) -> Result<(), ServeError> {
        match self.0.lock().phase {
            Phase::SlowBody => Err(ServeError::BodyTooSlow {
                rate: MIN_RATE,
                period: self.0.timeouts.slow_body,
            }),
            _ => Ok(()),
        }
    }
}

impl Drop for BodyWait {
    fn drop(&mut self) {
        self.0.body_ended();
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
        activity.received();
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
