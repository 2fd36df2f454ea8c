//! Serves an HTTP/2 connection. Each stream is a task with an [`Activity`] of its own, so that the time limits of
//! requests apply to streams.

use std::convert::Infallible;
use std::future::{Future, ready};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready as poll_ready};
use std::time::Duration;

use axum::BoxError;
use axum::body::{Body, Bytes};
use axum::http::header::CONNECTION;
use axum::http::{Request, Response, StatusCode};
use futures_util::FutureExt as _;
use futures_util::future::Either;
use hyper::body::{Buf, Frame, Incoming, SizeHint};
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;

use super::activity::{Activity, InFlight, Standby};
use super::connection::{End, MAX_HEAD_BYTES, Requests, drive};
use super::frames::Frames;
use super::upload::{Pausing, Upload};

/// Maximum number of streams of a connection at a time. RFC 9113 advises against fewer.
const MAX_STREAMS: u32 = 100;
/// Maximum number of streams that a client resets before the server has seen them (CVE-2023-44487).
const MAX_UNSEEN_RESETS: usize = 20;
/// Maximum number of streams that the server resets because of errors of the client.
const MAX_ERROR_RESETS: usize = 100;
/// Period between two pings, which find clients that are gone.
const PING_PERIOD: Duration = Duration::from_secs(30);
/// Time within which a client must answer a ping.
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// Maximum size of a frame of a client. Each frame of a body wakes up the task of its stream, so larger ones cost less.
const MAX_FRAME: u32 = 256 << 10;
/// Size of a frame that HTTP/2 always allows.
const MIN_FRAME: u32 = 16 << 10;
/// Maximum number of bytes of a response that are passed to a stream at a time.
const MAX_BUFFERED: usize = 64 << 10;

/// Serves the streams of a connection until it ends.
///
/// # Errors
/// If the client violates the protocol or a limit, or disconnects.
pub(super) async fn serve<S>(requests: Requests, io: S) -> Result<(), BoxError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let activity = Arc::clone(&requests.activity);
    let end = requests.end.clone();
    // Held until the connection ends.
    let window = requests.windows.take();
    activity.multiplex(window.bytes as usize);
    let io = Frames::new(io, Arc::clone(&activity));
    let spawner = Spawner::default();
    let builder = builder(spawner.clone(), window.bytes);
    let connection = builder.serve_connection(TokioIo::new(io), service(requests, spawner));
    let mut connection = std::pin::pin!(connection);
    if matches!(end, End::OneRequest) {
        connection.as_mut().graceful_shutdown();
        activity.announced();
    }
    loop {
        tokio::select! {
            // The connection is polled first, so that a request that has arrived is still served.
            biased;
            result = &mut connection => return Ok(result?),
            () = leaving(&activity, &end) => {
                connection.as_mut().graceful_shutdown();
                activity.announced();
            }
        }
    }
}

/// Completes when the client has to be told to send no further requests. Never completes again after that.
async fn leaving(activity: &Activity, end: &End) {
    if activity.has_announced() {
        return std::future::pending().await;
    }
    match end {
        End::Stop(stop) => tokio::select! {
            () = stop.cancelled() => {}
            () = activity.leave.notified() => {}
        },
        End::OneRequest => activity.leave.notified().await,
    }
}

/// Returns the builder of a connection whose flow-control window, and that of each stream, has `window` bytes.
fn builder(spawner: Spawner, window: u32) -> http2::Builder<Spawner> {
    let mut builder = http2::Builder::new(spawner);
    builder
        .timer(TokioTimer::new())
        .max_header_list_size(MAX_HEAD_BYTES as u32)
        .max_concurrent_streams(MAX_STREAMS)
        // The memory of an incomplete frame is bounded with that of unread bytes.
        .max_frame_size((window / 4).clamp(MIN_FRAME, MAX_FRAME))
        .initial_stream_window_size(window)
        .initial_connection_window_size(window)
        .max_send_buf_size(MAX_BUFFERED)
        .max_pending_accept_reset_streams(MAX_UNSEEN_RESETS)
        .max_local_error_reset_streams(MAX_ERROR_RESETS)
        .keep_alive_interval(PING_PERIOD)
        .keep_alive_timeout(PING_TIMEOUT);
    builder
}

/// Returns the service of a connection: its router, with each stream recorded in the connection's activity. The error of
/// the service is the reason with which a stream is reset.
fn service(
    requests: Requests,
    spawner: Spawner,
) -> impl Service<
    Request<Incoming>,
    Response = Response<Download>,
    Error = h2::Error,
    Future: Send + 'static,
> + Send
+ 'static {
    let router = TowerToHyperService::new(requests.router);
    service_fn(move |mut request: Request<Incoming>| {
        let Some(in_flight) = requests.activity.stream(&requests.places) else {
            requests.refused.inc();
            // Tells the client that the request was not processed, so that it can be sent again.
            let refused = h2::Reason::REFUSED_STREAM.into();
            return Either::Left(ready(Err(refused)));
        };
        spawner.announce(in_flight.activity());
        request.extensions_mut().insert(requests.peer);
        request.extensions_mut().insert(requests.scheme);
        let pausing = Pausing::default();
        request.extensions_mut().insert(pausing.clone());
        let standby = Standby::of(in_flight.activity());
        request.extensions_mut().insert(standby);
        let body = |body| Upload::new(body, in_flight.activity(), pausing);
        let response = router.call(request.map(body));
        Either::Right(async move {
            let response: Result<_, Infallible> = response.await;
            let Ok(mut response) = response;
            // HTTP/2 has no such header; GOAWAY has its meaning. A body that arrives too slowly concerns only its stream.
            let closes = response.headers_mut().remove(CONNECTION).is_some();
            in_flight.responds(closes && response.status() != StatusCode::REQUEST_TIMEOUT);
            Ok(response.map(|body| Download::new(body, in_flight)))
        })
    })
}

/// Runs each stream as a task within the time limits of its activity. A stream whose client does not read its response
/// is dropped, which resets it.
#[derive(Debug, Clone, Default)]
struct Spawner {
    /// Activity of the stream that is spawned next. hyper spawns a stream as soon as the service was called for it.
    next: Arc<Mutex<Option<Arc<Activity>>>>,
}

impl Spawner {
    fn announce(&self, activity: &Arc<Activity>) {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        *next = Some(Arc::clone(activity));
    }

    fn take(&self) -> Option<Arc<Activity>> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        next.take()
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Spawner {
    fn execute(&self, stream: F) {
        let activity = self.take();
        tokio::spawn(async move {
            match activity {
                Some(activity) => drive(stream.map(Ok), &activity).await,
                // A stream that was refused.
                None => stream.await,
            }
        });
    }
}

/// The body of a response. Its stream is in flight until the client has been sent the whole body.
struct Download {
    body: Body,
    in_flight: InFlight,
    /// Completes when the bytes that were passed to the connection last have been written to its socket.
    written: Option<oneshot::Receiver<Infallible>>,
}

impl Download {
    fn new(body: Body, in_flight: InFlight) -> Self {
        Self {
            body,
            in_flight,
            written: None,
        }
    }

    /// Waits until the socket has accepted the bytes that were passed to the connection.
    fn poll_written(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if let Some(written) = &mut self.written {
            // Nothing is ever sent: the sender is dropped with the bytes.
            let Err(_) = poll_ready!(Pin::new(written).poll(context));
            self.written = None;
            self.in_flight.activity().flushed();
        }
        Poll::Ready(())
    }
}

impl hyper::body::Body for Download {
    type Data = Chunk;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Chunk>, axum::Error>>> {
        poll_ready!(self.poll_written(context));
        let frame = poll_ready!(Pin::new(&mut self.body).poll_frame(context));
        let Some(frame) = frame.transpose()? else {
            return Poll::Ready(None);
        };
        Poll::Ready(Some(Ok(frame.map_data(|bytes| {
            let activity = Arc::clone(self.in_flight.activity());
            activity.blocked();
            let (sender, receiver) = oneshot::channel();
            self.written = Some(receiver);
            Chunk {
                bytes,
                activity,
                _written: sender,
            }
        }))))
    }

    /// Returns `false` until the whole body was sent, so that the stream lasts until then.
    fn is_end_stream(&self) -> bool {
        self.written.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Bytes of a response that a connection writes as the client's flow-control windows allow.
struct Chunk {
    bytes: Bytes,
    activity: Arc<Activity>,
    /// Dropped with the last byte.
    _written: oneshot::Sender<Infallible>,
}

impl Buf for Chunk {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, bytes: usize) {
        self.activity.wrote(bytes);
        self.bytes.advance(bytes);
    }
}
