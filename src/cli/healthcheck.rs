//! `sightline healthcheck`: checks whether a running server is ready.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use sightline::config::{ConfigError, DEFAULT_LISTEN};
use ureq::http::Uri;

use super::say::say;

/// Maximum time to wait for the server's response.
const TIMEOUT: Duration = Duration::from_secs(3);

#[derive(Debug, Args)]
pub(super) struct HealthcheckArgs {
    /// URL of the server, as http://HOST:PORT [default: the address that `serve` listens on with the same
    /// environment: `SIGHTLINE_ADMIN_LISTEN`, else `SIGHTLINE_LISTEN`, else 127.0.0.1:8080]
    #[arg(long, env = "SIGHTLINE_HEALTHCHECK_URL", value_name = "URL")]
    url: Option<String>,
    /// Value of `--admin-listen` with which the server was started
    #[arg(long, env = "SIGHTLINE_ADMIN_LISTEN", value_name = "ADDR")]
    admin_listen: Option<SocketAddr>,
    /// Value of `--listen` with which the server was started
    #[arg(long, env = "SIGHTLINE_LISTEN", value_name = "ADDR")]
    listen: Option<SocketAddr>,
}

impl HealthcheckArgs {
    /// Returns the URL of the server, without a slash at its end.
    fn server(&self) -> Result<String, ConfigError> {
        let Some(url) = &self.url else {
            let address = self.admin_listen.or(self.listen).unwrap_or(DEFAULT_LISTEN);
            return Ok(format!("http://{}", reachable(address)));
        };
        let usable = |uri: &Uri| {
            uri.scheme_str() == Some("http")
                && uri.host().is_some_and(|host| !host.is_empty())
                && uri.query().is_none()
        };
        if url.parse().is_ok_and(|uri| usable(&uri)) {
            return Ok(url.trim_end_matches('/').to_owned());
        }
        Err(ConfigError::Value {
            setting: "healthcheck_url",
            expected: "http://HOST:PORT".to_owned(),
            got: url.clone(),
        })
    }
}

/// Replaces an unspecified IP address (`0.0.0.0` or `::`) with loopback, because a server can
/// listen on it but a client cannot connect to it.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// Requests `/health/ready` and prints the URL of the server. Returns an error if the server is not
/// ready or does not respond.
pub(super) fn run(args: &HealthcheckArgs) -> Result<()> {
    let server = args.server()?;
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_global(Some(TIMEOUT))
        .proxy(None)
        .build()
        .into();
    agent
        .get(format!("{server}/health/ready"))
        .call()
        .with_context(|| format!("the server {server} is not ready"))?;
    say!("ready {server}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(url: Option<&str>, admin: Option<&str>, listen: Option<&str>) -> Option<String> {
        let address = |text: &str| text.parse().unwrap();
        let args = HealthcheckArgs {
            url: url.map(str::to_owned),
            admin_listen: admin.map(address),
            listen: listen.map(address),
        };
        args.server().ok()
    }

    #[test]
    fn the_server_is_the_one_of_the_environment() {
        let (admin, listen) = (Some("[::]:8082"), Some("0.0.0.0:81"));
        let cases = [
            (server(None, None, None), "http://127.0.0.1:8080"),
            (server(None, None, listen), "http://127.0.0.1:81"),
            (server(None, admin, listen), "http://[::1]:8082"),
            (server(None, Some("10.0.0.1:1"), None), "http://10.0.0.1:1"),
            (server(Some("http://x:9/"), admin, listen), "http://x:9"),
        ];
        for (url, expected) in cases {
            assert_eq!(url.as_deref(), Some(expected));
        }
    }

    #[test]
    fn malformed_urls_are_rejected() {
        for url in [
            "",
            "x",
            "127.0.0.1:8080",
            "https://x",
            "http://",
            "http://:80",
            "http://x y",
        ] {
            assert_eq!(server(Some(url), None, None), None, "{url}");
        }
    }
}
