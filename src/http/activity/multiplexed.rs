//! The activity of an HTTP/2 connection, and those of its streams.

use std::sync::{Arc, Mutex};

use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

use super::streams::Streams;
use super::{Activity, CloseReason, InFlight, Phase, Scope, State, Unread};
use crate::http::replaceable::{Standing, Ticket};

impl Activity {
    /// Records that the connection uses HTTP/2, with a flow-control window of `window` bytes.
    pub(in crate::http) fn multiplex(&self, window: usize) {
        self.lock().phase = Phase::Streams(Streams::new(window));
    }

    /// Counts a new stream, and returns whether no other one is in flight.
    pub(super) fn opens_first_stream(&self) -> bool {
        match &mut self.lock().phase {
            Phase::Streams(streams) => {
                streams.open();
                streams.is_idle()
            }
            _ => true,
        }
    }

    /// Records a new stream of an HTTP/2 connection, whose request is in flight until the returned guard is dropped. A
    /// further stream of the connection takes one of `places`. Returns `None` if there is none, and makes room for later
    /// ones if slow clients take the places.
    pub(in crate::http) fn stream(self: &Arc<Self>, places: &Arc<Semaphore>) -> Option<InFlight> {
        let place = if self.opens_first_stream() {
            None
        } else if let Ok(place) = Arc::clone(places).try_acquire_owned() {
            Some(place)
        } else {
            self.replaceable().close_slowest(Instant::now());
            return None;
        };
        let stream = Arc::new(Self {
            timeouts: self.timeouts,
            scope: Scope::Stream {
                connection: Arc::clone(self),
                _place: place,
            },
            wake: Arc::default(),
            leave: Notify::new(),
            state: Mutex::new(State {
                phase: Phase::Request,
                new: false,
                stall: None,
                ticket: None,
                responded: false,
            }),
        });
        stream.update_ticket(&mut stream.lock());
        Some(InFlight(stream))
    }

    /// Records that a part of the request of a stream was read, which makes up for `overhead` bytes of overhead.
    pub(in crate::http) fn progress(&self, overhead: usize) {
        self.of_connection(|streams| streams.progress(overhead));
    }

    /// Records that the handler of a stream has not asked for the rest of the body of its request, until the returned guard is
    /// dropped.
    pub(in crate::http) fn unread(self: &Arc<Self>) -> Unread {
        self.of_connection(|streams| streams.count_unread(true));
        Unread(Arc::clone(self))
    }

    /// Asks for the client of an HTTP/2 connection to be told to send no further requests.
    pub(super) fn ask_to_leave(&self, state: &mut State, reason: CloseReason) {
        if let Phase::Streams(streams) = &mut state.phase
            && streams.leave(reason)
        {
            self.leave.notify_one();
        }
    }

    /// Records that the client of an HTTP/2 connection was told to send no further requests.
    pub(in crate::http) fn announced(&self) {
        if let Phase::Streams(streams) = &mut self.lock().phase {
            streams.announced(Instant::now());
        }
    }

    /// Returns whether the client of an HTTP/2 connection was told to send no further requests.
    pub(in crate::http) fn has_announced(&self) -> bool {
        matches!(&self.lock().phase, Phase::Streams(streams) if streams.has_announced())
    }

    /// Calls `f` with the streams of the connection of a stream. Does nothing for a connection.
    pub(super) fn of_connection<T>(&self, f: impl FnOnce(&mut Streams) -> T) -> Option<T> {
        let Scope::Stream { connection, .. } = &self.scope else {
            return None;
        };
        match &mut connection.lock().phase {
            Phase::Streams(streams) => Some(f(streams)),
            _ => None,
        }
    }

    /// Replaces the entry `old` of a stream of this connection by one with its current `standing`.
    pub(super) fn move_stream(&self, old: Option<Ticket>, standing: Standing) -> Option<Ticket> {
        let mut state = self.lock();
        state.new = false;
        let Phase::Streams(streams) = &mut state.phase else {
            return None;
        };
        let ticket = streams.enter(old, standing);
        self.update_ticket(&mut state);
        ticket
    }
}
