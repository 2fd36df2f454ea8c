//! The connections of a listener whose slots a new connection may take: idle connections, in the
//! order in which they became idle, and connections that make the server wait for their clients.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::activity::CloseReason;
use super::wait::Wait;

/// Time that the server must have waited for a client before a new connection may take the slot of the
/// client's connection. Over a shorter time, the rates of most clients cannot be told apart.
const MIN_WAIT: Duration = Duration::from_secs(1);

/// Time that a new connection keeps its slot even without a request, so that the server can read the
/// request of a client that has just connected.
const MIN_IDLE: Duration = Duration::from_millis(50);

/// Wakes the task that drives one connection.
#[derive(Debug, Default)]
pub(super) struct Wake {
    /// Why this connection was asked to close: a new connection needs its slot, or the server stops.
    unwanted: Mutex<Option<CloseReason>>,
    /// Notified when `unwanted` is set.
    pub(super) requested: Notify,
}

impl Wake {
    /// Returns why the connection was asked to close since the last call of this function, if it was.
    pub(super) fn take_unwanted(&self) -> Option<CloseReason> {
        self.lock().take()
    }

    fn request(&self, reason: CloseReason) {
        *self.lock() = Some(reason);
        self.requested.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Option<CloseReason>> {
        self.unwanted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a connection may be replaced by a new one.
#[derive(Debug)]
pub(super) enum Standing {
    /// It may be replaced after [`MIN_IDLE`]: it has had no complete head of a request yet.
    New,
    /// It may be replaced: it has no complete head of another request, no request in flight, and no
    /// unread response.
    Idle,
    /// It may be replaced after [`MIN_WAIT`]: the server waits for its client.
    Waiting(Arc<Wait>),
    /// It keeps its slot: the server works on a request.
    Working,
}

impl Standing {
    pub(super) fn is_replaceable(&self, now: Instant) -> bool {
        match self {
            Self::New | Self::Idle => true,
            Self::Waiting(wait) => now >= wait.lasts(MIN_WAIT),
            Self::Working => false,
        }
    }
}

/// Position of a connection in [`Replaceable`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticket(pub(super) u64);

/// The replaceable connections of one listener.
#[derive(Debug, Default)]
pub(super) struct Replaceable {
    entries: Mutex<Entries>,
    /// Set while a new connection waits for a slot and none is replaceable. The next connection that responds
    /// closes after its response, since a client that sends requests without a pause is never idle.
    wanted: AtomicBool,
    /// Notified when a connection is new or becomes idle.
    pub(super) became_idle: Notify,
    /// Notified when a connection that was asked to close stays open, because it is no longer
    /// replaceable.
    pub(super) declined: Notify,
}

#[derive(Debug, Default)]
struct Entries {
    /// Position of the connection that was added last.
    last: u64,
    /// New and idle connections, each with the time from which it may be replaced. The first one has been
    /// idle longest.
    idle: BTreeMap<Ticket, (Instant, Arc<Wake>)>,
    waiting: BTreeMap<Ticket, (Arc<Wait>, Arc<Wake>)>,
}

/// Result of asking for a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// A connection was asked to close.
    Closing,
    /// No connection is replaceable now, nor before this instant unless one becomes idle.
    NotBefore(Instant),
}

impl Replaceable {
    /// Adds a connection and returns its position, or `None` if its `standing` is
    /// [`Standing::Working`].
    pub(super) fn enter(&self, standing: Standing, connection: &Arc<Wake>) -> Option<Ticket> {
        let connection = Arc::clone(connection);
        match standing {
            Standing::New => Some(self.enter_idle(connection, MIN_IDLE)),
            Standing::Idle => Some(self.enter_idle(connection, Duration::ZERO)),
            Standing::Waiting(wait) => {
                let mut entries = self.lock();
                let ticket = entries.ticket();
                entries.waiting.insert(ticket, (wait, connection));
                Some(ticket)
            }
            Standing::Working => None,
        }
    }

    fn enter_idle(&self, connection: Arc<Wake>, kept: Duration) -> Ticket {
        let mut entries = self.lock();
        let ticket = entries.ticket();
        let from = Instant::now() + kept;
        entries.idle.insert(ticket, (from, connection));
        drop(entries);
        self.became_idle.notify_one();
        ticket
    }

    /// Removes a connection whose standing changes, or that is closed.
    pub(super) fn leave(&self, ticket: Ticket) {
        let mut entries = self.lock();
        if entries.idle.remove(&ticket).is_none() {
            entries.waiting.remove(&ticket);
        }
    }

    /// Asks the connection that has been idle longest to close. New connections are exempt for [`MIN_IDLE`].
    /// If no connection is idle, asks the one with the slowest client among those for which the server has
    /// waited for at least [`MIN_WAIT`].
    pub(super) fn close_one(&self, now: Instant) -> Asked {
        let mut entries = self.lock();
        let connection = entries.take_idle(now).or_else(|| entries.take_slowest(now));
        if let Some(connection) = connection {
            connection.request(CloseReason::Replaced);
            return Asked::Closing;
        }
        self.wanted.store(true, Ordering::Release);
        Asked::NotBefore(entries.next_replaceable(now))
    }

    /// Asks the connection with the slowest client to close, if the server has waited for it for at least [`MIN_WAIT`].
    pub(super) fn close_slowest(&self, now: Instant) {
        let slowest = self.lock().take_slowest(now);
        if let Some(connection) = slowest {
            connection.request(CloseReason::Replaced);
        }
    }

    /// Records that no new connection waits for a slot any more.
    pub(super) fn slot_taken(&self) {
        self.wanted.store(false, Ordering::Release);
    }

    /// Returns whether a connection that responds now has to close after its response. Only one connection does so
    /// for each time that [`Replaceable::close_one`] finds none.
    pub(super) fn takes_next(&self) -> bool {
        // The load keeps the ordinary response free of a write to shared memory.
        self.wanted.load(Ordering::Acquire) && self.wanted.swap(false, Ordering::AcqRel)
    }

    /// Asks every idle connection to close.
    pub(super) fn close_all_idle(&self) {
        let idle = std::mem::take(&mut self.lock().idle);
        for (_, connection) in idle.into_values() {
            connection.request(CloseReason::Unwanted);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        // A poisoned mutex is used as it is: no panic leaves the entries in an inconsistent state.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entries {
    /// Returns the position of the next connection.
    fn ticket(&mut self) -> Ticket {
        self.last += 1;
        Ticket(self.last)
    }

    /// Takes the connection that has been idle longest, except new ones within [`MIN_IDLE`].
    fn take_idle(&mut self, now: Instant) -> Option<Arc<Wake>> {
        let (&ticket, _) = self.idle.iter().find(|(_, (from, _))| *from <= now)?;
        let (_, connection) = self.idle.remove(&ticket)?;
        Some(connection)
    }

    /// Takes the waiting connection with the lowest rate; among equal rates, the one that was added first.
    /// Returns `None` if the server has not waited for any client for [`MIN_WAIT`].
    fn take_slowest(&mut self, now: Instant) -> Option<Arc<Wake>> {
        let waiting = self.waiting.iter();
        let slowest = waiting
            .filter(|(_, (wait, _))| now >= wait.lasts(MIN_WAIT))
            .map(|(ticket, (wait, _))| (wait.rate(now), *ticket))
            .min_by(|(one, _), (other, _)| one.total_cmp(other));
        let (_, connection) = self.waiting.remove(&slowest?.1)?;
        Some(connection)
    }

    /// Returns the earliest time at which one of the connections becomes replaceable, at most `now` plus
    /// [`MIN_WAIT`]: a wait that begins now has lasted long enough then.
    fn next_replaceable(&self, now: Instant) -> Instant {
        let idle = self.idle.values().map(|(from, _)| *from);
        let waiting = self.waiting.values().map(|(wait, _)| wait.lasts(MIN_WAIT));
        idle.chain(waiting).fold(now + MIN_WAIT, Instant::min)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Connections of one [`Replaceable`].
    struct Setup {
        replaceable: Replaceable,
        connections: Vec<Arc<Wake>>,
        now: Instant,
    }

    impl Setup {
        fn new() -> Self {
            Self {
                replaceable: Replaceable::default(),
                connections: Vec::new(),
                now: Instant::now() + Duration::from_mins(1),
            }
        }

        fn enter(&mut self, standing: Standing) -> Option<Ticket> {
            let connection = Arc::default();
            let ticket = self.replaceable.enter(standing, &connection);
            self.connections.push(connection);
            ticket
        }

        /// Adds a connection whose client has sent `bytes` bytes in a wait of `milliseconds`.
        fn wait(&mut self, milliseconds: u64, bytes: usize) -> Option<Ticket> {
            let wait = Wait::new(self.now - Duration::from_millis(milliseconds));
            wait.add(bytes);
            self.enter(Standing::Waiting(wait))
        }

        /// Asks for slots until no connection is replaceable, and returns the indices of the
        /// connections in the order in which they were asked to close.
        fn order(&self) -> Vec<usize> {
            let mut order = Vec::new();
            while self.replaceable.close_one(self.now) == Asked::Closing {
                let asked = |connection: &Arc<Wake>| connection.take_unwanted().is_some();
                order.extend(self.connections.iter().position(asked));
            }
            order
        }

        /// Asks for a slot. Returns after how many milliseconds a connection will be replaceable.
        fn milliseconds_to_wait(&self) -> Option<u128> {
            match self.replaceable.close_one(self.now) {
                Asked::NotBefore(time) => Some((time - self.now).as_millis()),
                Asked::Closing => None,
            }
        }
    }

    #[test]
    fn idle_connections_are_replaced_first_and_working_ones_never() {
        let mut setup = Setup::new();
        setup.wait(5000, 0);
        setup.enter(Standing::Idle);
        setup.enter(Standing::Working);
        setup.enter(Standing::Idle);
        assert_eq!(setup.order(), [1, 3, 0]);
    }

    #[test]
    fn a_new_connection_has_time_to_send_its_request() {
        let mut setup = Setup::new();
        setup.now = Instant::now();
        setup.enter(Standing::New);
        let wait = setup.milliseconds_to_wait().unwrap();
        assert!((40..=60).contains(&wait), "{wait}");
        // A connection that has had a request is replaced immediately when it is idle again.
        setup.enter(Standing::Idle);
        setup.now = Instant::now();
        assert_eq!(setup.order(), [1]);
        setup.now += MIN_IDLE;
        assert_eq!(setup.order(), [0]);
        // When the server stops, no idle connection is kept.
        setup.enter(Standing::New);
        setup.replaceable.close_all_idle();
        let reason = setup.connections[2].take_unwanted();
        assert_eq!(reason, Some(CloseReason::Unwanted));
    }

    #[test]
    fn one_response_is_the_last_of_its_connection_while_no_other_is_replaceable() {
        let mut setup = Setup::new();
        setup.enter(Standing::Working);
        assert!(!setup.replaceable.takes_next());
        assert_eq!(setup.order(), [0; 0]);
        assert!(setup.replaceable.takes_next());
        assert!(!setup.replaceable.takes_next());
        assert_eq!(setup.order(), [0; 0]);
        setup.replaceable.slot_taken();
        assert!(!setup.replaceable.takes_next());
    }

    #[test]
    fn the_slowest_client_is_replaced_first() {
        // Milliseconds and bytes of each wait, and the order in which the connections are replaced.
        let none: [(u64, usize); 0] = [];
        let cases = [
            (&none[..], &[][..]),
            (&[(2000, 10), (20_000, 90), (1000, 0)], &[2, 1, 0]),
            (&[(1000, 0), (3000, 0), (2000, 0)], &[0, 1, 2]),
            (&[(999, 0), (1000, 9_000_000)], &[1]),
        ];
        for (waits, expected) in cases {
            let mut setup = Setup::new();
            for &(milliseconds, bytes) in waits {
                setup.wait(milliseconds, bytes);
            }
            assert_eq!(setup.order(), expected, "{waits:?}");
        }
    }

    #[test]
    fn a_new_connection_waits_until_one_is_replaceable() {
        let mut setup = Setup::new();
        assert_eq!(setup.milliseconds_to_wait(), Some(1000));
        setup.wait(300, 0);
        setup.wait(100, 0);
        assert_eq!(setup.milliseconds_to_wait(), Some(700));
        setup.now += Duration::from_millis(700);
        assert_eq!(setup.milliseconds_to_wait(), None);
        assert_eq!(setup.milliseconds_to_wait(), Some(200));
    }

    #[test]
    fn a_connection_that_leaves_is_not_asked_to_close() {
        let mut setup = Setup::new();
        let tickets = [setup.enter(Standing::Idle), setup.wait(2000, 0)];
        setup.wait(2000, 9);
        for ticket in tickets {
            setup.replaceable.leave(ticket.unwrap());
        }
        assert_eq!(setup.order(), [2]);
    }
}
