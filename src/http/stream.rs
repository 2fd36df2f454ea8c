//! The sockets of a server: listeners and connections, over TCP or a Unix socket.

use std::fmt;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixStream};

use super::unix::UnixSocket;

/// Size of the send buffer of a connection in bytes. The kernel doubles it for its own bookkeeping.
const SEND_BUFFER: usize = 128 << 10;
/// Longest time that the kernel waits until the client acknowledges sent bytes.
const ACKNOWLEDGE_TIMEOUT: Duration = Duration::from_mins(1);

/// Implements `AsyncWrite` for a type around the stream `inner` that concerns only what is read.
macro_rules! pass_writes {
    ($type:ident) => {
        impl<S: tokio::io::AsyncWrite + Unpin> tokio::io::AsyncWrite for $type<S> {
            fn poll_write(
                mut self: std::pin::Pin<&mut Self>,
                context: &mut std::task::Context<'_>,
                bytes: &[u8],
            ) -> std::task::Poll<std::io::Result<usize>> {
                std::pin::Pin::new(&mut self.inner).poll_write(context, bytes)
            }

            fn poll_write_vectored(
                mut self: std::pin::Pin<&mut Self>,
                context: &mut std::task::Context<'_>,
                slices: &[std::io::IoSlice<'_>],
            ) -> std::task::Poll<std::io::Result<usize>> {
                std::pin::Pin::new(&mut self.inner).poll_write_vectored(context, slices)
            }

            fn is_write_vectored(&self) -> bool {
                self.inner.is_write_vectored()
            }

            fn poll_flush(
                mut self: std::pin::Pin<&mut Self>,
                context: &mut std::task::Context<'_>,
            ) -> std::task::Poll<std::io::Result<()>> {
                std::pin::Pin::new(&mut self.inner).poll_flush(context)
            }

            fn poll_shutdown(
                mut self: std::pin::Pin<&mut Self>,
                context: &mut std::task::Context<'_>,
            ) -> std::task::Poll<std::io::Result<()>> {
                std::pin::Pin::new(&mut self.inner).poll_shutdown(context)
            }
        }
    };
}
pub(super) use pass_writes;

/// A listening socket.
#[derive(Debug)]
pub enum Listener {
    /// A TCP socket.
    Tcp(TcpListener),
    /// A Unix socket.
    Unix(UnixSocket),
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self::Tcp(listener)
    }
}

impl From<UnixSocket> for Listener {
    fn from(socket: UnixSocket) -> Self {
        Self::Unix(socket)
    }
}

impl Listener {
    /// Accepts a connection, and returns it with its client.
    ///
    /// # Errors
    /// If the connection cannot be accepted, for example because file descriptors ran out.
    fn poll_accept(&self, context: &mut Context<'_>) -> Poll<io::Result<(Stream, Peer)>> {
        match self {
            Self::Tcp(listener) => listener.poll_accept(context).map_ok(|(stream, address)| {
                let stream = Stream::Tcp(stream);
                (stream, Peer::Tcp(canonical(address)))
            }),
            Self::Unix(socket) => {
                let accepted = socket.poll_accept(context);
                accepted.map_ok(|(stream, _)| (Stream::Unix(stream), Peer::Unix))
            }
        }
    }
}

/// The listening sockets of a server.
#[derive(Debug)]
pub struct Listeners {
    all: Vec<Listener>,
    /// Position of the listener that is asked first for the next connection.
    turn: AtomicUsize,
}

impl From<Vec<Listener>> for Listeners {
    fn from(all: Vec<Listener>) -> Self {
        Self {
            all,
            turn: AtomicUsize::new(0),
        }
    }
}

impl From<TcpListener> for Listeners {
    fn from(listener: TcpListener) -> Self {
        vec![listener.into()].into()
    }
}

impl Listeners {
    /// Returns the next connection of any listener. A listener with many connections keeps no other one waiting.
    ///
    /// # Errors
    /// If a connection cannot be accepted, for example because file descriptors ran out.
    pub(super) async fn accept(&self) -> io::Result<(Stream, Peer)> {
        poll_fn(|context| self.poll_accept(context)).await
    }

    fn poll_accept(&self, context: &mut Context<'_>) -> Poll<io::Result<(Stream, Peer)>> {
        let turn = self.turn.load(Ordering::Relaxed);
        for offset in 0..self.all.len() {
            let position = (turn + offset) % self.all.len();
            if let accepted @ Poll::Ready(_) = self.all[position].poll_accept(context) {
                self.turn.store(position + 1, Ordering::Relaxed);
                return accepted;
            }
        }
        Poll::Pending
    }
}

/// Returns the IPv4 address of a client that reached an IPv6 socket by IPv4 (`::ffff:192.0.2.1`), and any other
/// address unchanged.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// The client of a connection. An extension of the requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Peer {
    /// A client of a TCP socket, with its address or that of the proxy in front of it.
    Tcp(SocketAddr),
    /// A client of a Unix socket, whose address has no information.
    Unix,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix => f.write_str("unix"),
        }
    }
}

/// The socket of a connection.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    /// Sets the socket options of a connection.
    ///
    /// # Errors
    /// If an option cannot be set, usually because the client has disconnected.
    pub(super) fn configure(&self) -> io::Result<()> {
        // A small send buffer bounds the memory of a client that does not read its response. It also
        // fills early, so the server soon notices that the client does not read.
        match self {
            Self::Tcp(stream) => {
                rustix::net::sockopt::set_socket_send_buffer_size(stream, SEND_BUFFER)?;
                // Each response is written at once, so waiting to fill packets (Nagle) would only delay it.
                stream.set_nodelay(true)?;
                let patience = ACKNOWLEDGE_TIMEOUT.as_millis() as u32;
                rustix::net::sockopt::set_tcp_user_timeout(stream, patience)?;
            }
            Self::Unix(stream) => {
                rustix::net::sockopt::set_socket_send_buffer_size(stream, SEND_BUFFER)?;
            }
        }
        Ok(())
    }

    pub(super) fn is_tcp(&self) -> bool {
        matches!(self, Self::Tcp(_))
    }

    /// Returns the socket, whatever its kind.
    fn socket(self: Pin<&mut Self>) -> Pin<&mut dyn Socket> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::<&mut TcpStream>::new(stream),
            Self::Unix(stream) => Pin::<&mut UnixStream>::new(stream),
        }
    }
}

/// A socket of any kind.
trait Socket: AsyncRead + AsyncWrite {}

impl Socket for TcpStream {}
impl Socket for UnixStream {}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.socket().poll_read(context, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.socket().poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.socket().poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            Self::Unix(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket().poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket().poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv4_client_of_an_ipv6_socket_has_its_ipv4_address() {
        for (address, shown) in [
            ("[::ffff:192.0.2.1]:7", "192.0.2.1:7"),
            ("[2001:db8::1]:7", "[2001:db8::1]:7"),
            ("192.0.2.1:7", "192.0.2.1:7"),
        ] {
            let peer = Peer::Tcp(canonical(address.parse().unwrap()));
            assert_eq!(peer.to_string(), shown);
        }
    }
}
