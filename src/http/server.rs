//! The listener: connections in, bounded in number and patience, and an orderly end.

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

/// How long a client may take over a request's head, idle time between requests included.
const HEAD_TIMEOUT: Duration = Duration::from_mins(1);
/// Pause after the system refused a connection, usually for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves `router` on `listener` until `stop` resolves, then answers what is in flight for at most
/// `grace`. True if all of it was answered.
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
                tracing::warn!("cannot accept a connection: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    let mut finished = std::pin::pin!(tokio::time::timeout(grace, graceful.shutdown()));
    // Probes and clients that still come are told 503 until the last answer is out.
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

/// Waits for a free place first: clients beyond the limit stay in the system's backlog.
async fn accept(
    listener: &TcpListener,
    connections: &Arc<Semaphore>,
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let place = Arc::clone(connections)
        .acquire_owned()
        .await
        .map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    // Answers are small and whole: waiting to fill packets would only delay them.
    stream.set_nodelay(true)?;
    // A client that asks and never reads would hold its place for ever.
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

/// A connection that came after the end began: one answer, and nobody waits for it.
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
            tracing::debug!("connection ended: {error}");
        }
        drop(place);
    });
}
