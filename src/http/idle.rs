//! The idle connections of a listener, in the order in which they became idle. A connection is idle
//! if it has no request in flight and no unread response.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Wakes the task that drives one connection.
#[derive(Debug, Default)]
pub(super) struct Wake {
    /// Set if a new connection needs the slot of this connection, or the server stops.
    unwanted: AtomicBool,
    /// Notified when `unwanted` is set.
    pub(super) requested: Notify,
}

impl Wake {
    /// Returns whether the connection was asked to close since the last call of this function.
    pub(super) fn take_unwanted(&self) -> bool {
        self.unwanted.swap(false, Ordering::AcqRel)
    }
}

/// Position of a connection in the [`IdleQueue`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticket(u64);

/// The idle connections of one listener; the first one has been idle longest.
#[derive(Debug, Default)]
pub(super) struct IdleQueue {
    entries: Mutex<Entries>,
    /// Notified when a connection becomes idle.
    pub(super) entered: Notify,
    /// Notified when a connection that was asked to close stays open, because it is no longer idle.
    pub(super) declined: Notify,
}

#[derive(Debug, Default)]
struct Entries {
    next: u64,
    idle: BTreeMap<Ticket, Arc<Wake>>,
}

impl IdleQueue {
    /// Appends a connection that has become idle, and returns its position.
    pub(super) fn enter(&self, connection: &Arc<Wake>) -> Ticket {
        let mut entries = self.lock();
        let ticket = Ticket(entries.next);
        entries.next += 1;
        entries.idle.insert(ticket, Arc::clone(connection));
        drop(entries);
        self.entered.notify_one();
        ticket
    }

    /// Removes a connection that is no longer idle, or is closed.
    pub(super) fn leave(&self, ticket: Ticket) {
        self.lock().idle.remove(&ticket);
    }

    /// Asks the connection that has been idle longest to close. Returns false if no connection is
    /// idle.
    pub(super) fn close_longest(&self) -> bool {
        let longest = self.lock().idle.pop_first();
        let Some((_, connection)) = longest else {
            return false;
        };
        connection.unwanted.store(true, Ordering::Release);
        connection.requested.notify_one();
        true
    }

    /// Asks every idle connection to close.
    pub(super) fn close_all(&self) {
        while self.close_longest() {}
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        // A poisoned mutex is used as it is: no panic leaves the entries in an inconsistent state.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
