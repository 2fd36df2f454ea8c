//! Serves listeners: bounds the number of its connections, applies their time limits, and stops
//! gracefully.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use futures_util::FutureExt;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::activity::Activity;
pub use super::activity::ConnectionTimeouts;
pub use super::connection::MAX_HEAD_BYTES;
use super::connection::{Connection, End};
pub use super::http2::Window;
use super::replaceable::{Asked, Replaceable};
use super::stream::{Listeners, Peer, Stream};
use crate::tls::Tls;

/// Pause after a connection could not be accepted, usually because file descriptors ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Time after which a second connection is asked to close if the first one has not freed its slot.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// Listeners and the routes that they serve.
#[derive(Debug)]
pub struct Server {
    /// The listeners, bound to their addresses.
    pub listeners: Listeners,
    /// Router of the requests.
    pub router: Router,
    /// Maximum number of open connections of all listeners together. A further connection takes the slot of
    /// the connection that has been idle longest. If none is idle, it takes the slot of a connection whose
    /// client has made the server wait for at least one second, to send a body or to read a response: the one
    /// with the lowest rate. If no connection can be replaced, it waits.
    pub max_connections: usize,
    /// Time limits of each connection.
    pub timeouts: ConnectionTimeouts,
    /// What is between the sockets and HTTP.
    pub transport: Arc<Transport>,
}

/// TLS and the limits of HTTP/2.
#[derive(Debug, Default)]
pub struct Transport {
    /// TLS on TCP sockets. `None` to serve without TLS.
    pub tls: Option<Secure>,
    /// Size of the flow-control window of each HTTP/2 connection in bytes: the memory that a client can fill before
    /// the server reads.
    pub window: Window,
    /// Counts the HTTP/2 streams that are refused because too many are in flight.
    pub refused: Counter,
}

/// TLS, and the responses to clients that do not use it.
#[derive(Debug)]
pub struct Secure {
    /// The certificate and its key.
    pub tls: Arc<Tls>,
    /// Router of the requests that arrive without TLS.
    pub plain: Router,
}

impl Server {
    /// Serves until `stop` resolves, then closes the connections without a complete request and finishes the
    /// requests in flight. Returns whether all of them finished within `grace`.
    pub async fn run(self, stop: impl Future<Output = ()>, grace: Duration) -> bool {
        let (accepted, stopping) = (TaskTracker::new(), CancellationToken::new());
        let slots = Slots::new(self.max_connections);
        let end = || End::Stop(stopping.clone());
        let mut stop = std::pin::pin!(stop);
        let mut late = None;
        loop {
            let next = tokio::select! {
                next = self.accept(&slots) => next,
                () = &mut stop => break,
            };
            tokio::select! {
                slot = slots.take() => {
                    accepted.spawn(self.serve(next, slot, end()));
                }
                () = &mut stop => {
                    late = Some(next);
                    break;
                }
            }
        }
        // No connection starts another request. The token closes idle connections, but not those that have sent a
        // part of a request's head.
        stopping.cancel();
        slots.replaceable.close_all_idle();
        accepted.close();
        tokio::select! {
            finished = tokio::time::timeout(grace, accepted.wait()) => finished.is_ok(),
            () = self.reject(&slots, late) => false,
        }
    }

    /// Accepts connections while the requests in flight finish, and serves one request of each,
    /// which the router rejects with 503. `first` is a connection that was accepted before the
    /// stop. Never returns.
    async fn reject(&self, slots: &Slots, first: Option<(Stream, Peer)>) {
        let mut next = first;
        loop {
            let accepted = match next.take() {
                Some(accepted) => accepted,
                None => self.accept(slots).await,
            };
            tokio::spawn(self.serve(accepted, slots.take().await, End::OneRequest));
        }
    }

    /// Returns the next connection of any listener.
    async fn accept(&self, slots: &Slots) -> (Stream, Peer) {
        loop {
            match self.listeners.accept().await {
                Ok(accepted) => return accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    slots.replaceable.close_one(Instant::now());
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Returns the task of a connection.
    fn serve(
        &self,
        (stream, peer): (Stream, Peer),
        slot: Slot,
        end: End,
    ) -> impl Future<Output = ()> + Send + 'static {
        let activity = Arc::new(Activity::new(self.timeouts, Arc::clone(&slot.replaceable)));
        let connection = Connection {
            stream,
            peer,
            router: self.router.clone(),
            transport: Arc::clone(&self.transport),
            places: Arc::clone(&slot.places),
            activity,
            end,
        };
        async move {
            // The activity is dropped before the slot is free. Otherwise a new connection could ask
            // this one to close, and wait for a slot that another connection has taken.
            connection.run().await;
            drop(slot);
        }
    }
}

/// The slots for the open connections of a server.
struct Slots {
    free: Arc<Semaphore>,
    /// Places for HTTP/2 streams in addition to the first one of each connection: as many as connections, so that
    /// streams do not multiply the number of requests in flight.
    places: Arc<Semaphore>,
    replaceable: Arc<Replaceable>,
}

/// The slot of one open connection. It is free again when this value is dropped.
struct Slot {
    places: Arc<Semaphore>,
    replaceable: Arc<Replaceable>,
    _permit: OwnedSemaphorePermit,
}

impl Slots {
    fn new(slots: usize) -> Self {
        Self {
            free: Arc::new(Semaphore::new(slots)),
            places: Arc::new(Semaphore::new(slots)),
            replaceable: Arc::default(),
        }
    }

    /// Takes a free slot. If there is none, closes a connection and takes its slot, or waits while
    /// no connection is replaceable.
    async fn take(&self) -> Slot {
        loop {
            if let Ok(permit) = Arc::clone(&self.free).try_acquire_owned() {
                return self.slot(permit);
            }
            // Discards a notification that an earlier request to close has left.
            let _ = self.replaceable.declined.notified().now_or_never();
            let asked = self.replaceable.close_one(Instant::now());
            let retry = async {
                match asked {
                    // A connection that ends by itself notifies nobody, but frees its slot.
                    Asked::Closing => tokio::select! {
                        () = self.replaceable.declined.notified() => {}
                        () = sleep(ASK_AGAIN) => {}
                    },
                    Asked::NotBefore(time) => tokio::select! {
                        () = self.replaceable.became_idle.notified() => {}
                        () = sleep_until(time) => {}
                    },
                }
            };
            tokio::select! {
                // Always `Ok`, because the semaphore is never closed.
                Ok(permit) = Arc::clone(&self.free).acquire_owned() => return self.slot(permit),
                () = retry => {}
            }
        }
    }

    fn slot(&self, permit: OwnedSemaphorePermit) -> Slot {
        self.replaceable.slot_taken();
        Slot {
            places: Arc::clone(&self.places),
            replaceable: Arc::clone(&self.replaceable),
            _permit: permit,
        }
    }
}
