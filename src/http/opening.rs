//! The beginning of a connection: TLS, if the listener has it, and the version of HTTP.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use axum::BoxError;
use tokio::io::{AsyncRead, AsyncReadExt as _, ReadBuf};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::activity::Activity;
use super::observed::Observed;
use super::stream::{Peer, pass_writes};
use crate::tls::Tls;

/// The first bytes of a client that speaks HTTP/2.
pub(super) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The first byte of a client that speaks TLS: the type of a handshake record.
const HANDSHAKE: u8 = 22;
/// Maximum number of bytes of a response that TLS holds until the socket accepts them.
const TLS_BUFFER: usize = 64 << 10;

/// Whether a request arrived by TLS. An extension of the requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scheme {
    Http,
    Https,
}

impl Scheme {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// A connection on which HTTP begins.
pub(super) enum Opened {
    /// Without TLS.
    Plain(Rewound<Observed>),
    /// With TLS.
    Tls(Rewound<Box<TlsStream<Rewound<Observed>>>>),
}

/// Completes the TLS handshake if the listener has TLS, unless the client speaks HTTP without TLS.
///
/// # Errors
/// If the client disconnects, or the handshake fails.
pub(super) async fn open(
    io: Observed,
    tls: Option<&Tls>,
    peer: Peer,
    activity: &Activity,
) -> Result<Opened, BoxError> {
    let io = Rewound::new(io).detect().await?;
    let handshake = io.first() == Some(HANDSHAKE);
    let Some(tls) = tls else {
        if handshake {
            warn_of_tls(peer);
        }
        return Ok(Opened::Plain(io));
    };
    if io.first().is_some_and(|byte| byte.is_ascii_alphabetic()) {
        return Ok(Opened::Plain(io));
    }
    let accept = TlsAcceptor::from(tls.config())
        .accept_with(io, |session| session.set_buffer_limit(Some(TLS_BUFFER)));
    match accept.await {
        Ok(stream) => {
            activity.handshaken();
            Ok(Opened::Tls(Rewound::new(Box::new(stream))))
        }
        Err(error) => {
            tracing::debug!(%peer, %error, "TLS handshake failed");
            Err(error.into())
        }
    }
}

/// Logs that a client speaks TLS to a listener without TLS; the first one as a warning.
fn warn_of_tls(peer: Peer) {
    static WARNED: AtomicBool = AtomicBool::new(false);
    if WARNED.swap(true, Ordering::Relaxed) {
        tracing::debug!(%peer, "TLS handshake on a listener without TLS");
    } else {
        tracing::warn!(
            %peer,
            "TLS handshake on a listener without TLS: use http:// or set `tls_cert` and `tls_key`"
        );
    }
}

/// A stream whose first bytes were read to find out what the client speaks, and are read again.
pub(super) struct Rewound<S> {
    inner: S,
    start: [u8; PREFACE.len()],
    /// Number of bytes of `start` that were read from `inner`.
    filled: usize,
    /// Number of bytes of `start` that were read again.
    taken: usize,
}

impl<S: AsyncRead + Unpin> Rewound<S> {
    pub(super) fn new(inner: S) -> Self {
        Self {
            inner,
            start: [0; PREFACE.len()],
            filled: 0,
            taken: 0,
        }
    }

    /// Reads until the first bytes differ from the preface of HTTP/2, or are the preface, or the client has closed its
    /// side.
    pub(super) async fn detect(mut self) -> io::Result<Self> {
        while self.filled < PREFACE.len() && self.start[..self.filled] == PREFACE[..self.filled] {
            let bytes = self.inner.read(&mut self.start[self.filled..]).await?;
            if bytes == 0 {
                break;
            }
            self.filled += bytes;
        }
        Ok(self)
    }

    /// Returns whether the client speaks HTTP/2.
    pub(super) fn is_http2(&self) -> bool {
        self.start[..self.filled] == PREFACE[..]
    }

    /// Returns the first byte. `None` if the client has sent nothing.
    fn first(&self) -> Option<u8> {
        self.start[..self.filled].first().copied()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Rewound<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.taken == self.filled {
            return Pin::new(&mut self.inner).poll_read(context, buffer);
        }
        let bytes = buffer.remaining().min(self.filled - self.taken);
        buffer.put_slice(&self.start[self.taken..][..bytes]);
        self.taken += bytes;
        Poll::Ready(Ok(()))
    }
}

pass_writes!(Rewound);
