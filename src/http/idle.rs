//! The connections without a request in flight, in the order in which they became idle.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Wakes the task of one connection.
#[derive(Debug, Default)]
pub(super) struct Wake {
    /// Set if another connection needs the slot of this one.
    unwanted: AtomicBool,
    /// Notified when the connection's deadline may have changed, and when it is unwanted.
    pub(super) changed: Notify,
}

impl Wake {
    /// Returns whether the connection was asked to close since the last call.
    pub(super) fn take_unwanted(&self) -> bool {
        self.unwanted.swap(false, Ordering::AcqRel)
    }
}

/// Position of a connection in the [`IdleQueue`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticket(u64);

/// Idle connections of one listener, longest idle first.
#[derive(Debug, Default)]
pub(super) struct IdleQueue {
    entries: Mutex<Entries>,
    /// Notified when a connection becomes idle.
    pub(super) entered: Notify,
    /// Notified when a connection that was asked to close has a request in flight and stays open.
    pub(super) declined: Notify,
}

#[derive(Debug, Default)]
struct Entries {
    next: u64,
    idle: BTreeMap<Ticket, Arc<Wake>>,
}

impl IdleQueue {
    /// Appends a connection that has become idle.
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

    /// Asks the connection that has been idle longest to close. Returns whether there is one.
    pub(super) fn close_longest(&self) -> bool {
        let longest = self.lock().idle.pop_first();
        let Some((_, connection)) = longest else {
            return false;
        };
        connection.unwanted.store(true, Ordering::Release);
        connection.changed.notify_one();
        true
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        // Every change of the entries is a single operation, so that a panic leaves them consistent.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
