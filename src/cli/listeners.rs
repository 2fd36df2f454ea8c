//! The listeners of `serve`.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Error, Result, anyhow};
use axum::Router;
use sightline::app::App;
use sightline::config::{ListenAddress, ServeConfig, SocketPath, resolve};
use sightline::grpc::{self, Control};
use sightline::http;
use sightline::http::listener::Family;
use sightline::http::server::{Secure, Server, Transport, Windows};
use sightline::http::stream::Listener;
use sightline::http::unix::{UnixError, UnixSocket};
use sightline::tls::Tls;
use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;

use super::activation::{Inherited, InheritedSocket};
use super::probe::{Endpoint, Health};
use super::say::tell;

/// Maximum number of open connections of the admin listener.
const ADMIN_CONNECTIONS: usize = 64;
/// Maximum time to wait for the response of a server that uses the address to bind.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// Maximum time after the end of the public listeners in which the admin listeners finish their requests in flight.
const ADMIN_GRACE: Duration = Duration::from_secs(1);

/// The listeners of the server, bound to their addresses.
pub(super) struct Listeners {
    /// At least one.
    public: Vec<Bound>,
    /// Listeners for gRPC. Empty if `--grpc-listen` is not set.
    grpc: Vec<Bound>,
    /// Listeners for health checks and metrics. Empty if `--admin-listen` is not set.
    admin: Vec<Bound>,
}

/// A listener and the address that it is bound to.
struct Bound {
    listener: Listener,
    address: ListenAddress,
}

impl Listeners {
    /// Resolves the host names of the addresses and binds the listeners. Sockets of systemd, `inherited`, replace
    /// the addresses. Blocks the thread; must be called within a tokio runtime.
    ///
    /// # Errors
    /// If a host name cannot be resolved, or an address cannot be bound. If another Sightline uses
    /// the address, the error contains its version and instance id.
    pub(super) fn bind(config: &ServeConfig, inherited: Inherited) -> Result<Self> {
        let all = config.listen.iter().chain(&config.grpc_listen);
        let all: Vec<_> = all.chain(&config.admin_listen).collect();
        let bind = |flag, addresses: &[ListenAddress], sockets: Vec<InheritedSocket>| {
            if sockets.is_empty() {
                let bind = |address| Bound::new(flag, address, &all, config);
                return addresses.iter().map(bind).collect::<Result<Vec<_>>>();
            }
            sockets.into_iter().map(Bound::inherited).collect()
        };
        Ok(Self {
            public: bind("--listen", &config.listen, inherited.public)?,
            grpc: bind("--grpc-listen", &config.grpc_listen, inherited.grpc)?,
            admin: bind(
                "--admin-listen",
                config.admin_listen.as_slice(),
                inherited.admin,
            )?,
        })
    }

    /// Returns the address of the first public listener.
    ///
    /// # Errors
    /// If there is no public listener.
    pub(super) fn address(&self) -> Result<ListenAddress> {
        let first = self.public.first().context("no address to listen on")?;
        Ok(first.address.clone())
    }

    /// Prints and logs the addresses of the listeners. TCP addresses of public listeners serve `scheme`.
    pub(super) fn announce(&self, scheme: &str) {
        let version = env!("CARGO_PKG_VERSION");
        for (index, Bound { address, .. }) in self.public.iter().enumerate() {
            let what = if index == 0 { "sightline" } else { "also" };
            let number = if index == 0 {
                format!(" {version}")
            } else {
                String::new()
            };
            tell!("{what}{number} listening on {}", shown(address, scheme));
            let admin = self
                .admin
                .first()
                .map(|admin| tracing::field::display(&admin.address));
            tracing::info!(version, %address, admin, "listening");
        }
        for Bound { address, .. } in &self.grpc {
            tell!(
                "gRPC on {address}{}",
                if scheme == "https" { " with TLS" } else { "" }
            );
            tracing::info!(%address, "listening for gRPC");
        }
        for Bound { address, .. } in &self.admin {
            tell!("health and metrics on {}", shown(address, "http"));
        }
    }

    /// Serves the public and gRPC listeners until `stop` resolves and their requests in flight are finished,
    /// and the admin listeners until then, too, whose requests in flight get a moment to finish. Returns whether the
    /// requests of the public and gRPC listeners finished within the grace period.
    pub(super) async fn run(
        self,
        app: Arc<App>,
        config: &ServeConfig,
        tls: Option<Arc<Tls>>,
        stop: impl Future<Output = ()>,
    ) -> bool {
        let control = if self.admin.is_empty() && app.keys.is_some() {
            Control::Allowed
        } else {
            Control::Elsewhere
        };
        // The windows of the connections of all servers share the memory for bodies.
        let servers = if self.grpc.is_empty() { 1 } else { 2 };
        let windows = Windows::new(app.bodies.total(), config.max_connections * servers);
        let server = |bound: Vec<Bound>, router, tls, max_connections| {
            let listeners: Vec<Listener> = bound.into_iter().map(|bound| bound.listener).collect();
            Server {
                listeners: listeners.into(),
                router,
                max_connections,
                timeouts: config.timeouts,
                transport: Arc::new(Transport {
                    tls,
                    windows: windows.clone(),
                    refused: app.metrics.refused_streams(),
                }),
            }
        };
        let secure = |plain: Router| {
            let tls = tls.clone();
            tls.map(|tls| Secure { tls, plain })
        };
        let admin = http::admin_router(Arc::clone(&app));
        let admin = server(self.admin, admin, None, ADMIN_CONNECTIONS);
        let plain = http::https_required_router(Arc::clone(&app));
        let public = http::compatible_router(Arc::clone(&app), &config.compat);
        let public = server(self.public, public, secure(plain), config.max_connections);
        let plain = grpc::tls_required_router(&app);
        let grpc = grpc::router(&app, control);
        let grpc = server(self.grpc, grpc, secure(plain), config.max_connections);
        let (stopping, ended) = (CancellationToken::new(), CancellationToken::new());
        let work = async {
            let stop = async {
                stop.await;
                stopping.cancel();
            };
            let public = public.run(stopping.cancelled(), config.shutdown_grace);
            let grpc = grpc.run(stopping.cancelled(), config.shutdown_grace);
            let (public, grpc, ()) = tokio::join!(public, grpc, stop);
            public && grpc
        };
        // In this task, so that the files of Unix sockets are removed whenever this future is dropped.
        let mut admin = std::pin::pin!(admin.run(ended.cancelled(), ADMIN_GRACE));
        let finished = tokio::select! {
            finished = work => finished,
            _ = &mut admin => false,
        };
        if finished {
            ended.cancel();
            admin.await;
        }
        finished
    }
}

/// Returns the address as it is printed: a URL, or the path of a Unix socket after `unix:`.
fn shown(address: &ListenAddress, scheme: &str) -> String {
    match address {
        ListenAddress::Unix(_) => address.to_string(),
        address => format!("{scheme}://{address}"),
    }
}

impl Bound {
    /// Binds `address`, a value of the flag `flag`. `all` are the addresses of all listeners.
    fn new(
        flag: &str,
        address: &ListenAddress,
        all: &[&ListenAddress],
        config: &ServeConfig,
    ) -> Result<Self> {
        let listener = match address {
            ListenAddress::Unix(path) => {
                return bind_unix(flag, path, config.unix_socket_mode.bits());
            }
            ListenAddress::Ip(ip) => bind_first(flag, &[*ip], family(*ip, all))?,
            ListenAddress::Name { host, port } => {
                let addresses = resolve(host, *port);
                let addresses =
                    addresses.with_context(|| format!("cannot resolve `{flag} {address}`"))?;
                bind_first(flag, &addresses, Family::Both)?
            }
        };
        let address = listener.local_addr()?.into();
        let listener = listener.into();
        Ok(Self { listener, address })
    }

    /// Uses a socket that systemd has opened.
    fn inherited(socket: InheritedSocket) -> Result<Self> {
        let address = socket.address()?;
        tracing::info!(%address, "socket of systemd used instead of the configured addresses");
        let listener = match socket {
            InheritedSocket::Tcp(listener) => {
                listener.set_nonblocking(true)?;
                TcpListener::from_std(listener)?.into()
            }
            InheritedSocket::Unix(listener) => {
                listener.set_nonblocking(true)?;
                UnixSocket::from(UnixListener::from_std(listener)?).into()
            }
        };
        Ok(Self { listener, address })
    }
}

/// Returns which clients reach `address` if it is `[::]`: those of IPv6 only if another of the addresses `all` may
/// be an IPv4 address with the same port, else those of IPv4, too.
fn family(address: SocketAddr, all: &[&ListenAddress]) -> Family {
    let same_port = |other: &&&ListenAddress| other.port() == Some(address.port());
    let may_be_ipv4 =
        |other: &&ListenAddress| !matches!(other, ListenAddress::Ip(SocketAddr::V6(_)));
    if address.port() != 0 && all.iter().filter(same_port).any(may_be_ipv4) {
        Family::Ipv6
    } else {
        Family::Both
    }
}

/// Binds the first of the IP addresses of `flag` that this machine has. An IP address that is in use is an error and
/// is not skipped: clients of the host name would reach the program that uses it.
fn bind_first(flag: &str, addresses: &[SocketAddr], family: Family) -> Result<TcpListener> {
    let mut first_error = None;
    for &address in addresses {
        match http::listener::bind(address, family) {
            Ok(listener) => return Ok(listener),
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                return Err(in_use(flag, &address.into()));
            }
            Err(error) => {
                first_error.get_or_insert((address, error));
            }
        }
    }
    Err(match first_error {
        Some((address, error)) => Error::new(error).context(format!("cannot listen on {address}")),
        None => anyhow!("cannot listen: the host name of `{flag}` has no IP address"),
    })
}

/// Binds the Unix socket `path`, a value of the flag `flag`, with the permissions `mode`.
fn bind_unix(flag: &str, path: &SocketPath, mode: u32) -> Result<Bound> {
    let address = ListenAddress::Unix(path.clone());
    match UnixSocket::bind(path.as_path(), mode) {
        Ok(socket) => Ok(Bound {
            listener: socket.into(),
            address,
        }),
        Err(UnixError::InUse) => Err(in_use(flag, &address)),
        Err(error) => Err(Error::new(error).context(format!("cannot listen on {address}"))),
    }
}

/// Returns the error for an address that another program uses. If that program is a Sightline, the
/// error contains its version and instance id.
fn in_use(flag: &str, address: &ListenAddress) -> Error {
    let identity = |scheme| {
        let endpoint = Endpoint::at(address, scheme);
        let health = Health::request(&endpoint, "/health/live", PROBE_TIMEOUT);
        health.ok()?.identity()
    };
    let other = match identity("http").or_else(|| identity("https")) {
        Some(identity) => format!("another Sightline ({identity})"),
        None => "another program".to_owned(),
    };
    anyhow!(
        "cannot listen on {address}: the address is in use by {other}; stop it or choose another \
         address with {flag}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_ipv6_addresses_include_ipv4_unless_ipv4_has_the_port_itself() {
        let cases = [
            (&["[::]:80"][..], Family::Both),
            (&["[::]:80", "0.0.0.0:81", "[::1]:80"], Family::Both),
            (&["[::]:80", "0.0.0.0:80"], Family::Ipv6),
            (&["[::]:80", "localhost:80"], Family::Ipv6),
            (&["[::]:80", "unix:/80"], Family::Both),
        ];
        for (addresses, expected) in cases {
            let all: Vec<ListenAddress> = addresses.iter().map(|a| a.parse().unwrap()).collect();
            let all: Vec<&ListenAddress> = all.iter().collect();
            assert_eq!(
                family("[::]:80".parse().unwrap(), &all),
                expected,
                "{addresses:?}"
            );
        }
    }
}
