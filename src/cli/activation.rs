//! Sockets that systemd has opened for `serve` (socket activation).

use std::net::TcpListener;
use std::os::unix::net::UnixListener;

use anyhow::{Context, Result, bail, ensure};
use listenfd::ListenFd;
use rustix::net::sockopt::socket_acceptconn;
use sightline::config::ListenAddress;

/// Maximum number of sockets.
const MAX: usize = 32;
/// Name of the sockets for the public routes.
const HTTP: &str = "http";
/// Name of the sockets for gRPC.
const GRPC: &str = "grpc";
/// Name of the sockets for health checks and metrics.
const ADMIN: &str = "admin";

/// The sockets of the process that systemd has opened. They replace the addresses of the settings.
#[derive(Debug, Default)]
pub(super) struct Inherited {
    /// Sockets for the public routes. If empty, the server listens on `listen`.
    pub(super) public: Vec<InheritedSocket>,
    /// Sockets for gRPC. If empty, the server listens on `grpc_listen`.
    pub(super) grpc: Vec<InheritedSocket>,
    /// Sockets for health checks and metrics. If empty, the server listens on `admin_listen`.
    pub(super) admin: Vec<InheritedSocket>,
}

/// A listening socket that systemd has opened.
#[derive(Debug)]
pub(super) enum InheritedSocket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Inherited {
    /// Takes the sockets that the variables `LISTEN_FDS`, `LISTEN_PID` and `LISTEN_FDNAMES` describe, and removes
    /// the first two. Must be called before the process starts threads. Without these variables there are no
    /// sockets.
    ///
    /// # Errors
    /// If there are more than 32 sockets, if one has an unknown name, or if one is not a listening TCP or Unix
    /// socket.
    pub(super) fn take() -> Result<Self> {
        let count = std::env::var("LISTEN_FDS").unwrap_or_default();
        let small = |count: usize| count <= MAX;
        ensure!(
            count.is_empty() || count.parse().is_ok_and(small),
            "`LISTEN_FDS`: expected at most {MAX} sockets, got `{count}`"
        );
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':');
        let mut descriptors = ListenFd::from_env();
        let mut inherited = Self::default();
        for position in 0..descriptors.len() {
            let sockets = match names.next().unwrap_or_default() {
                ADMIN => &mut inherited.admin,
                GRPC => &mut inherited.grpc,
                name if is_public(name) => &mut inherited.public,
                name => bail!(
                    "a socket of systemd has the unknown name `{name}`: set `FileDescriptorName=` of its unit to \
                     `{HTTP}`, `{GRPC}` or `{ADMIN}`"
                ),
            };
            let socket = InheritedSocket::take(&mut descriptors, position);
            let describe = || format!("cannot use socket {} of `LISTEN_FDS`", position + 1);
            sockets.push(socket.with_context(describe)?);
        }
        Ok(inherited)
    }
}

/// Returns whether a socket with this name is for the public routes. The name of a socket without
/// `FileDescriptorName=` is that of its unit; other programs than systemd give no names.
fn is_public(name: &str) -> bool {
    matches!(name, HTTP | "" | "unknown") || name.strip_suffix(".socket").is_some()
}

impl InheritedSocket {
    /// Takes the socket at `position`.
    fn take(descriptors: &mut ListenFd, position: usize) -> Result<Self> {
        let socket = if let Ok(listener) = descriptors.take_tcp_listener(position) {
            Self::Tcp(listener.context("the socket is missing")?)
        } else {
            let listener = descriptors.take_unix_listener(position);
            let listener = listener.context("expected a TCP socket or a Unix stream socket")?;
            Self::Unix(listener.context("the socket is missing")?)
        };
        let listens = match &socket {
            Self::Tcp(listener) => socket_acceptconn(listener),
            Self::Unix(listener) => socket_acceptconn(listener),
        };
        ensure!(listens?, "the socket does not listen: set `Accept=no`");
        Ok(socket)
    }

    /// Returns the address of the socket.
    ///
    /// # Errors
    /// If it is a Unix socket without a path.
    pub(super) fn address(&self) -> Result<ListenAddress> {
        match self {
            Self::Tcp(listener) => Ok(listener.local_addr()?.into()),
            Self::Unix(listener) => {
                let address = listener.local_addr()?;
                let path = address.as_pathname().and_then(|path| path.to_str());
                let path = path.context("the Unix socket has no path, or none in UTF-8")?;
                Ok(ListenAddress::Unix(path.parse()?))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_choose_the_routes() {
        for name in ["http", "", "unknown", "sightline.socket"] {
            assert!(is_public(name), "{name}");
        }
        for name in ["admin", "grpc", "Http"] {
            assert!(!is_public(name), "{name}");
        }
    }
}
