//! Runs one connection: records the reads and writes of its socket, counts a request as in flight
//! until its response is written, and closes the connection when a time limit passes or the server stops.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes};
use axum::http::header::CONNECTION;
use axum::http::{HeaderValue, Request, Response};
use axum::{BoxError, Router};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use prometheus_client::metrics::counter::Counter;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::activity::{Activity, InFlight};
use super::http2;
use super::observed::Observed;
use super::opening::{Opened, Rewound, Scheme, open};
use super::repoll::Repoll;
use super::server::Transport;
use super::stream::{Peer, Stream};
use super::upload::{Pausing, Upload};
use super::windows::Windows;

/// Maximum length of the head of a request in bytes, and size of the read buffer of a connection.
pub const MAX_HEAD_BYTES: usize = 32 << 10;

/// How a connection ends.
#[derive(Debug, Clone)]
pub(super) enum End {
    /// After the request in flight once the token is cancelled, or immediately if there is none then.
    Stop(CancellationToken),
    /// After one request.
    OneRequest,
}

/// An accepted connection and what it needs to be served.
pub(super) struct Connection {
    pub(super) stream: Stream,
    pub(super) peer: Peer,
    pub(super) router: Router,
    pub(super) transport: Arc<Transport>,
    /// Places of the HTTP/2 streams of all connections.
    pub(super) places: Arc<Semaphore>,
    pub(super) activity: Arc<Activity>,
    pub(super) end: End,
}

impl Connection {
    /// Serves the requests of the connection until it ends, or until its activity has a reason to close it.
    pub(super) async fn run(self) {
        let activity = Arc::clone(&self.activity);
        drive(self.serve(), &activity).await;
        activity.ended();
    }

    /// Prepares the stream and serves its requests. Everything here happens within the slot of the connection and
    /// is subject to its time limits, so a client that delays the preparation delays nobody else.
    async fn serve(self) -> Result<(), BoxError> {
        let Self {
            stream,
            peer,
            router,
            transport,
            places,
            activity,
            end,
        } = self;
        stream.configure()?;
        let secure = transport.tls.as_ref().filter(|_| stream.is_tcp());
        let io = Observed::new(stream, Arc::clone(&activity));
        let opened = open(io, secure.map(|secure| &*secure.tls), peer, &activity).await?;
        let mut requests = Requests {
            router,
            peer,
            scheme: Scheme::Http,
            activity,
            places,
            windows: transport.windows.clone(),
            refused: transport.refused.clone(),
            end,
        };
        match opened {
            Opened::Plain(io) => {
                if let Some(secure) = secure {
                    requests.router = secure.plain.clone();
                }
                requests.serve(io).await
            }
            Opened::Tls(io) => {
                requests.scheme = Scheme::Https;
                requests.serve(io).await
            }
        }
    }
}

/// Serves the requests of a connection that has been opened.
pub(super) struct Requests {
    pub(super) router: Router,
    pub(super) peer: Peer,
    pub(super) scheme: Scheme,
    pub(super) activity: Arc<Activity>,
    /// Places of the HTTP/2 streams of all connections.
    pub(super) places: Arc<Semaphore>,
    /// The flow-control windows of the HTTP/2 connections.
    pub(super) windows: Windows,
    /// Counts the HTTP/2 streams that found no place.
    pub(super) refused: Counter,
    pub(super) end: End,
}

impl Requests {
    /// Serves HTTP/2 if the client begins with its preface, and HTTP/1 otherwise.
    async fn serve<S>(self, io: Rewound<S>) -> Result<(), BoxError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let io = io.detect().await?;
        if io.is_http2() {
            return http2::serve(self, io).await;
        }
        self.serve_http1(io).await
    }

    async fn serve_http1<S>(self, io: Rewound<S>) -> Result<(), BoxError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let keep_alive = matches!(self.end, End::Stop(_));
        let service = service(self.router, self.activity, self.peer, self.scheme);
        let connection = builder()
            .keep_alive(keep_alive)
            .serve_connection(TokioIo::new(io), service);
        let mut connection = std::pin::pin!(connection);
        if let End::Stop(stop) = self.end {
            tokio::select! {
                // The connection is polled first, so that a request that has arrived is still served.
                biased;
                result = Repoll::new(connection.as_mut()) => return Ok(result?),
                () = stop.cancelled() => {}
            }
            connection.as_mut().graceful_shutdown();
        }
        Ok(Repoll::new(connection).await?)
    }
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

/// Runs a connection, or a stream of one, until it ends, or until `activity` has a reason to close it.
pub(super) async fn drive(
    connection: impl Future<Output = Result<(), BoxError>>,
    activity: &Activity,
) {
    let mut connection = std::pin::pin!(connection);
    let mut timer = std::pin::pin!(sleep_until(Instant::now()));
    loop {
        tokio::select! {
            // The connection is polled first, so that a request that has just arrived is read
            // before the time limits are checked.
            biased;
            result = &mut connection => {
                if let Err(error) = result {
                    tracing::debug!(%error, "connection failed");
                }
                return;
            }
            () = activity.wake.requested.notified() => {}
            () = expired(timer.as_mut(), activity) => {}
        }
        // If the body of a request arrives too slowly, the connection stays open: it is polled
        // again now, and its handler fails to read the body and responds with 408.
        if let Some(reason) = activity.reason_to_close() {
            tracing::debug!(?reason, "connection closed");
            return;
        }
    }
}

/// Completes once the deadline of `activity` has passed.
///
/// The deadline changes only while the connection is polled, and this future is polled after it. A
/// deadline that moves to a later time leaves `timer` as it is until the timer fires, because every
/// request moves the deadline and hardly any timer of a connection fires.
fn expired<'a>(
    mut timer: Pin<&'a mut Sleep>,
    activity: &'a Activity,
) -> impl Future<Output = ()> + 'a {
    poll_fn(move |context| {
        loop {
            let Some(deadline) = activity.deadline() else {
                return Poll::Pending;
            };
            if timer.is_elapsed() || deadline < timer.deadline() {
                timer.as_mut().reset(deadline);
            }
            ready!(timer.as_mut().poll(context));
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
        }
    })
}

/// Returns the service of one connection from `peer`: `router`, with each request recorded in `activity`.
fn service(
    router: Router,
    activity: Arc<Activity>,
    peer: Peer,
    scheme: Scheme,
) -> impl Service<
    Request<Incoming>,
    Response = Response<Held>,
    Error = Infallible,
    Future: Send + 'static,
> + Send
+ 'static {
    let router = TowerToHyperService::new(router);
    service_fn(move |mut request: Request<Incoming>| {
        let in_flight = activity.request();
        request.extensions_mut().insert(peer);
        request.extensions_mut().insert(scheme);
        // HTTP/1 has no streams of messages.
        let body = |body| Upload::new(body, &activity, Pausing::default());
        let response = router.call(request.map(body));
        async move {
            let mut response = response.await?;
            if in_flight.is_last() {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(CONNECTION, close);
            }
            Ok(response.map(|body| Held {
                body,
                _in_flight: in_flight,
            }))
        }
    })
}

/// The body of a response. Its request counts as in flight until the body is dropped.
struct Held {
    body: Body,
    _in_flight: InFlight,
}

impl hyper::body::Body for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
