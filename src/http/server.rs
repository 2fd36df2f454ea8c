//! Serves listeners: bounds the number of its connections, applies their time limits, and stops
//! gracefully.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use futures_util::FutureExt;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::activity::Activity;
pub use super::activity::ConnectionTimeouts;
pub use super::connection::MAX_HEAD_BYTES;
use super::connection::{Connection, End};
use super::replaceable::{Asked, Replaceable};
use super::stream::{Listeners, Peer, Stream};
pub use super::windows::Windows;
use crate::tls::Tls;

/// Pause after a connection could not be accepted, usually because file descriptors ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Time after a stop in which idle connections stay open for requests that are on their way, and in which the last
/// rejections are sent.
const LINGER: Duration = Duration::from_millis(100);
/// Time without a new connection after which none waits to be accepted.
const NONE_WAITS: Duration = Duration::from_millis(1);
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
    /// The flow-control windows of the HTTP/2 connections.
    pub windows: Windows,
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
    /// Serves until `stop` resolves, after which the router must reject requests. Then waits for the requests in
    /// flight, at most for `grace`, and returns whether all of them finished. Connections without a complete request
    /// are closed after a moment, in which their clients still get responses.
    pub async fn run(self, stop: impl Future<Output = ()>, grace: Duration) -> bool {
        let slots = Slots::new(self.max_connections);
        let (served, rejected) = (Connections::default(), Connections::default());
        let late = self.serve_until(stop, &slots, &served).await;
        let linger = LINGER.min(grace / 4);
        let finished = tokio::select! {
            finished = timeout(grace, served.finish(&slots, linger)) => finished.is_ok(),
            () = self.reject(&slots, late, &rejected) => false,
        };
        if finished {
            // The last clients get their rejections.
            slots.replaceable.close_all_idle();
            let _ = timeout(LINGER, self.reject_waiting(&slots, &rejected)).await;
            // A connection that the system accepts from here on could not get a response.
            drop(self.listeners);
            let _ = timeout(LINGER, rejected.ended()).await;
        }
        finished
    }

    /// Serves until `stop` resolves. Returns the connection that has no slot then, if there is one.
    async fn serve_until(
        &self,
        stop: impl Future<Output = ()>,
        slots: &Slots,
        served: &Connections,
    ) -> Option<(Stream, Peer)> {
        let mut stop = std::pin::pin!(stop);
        loop {
            let accepted = tokio::select! {
                accepted = self.accept(slots) => accepted,
                () = &mut stop => return None,
            };
            let slot = tokio::select! {
                slot = slots.take() => slot,
                () = &mut stop => return Some(accepted),
            };
            let end = End::Stop(served.stopping.clone());
            served.tasks.spawn(self.serve(accepted, slot, end));
        }
    }

    /// Accepts connections while the requests in flight finish, and serves one request of each,
    /// which the router rejects with 503. `first` is a connection that was accepted before the
    /// stop. Never returns.
    async fn reject(&self, slots: &Slots, first: Option<(Stream, Peer)>, rejected: &Connections) {
        let mut next = first;
        loop {
            let accepted = match next.take() {
                Some(accepted) => accepted,
                None => self.accept(slots).await,
            };
            let slot = slots.take().await;
            rejected
                .tasks
                .spawn(self.serve(accepted, slot, End::OneRequest));
        }
    }

    /// Accepts the connections that wait for it, and serves one request of each, which the router rejects with 503.
    async fn reject_waiting(&self, slots: &Slots, rejected: &Connections) {
        while let Ok(accepted) = timeout(NONE_WAITS, self.accept(slots)).await {
            let slot = slots.take().await;
            let serving = self.serve(accepted, slot, End::OneRequest);
            rejected.tasks.spawn(serving);
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

/// The tasks of open connections.
#[derive(Debug, Default)]
struct Connections {
    tasks: TaskTracker,
    /// Cancelled when the connections have to start no further request.
    stopping: CancellationToken,
}

impl Connections {
    /// Waits for the end of all connections. After `linger`, closes those without a complete request, and ends the
    /// others after their requests in flight. `slots` are the slots of the connections.
    ///
    /// A client may send a request at the moment of the stop. If its idle connection were closed immediately, the
    /// client could not tell whether the request was processed.
    async fn finish(&self, slots: &Slots, linger: Duration) {
        if timeout(linger, self.ended()).await.is_ok() {
            return;
        }
        // The token closes idle connections, but not those that have sent a part of a request's head.
        self.stopping.cancel();
        slots.replaceable.close_all_idle();
        self.ended().await;
    }

    async fn ended(&self) {
        self.tasks.close();
        self.tasks.wait().await;
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
