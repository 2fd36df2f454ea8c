//! Guards that record the end of a request, or of a part of it, when they are dropped.

use std::sync::{Arc, Weak};

use tokio::time::Instant;

use super::{Activity, CloseReason, Phase, Scope};
use crate::error::ServeError;
use crate::http::wait::{MIN_RATE, Wait};

/// Counts a request of the connection as in flight until this guard is dropped.
#[derive(Debug)]
pub(in crate::http) struct InFlight(pub(super) Arc<Activity>);

impl InFlight {
    /// Returns whether the connection has to close after the response that is sent now, because a new connection
    /// needs its slot.
    pub(in crate::http) fn is_last(&self) -> bool {
        self.0.replaceable().takes_next()
    }

    /// Returns the activity that the request belongs to: a stream, or a connection that uses HTTP/1.1.
    pub(in crate::http) fn activity(&self) -> &Arc<Activity> {
        &self.0
    }

    /// Records that the request of a stream has its response. The client is told to send no further requests on the
    /// connection if the response `closes` it, or if a new connection needs its slot.
    pub(in crate::http) fn responds(&self, closes: bool) {
        self.0.lock().responded = true;
        if (self.is_last() || closes)
            && let Scope::Stream { connection, .. } = &self.0.scope
        {
            connection.ask_to_leave(&mut connection.lock(), CloseReason::Unwanted);
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.finished();
    }
}

/// Counts the body of a stream as unread until this guard is dropped.
#[derive(Debug)]
pub(in crate::http) struct Unread(pub(super) Arc<Activity>);

impl Drop for Unread {
    fn drop(&mut self) {
        self.0.of_connection(|streams| streams.count_unread(false));
    }
}

/// Counts the server as waiting for the body of a request until this guard is dropped.
#[derive(Debug)]
pub(in crate::http) struct BodyWait(pub(super) Arc<Activity>);

impl BodyWait {
    /// Records that `bytes` more bytes of the body arrived.
    pub(in crate::http) fn received(&self, bytes: usize) {
        if let Phase::Body(wait) = &self.0.lock().phase {
            wait.add(bytes);
        }
    }

    /// Checks the rate at which the body arrives.
    ///
    /// # Errors
    /// [`ServeError::BodyTooSlow`] if the rate was below [`MIN_RATE`] over a whole period.
    pub(in crate::http) fn check(&self) -> Result<(), ServeError> {
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

/// Lets the handler of a stream say that it does no work until there is something to report, an extension of the request. A
/// new connection may then take the slot of the stream's connection, as that of one with a slow client.
#[derive(Debug, Clone, Default)]
pub(crate) struct Standby(Weak<Activity>);

impl Standby {
    /// Returns the extension of the request that belongs to `activity`.
    pub(in crate::http) fn of(activity: &Arc<Activity>) -> Self {
        Self(Arc::downgrade(activity))
    }

    /// Counts the request as waiting until the returned guard is dropped.
    pub(crate) fn begin(&self) -> StandingBy {
        let activity = self.0.upgrade();
        if let Some(activity) = &activity {
            let mut state = activity.lock();
            if let Phase::Request = state.phase {
                state.phase = Phase::Standby(Wait::new(Instant::now()));
                activity.update_ticket(&mut state);
            }
        }
        StandingBy(activity)
    }
}

/// Counts a request as waiting for something to report until this guard is dropped.
#[derive(Debug)]
pub(crate) struct StandingBy(Option<Arc<Activity>>);

impl Drop for StandingBy {
    fn drop(&mut self) {
        if let Some(activity) = &self.0 {
            activity.standby_ended();
        }
    }
}
