//! State that the workers of a model share with the requests that submit images.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Policy;
use super::ahead::Ahead;
use super::drain::DrainRate;
use super::margin::Margin;
use super::queue::Queue;
use crate::budget::Budget;
use crate::metrics::BatchMetrics;

pub(super) struct State {
    pub(super) queue: Queue,
    pub(super) closed: bool,
}

/// State that is shared by the worker threads and by the requests that submit images.
pub(super) struct Shared {
    pub(super) state: Mutex<State>,
    /// Signalled when an image arrives and when the queue closes.
    pub(super) changed: Condvar,
    /// Signalled when the queue closes, for workers that pause.
    pub(super) closing: Condvar,
    pub(super) policy: Policy,
    pub(super) metrics: BatchMetrics,
    /// Budget of queue places. A place is reserved before its image is decoded.
    pub(super) places: Budget,
    /// The turns of images to be decoded.
    pub(super) ahead: Ahead,
    /// Budget of the queue places of images that take long to decode, held until they are decoded: half of all
    /// places, so that these images never fill the queue.
    pub(super) long_places: Budget,
    /// Measured speed at which images are prepared and run.
    pub(super) drain: Mutex<DrainRate>,
    /// Margin for predictions of that speed.
    pub(super) margin: Mutex<Margin>,
}

impl Shared {
    /// Locks the state, even if a thread panicked while it held the lock. The state is consistent
    /// then, because engines run outside the lock.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether the queue is closed and empty, so that no worker is needed.
    pub(super) fn is_finished(&self) -> bool {
        let state = self.lock();
        state.closed && state.queue.is_empty()
    }

    /// Returns whether the queue is closed.
    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Waits for `time`, but not longer than until the queue closes.
    pub(super) fn pause(&self, time: Duration) {
        let state = self.lock();
        let waited = self
            .closing
            .wait_timeout_while(state, time, |state| !state.closed);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// No code panics while it holds this lock.
    pub(super) fn margin(&self) -> MutexGuard<'_, Margin> {
        self.margin.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// No code panics while it holds this lock.
    pub(super) fn drain(&self) -> MutexGuard<'_, DrainRate> {
        self.drain.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
