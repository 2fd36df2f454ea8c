//! Serves a listener: bounds the number of its connections, applies their time limits, and stops
//! gracefully.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use futures_util::FutureExt;
use futures_util::future::Either;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, sleep_until};

use super::activity::Activity;
pub use super::activity::ConnectionTimeouts;
use super::connection::{Observed, drive, service};
use super::replaceable::{Asked, Replaceable};

/// Maximum length of the head of a request in bytes, and size of the read buffer of a connection.
pub const MAX_HEAD_BYTES: usize = 32 << 10;
/// Size of the send buffer of a connection in bytes. The kernel doubles it for its own bookkeeping.
const SEND_BUFFER: usize = 128 << 10;
/// Longest time that the kernel waits until the client acknowledges sent bytes.
const ACKNOWLEDGE_TIMEOUT: Duration = Duration::from_mins(1);
/// Pause after a connection could not be accepted, usually because file descriptors ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Time after which a second connection is asked to close if the first one has not freed its slot.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// A listener and the routes that it serves.
#[derive(Debug)]
pub struct Server {
    /// The listener, bound to its address.
    pub listener: TcpListener,
    /// Router of the requests.
    pub router: Router,
    /// Maximum number of open connections. A further connection takes the slot of the connection
    /// that has been idle longest. If none is idle, it takes the slot of a connection whose client
    /// has made the server wait for at least one second, to send a body or to read a response: the one
    /// with the lowest rate. If no connection can be replaced, it waits.
    pub max_connections: usize,
    /// Time limits of each connection.
    pub timeouts: ConnectionTimeouts,
}

impl Server {
    /// Serves until `stop` resolves, then closes the connections without a complete request and finishes the
    /// requests in flight. Returns whether all of them finished within `grace`.
    pub async fn run(self, stop: impl Future<Output = ()>, grace: Duration) -> bool {
        let graceful = GracefulShutdown::new();
        let slots = Slots::new(self.max_connections);
        let mut stop = std::pin::pin!(stop);
        let mut late = None;
        loop {
            let stream = tokio::select! {
                stream = self.accept(&slots) => stream,
                () = &mut stop => break,
            };
            tokio::select! {
                slot = slots.take() => self.connect(stream, slot, Some(&graceful)),
                () = &mut stop => {
                    late = Some(stream);
                    break;
                }
            }
        }
        let finish = async {
            // The shutdown lets no connection start another request. It closes idle connections, but not those that
            // have sent a part of a request's head.
            tokio::join!(graceful.shutdown(), async {
                slots.replaceable.close_all_idle();
            });
        };
        let mut finished = std::pin::pin!(tokio::time::timeout(grace, finish));
        let mut rejecting = std::pin::pin!(self.reject(&slots, late));
        tokio::select! {
            finished = &mut finished => finished.is_ok(),
            () = &mut rejecting => false,
        }
    }

    /// Accepts connections while the requests in flight finish, and serves one request of each,
    /// which the router rejects with 503. `first` is a connection that was accepted before the
    /// stop. Never returns.
    async fn reject(&self, slots: &Slots, first: Option<TcpStream>) {
        let mut next = first;
        loop {
            let stream = match next.take() {
                Some(stream) => stream,
                None => self.accept(slots).await,
            };
            self.connect(stream, slots.take().await, None);
        }
    }

    async fn accept(&self, slots: &Slots) -> TcpStream {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => match configure(&stream) {
                    Ok(()) => return stream,
                    Err(error) => {
                        tracing::debug!(%error, "connection dropped: its socket options cannot be set");
                    }
                },
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    slots.replaceable.close_one(Instant::now());
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Starts the task of a connection. If `graceful` is `None`, the connection serves only one
    /// request, and the graceful stop does not wait for it.
    fn connect(&self, stream: TcpStream, slot: Slot, graceful: Option<&GracefulShutdown>) {
        let activity = Arc::new(Activity::new(self.timeouts, Arc::clone(&slot.replaceable)));
        let peer = stream.peer_addr().ok();
        let service = service(self.router.clone(), Arc::clone(&activity), peer);
        let io = TokioIo::new(Observed {
            stream,
            activity: Arc::clone(&activity),
        });
        let connection = builder()
            .keep_alive(graceful.is_some())
            .serve_connection(io, service);
        let watched = match graceful {
            Some(graceful) => Either::Left(graceful.watch(connection)),
            None => Either::Right(connection),
        };
        tokio::spawn(async move {
            drive(watched, &activity).await;
            // The activity is dropped before the slot is free. Otherwise a new connection could ask
            // this one to close, and wait for a slot that another connection has taken.
            drop(activity);
            drop(slot);
        });
    }
}

fn configure(stream: &TcpStream) -> io::Result<()> {
    // Each response is written at once, so waiting to fill packets (Nagle) would only delay it.
    stream.set_nodelay(true)?;
    // A small send buffer bounds the memory of a client that does not read its response. It also
    // fills early, so the server soon notices that the client does not read.
    rustix::net::sockopt::set_socket_send_buffer_size(stream, SEND_BUFFER)?;
    let patience = ACKNOWLEDGE_TIMEOUT.as_millis() as u32;
    rustix::net::sockopt::set_tcp_user_timeout(stream, patience)?;
    Ok(())
}

fn builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        // The limit of hyper would include the idle time before a head. `Activity` limits the idle
        // time and the time of the head.
        .header_read_timeout(None)
        // The buffer can hold more than its limit if a whole head arrives in one read.
        .max_header_size(MAX_HEAD_BYTES)
        .max_buf_size(MAX_HEAD_BYTES);
    builder
}

/// The slots for the open connections of a listener.
struct Slots {
    free: Arc<Semaphore>,
    replaceable: Arc<Replaceable>,
}

/// The slot of one open connection. It is free again when this value is dropped.
struct Slot {
    replaceable: Arc<Replaceable>,
    _permit: OwnedSemaphorePermit,
}

impl Slots {
    fn new(slots: usize) -> Self {
        Self {
            free: Arc::new(Semaphore::new(slots)),
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
            replaceable: Arc::clone(&self.replaceable),
            _permit: permit,
        }
    }
}
