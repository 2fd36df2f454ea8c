//! The listener: a bounded number of connections, timeouts, and a graceful stop.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Longest time in which a client must send the head of a request; idle time before the head counts.
const HEAD_TIMEOUT: Duration = Duration::from_mins(1);
/// Pause after a failed accept, which usually means that file descriptors ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves `router` on `listener` until `stop` resolves, then finishes the requests in flight. Returns
/// whether all of them finished within `grace`.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    max_connections: usize,
    stop: impl Future<Output = ()>,
    grace: Duration,
) -> bool {
    let graceful = GracefulShutdown::new();
    let connections = Arc::new(Semaphore::new(max_connections));
    let mut stop = std::pin::pin!(stop);
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &connections) => accepted,
            () = &mut stop => break,
        };
        match accepted {
            Ok((stream, place)) => connect(stream, place, router.clone(), &graceful),
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    let mut finished = std::pin::pin!(tokio::time::timeout(grace, graceful.shutdown()));
    // New connections get 503 from the router until the last request in flight is finished.
    loop {
        tokio::select! {
            finished = &mut finished => return finished.is_ok(),
            accepted = accept(&listener, &connections) => match accepted {
                Ok((stream, place)) => connect_late(stream, place, router.clone()),
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            },
        }
    }
}

/// Waits for a free connection slot, then accepts a connection. Returns its stream and the permit that occupies the
/// slot. At the limit, clients wait in the kernel's accept backlog.
async fn accept(
    listener: &TcpListener,
    connections: &Arc<Semaphore>,
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let place = Arc::clone(connections)
        .acquire_owned()
        .await
        .map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    // Responses are written immediately, so waiting to fill packets would only delay them.
    stream.set_nodelay(true)?;
    // A client that never reads its response would occupy its slot forever.
    let patience = HEAD_TIMEOUT.as_millis() as u32;
    rustix::net::sockopt::set_tcp_user_timeout(&stream, patience)?;
    Ok((stream, place))
}

fn connect(
    stream: TcpStream,
    place: OwnedSemaphorePermit,
    router: Router,
    graceful: &GracefulShutdown,
) {
    let connection =
        builder().serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    run(graceful.watch(connection), place);
}

/// Serves one request on a connection that was accepted during shutdown; shutdown does not wait for it.
fn connect_late(stream: TcpStream, place: OwnedSemaphorePermit, router: Router) {
    let connection = builder()
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    run(connection, place);
}

fn builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT);
    builder
}

fn run(
    connection: impl Future<Output = hyper::Result<()>> + Send + 'static,
    place: OwnedSemaphorePermit,
) {
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection failed");
        }
        drop(place);
    });
}
