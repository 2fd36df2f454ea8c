//! Runs one connection: records the reads and writes of its socket, counts a request as in flight
//! until its response is written, and closes the connection when a time limit passes or the server stops.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
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
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::activity::{Activity, BodyWait, InFlight};
use super::stream::{Peer, Stream};

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
    pub(super) activity: Arc<Activity>,
    pub(super) end: End,
}

impl Connection {
    /// Serves the requests of the connection until it ends, or until its activity has a reason to close it.
    pub(super) async fn run(self) {
        let activity = Arc::clone(&self.activity);
        drive(self.serve(), &activity).await;
    }

    /// Prepares the stream and serves its requests. Everything here happens within the slot of the connection and
    /// is subject to its time limits, so a client that delays the preparation delays nobody else.
    async fn serve(self) -> Result<(), BoxError> {
        let Self {
            stream,
            peer,
            router,
            activity,
            end,
        } = self;
        stream.configure()?;
        let service = service(router, Arc::clone(&activity), peer);
        let io = TokioIo::new(Observed { stream, activity });
        let keep_alive = matches!(end, End::Stop(_));
        let connection = builder()
            .keep_alive(keep_alive)
            .serve_connection(io, service);
        let mut connection = std::pin::pin!(connection);
        if let End::Stop(stop) = end {
            tokio::select! {
                // The connection is polled first, so that a request that has arrived is still served.
                biased;
                result = &mut connection => return Ok(result?),
                () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
            }
        }
        Ok(connection.await?)
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

/// Runs `connection` until it ends, or until `activity` has a reason to close it.
async fn drive(connection: impl Future<Output = Result<(), BoxError>>, activity: &Activity) {
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
        let response = router.call(request.map(|body| Upload {
            body,
            activity: Arc::clone(&activity),
            wait: None,
        }));
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

/// The body of a request. Its arrival is recorded in `activity`, and reading it fails with
/// [`BodyTooSlow`](crate::error::ServeError::BodyTooSlow) if it arrives too slowly.
struct Upload {
    body: Incoming,
    activity: Arc<Activity>,
    /// Created when the reader of the body first has to wait, and dropped at the end of the body. `None`
    /// for a body that arrives together with its head, which is therefore not measured.
    wait: Option<BodyWait>,
}

impl hyper::body::Body for Upload {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        // With a known length, the last frame already ends the body, before `None` is returned.
        let ended = self.body.is_end_stream();
        match &frame {
            Poll::Ready(Some(Ok(frame))) if !ended => {
                if let Some(wait) = &self.wait {
                    wait.received(frame.data_ref().map_or(0, Bytes::len));
                }
            }
            Poll::Pending if !ended => match &self.wait {
                Some(wait) => wait.check()?,
                None => self.wait = Some(self.activity.body()),
            },
            Poll::Ready(_) | Poll::Pending => self.wait = None,
        }
        frame.map_err(BoxError::from)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
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

/// A socket whose reads and writes are recorded in `activity`.
struct Observed {
    stream: Stream,
    activity: Arc<Activity>,
}

impl Observed {
    fn record(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &written {
            Poll::Ready(Ok(bytes)) => self.activity.wrote(*bytes),
            Poll::Ready(Err(_)) => {}
            Poll::Pending => self.activity.blocked(),
        }
        written
    }
}

impl AsyncRead for Observed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        if buffer.filled().len() > before {
            self.activity.received();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Observed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.record(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.record(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// Flushes the socket. hyper calls this only when its own buffer is empty, so on success the
    /// socket has accepted every byte of the response so far.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(context))?;
        self.activity.flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
