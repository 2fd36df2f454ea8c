//! The listeners of `serve`.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Error, Result, anyhow};
use sightline::app::App;
use sightline::config::{ListenAddress, ServeConfig};
use sightline::http;
use sightline::http::server::{Secure, Server, Transport, Window};
use sightline::tls::Tls;
use tokio::net::TcpListener;

use super::probe::Health;
use super::say::tell;

/// Maximum number of open connections of the admin listener.
const ADMIN_CONNECTIONS: usize = 64;
/// Maximum time to wait for the response of a server that uses the address to bind.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// The listeners of the server, bound to their addresses.
pub(super) struct Listeners {
    public: TcpListener,
    /// Listener for health checks and metrics. `None` if `--admin-listen` is not set.
    admin: Option<TcpListener>,
}

impl Listeners {
    /// Resolves the host names of the addresses and binds the listeners. Blocks the thread; must be
    /// called within a tokio runtime.
    ///
    /// # Errors
    /// If a host name cannot be resolved, or an address cannot be bound. If another Sightline uses
    /// the address, the error contains its version and instance id.
    pub(super) fn bind(config: &ServeConfig) -> Result<Self> {
        let public = bind("--listen", &config.listen)?;
        let admin = config.admin_listen.as_ref();
        let admin = admin.map(|address| bind("--admin-listen", address));
        Ok(Self {
            public,
            admin: admin.transpose()?,
        })
    }

    /// Prints and logs the addresses of the listeners, and returns the address of the public listener, which serves
    /// `scheme`.
    pub(super) fn announce(&self, scheme: &str) -> Result<SocketAddr> {
        let address = self.public.local_addr()?;
        let version = env!("CARGO_PKG_VERSION");
        tell!("sightline {version} listening on {scheme}://{address}");
        let admin = self.admin.as_ref().map(TcpListener::local_addr);
        let admin = admin.transpose()?;
        if let Some(admin) = admin {
            tell!("health and metrics on http://{admin}");
        }
        let admin = admin.map(tracing::field::display);
        tracing::info!(version, %address, admin, "listening");
        Ok(address)
    }

    /// Serves the public listener until `stop` resolves and its requests in flight are finished,
    /// and the admin listener until then, too. Returns whether the requests of the public listener
    /// finished within the grace period.
    pub(super) async fn run(
        self,
        app: Arc<App>,
        config: &ServeConfig,
        tls: Option<Arc<Tls>>,
        stop: impl Future<Output = ()>,
    ) -> bool {
        let secure = tls.map(|tls| Secure {
            tls,
            plain: http::https_required_router(Arc::clone(&app)),
        });
        let public = Server {
            listeners: self.public.into(),
            router: http::router(Arc::clone(&app)),
            max_connections: config.max_connections,
            timeouts: config.timeouts,
            transport: transport(&app, config.max_connections, secure),
        };
        let public = public.run(stop, config.shutdown_grace);
        let Some(listener) = self.admin else {
            return public.await;
        };
        let admin = Server {
            listeners: listener.into(),
            transport: transport(&app, ADMIN_CONNECTIONS, None),
            router: http::admin_router(app),
            max_connections: ADMIN_CONNECTIONS,
            timeouts: config.timeouts,
        };
        let admin = tokio::spawn(admin.run(std::future::pending(), Duration::ZERO));
        let finished = public.await;
        admin.abort();
        finished
    }
}

/// Returns the transport of a server with at most `connections` connections.
fn transport(app: &App, connections: usize, tls: Option<Secure>) -> Arc<Transport> {
    Arc::new(Transport {
        tls,
        window: Window::new(app.bodies.total(), connections),
        refused: app.metrics.refused_streams(),
    })
}

/// Binds `address`, the value of the flag `flag`. Of a host name with several IP addresses, binds
/// the first that this machine has. An IP address that is in use is an error and is not skipped:
/// clients of the host name would reach the program that uses it.
fn bind(flag: &str, address: &ListenAddress) -> Result<TcpListener> {
    let addresses = address.resolve();
    let addresses = addresses.with_context(|| format!("cannot resolve `{flag} {address}`"))?;
    let mut first_error = None;
    for address in addresses {
        match http::listener::bind(address) {
            Ok(listener) => return Ok(listener),
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                return Err(in_use(flag, address));
            }
            Err(error) => {
                first_error.get_or_insert((address, error));
            }
        }
    }
    Err(match first_error {
        Some((address, error)) => Error::new(error).context(format!("cannot listen on {address}")),
        None => anyhow!("cannot listen on {address}: the host name has no IP address"),
    })
}

/// Returns the error for an address that another program uses. If that program is a Sightline, the
/// error contains its version and instance id.
fn in_use(flag: &str, address: SocketAddr) -> Error {
    let client = ListenAddress::from(address).for_clients();
    let identity = |scheme| {
        let url = format!("{scheme}://{client}/health/live");
        Health::request(&url, PROBE_TIMEOUT).ok()?.identity()
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
