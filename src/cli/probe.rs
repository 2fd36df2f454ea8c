//! Requests to the health routes of a running server.

use std::fmt;
use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use onnx_export::text::cut;
use rustls::crypto::ring;
use serde_json::Value;
use sightline::config::{ListenAddress, SecretUrl, SocketPath};
use sightline::http::unix;
use ureq::tls::TlsConfig;

/// Maximum number of bytes of a response that are read.
const MAX_RESPONSE: u64 = 64 << 10;
/// Maximum number of characters of a text in a response that are shown.
const MAX_SHOWN: usize = 200;

/// Where a server is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Endpoint {
    /// The URL of a server, without a slash at its end.
    Url(SecretUrl),
    /// The Unix socket of a server.
    Unix(SocketPath),
}

impl Endpoint {
    /// Returns where a client on this machine reaches a server that listens on `address`, which serves `scheme` if it
    /// is a TCP address.
    pub(super) fn at(address: &ListenAddress, scheme: &str) -> Self {
        match address.for_clients() {
            ListenAddress::Unix(path) => Self::Unix(path),
            address => Self::Url(format!("{scheme}://{address}").into()),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(url) => write!(f, "{url}"),
            Self::Unix(path) => write!(f, "unix:{path}"),
        }
    }
}

/// The response of a health route.
pub(super) struct Health {
    /// Status code.
    pub(super) status: u16,
    /// JSON body; null if the body is not JSON.
    body: Value,
}

impl Health {
    /// Requests `path` from a server, without a proxy. The certificate of an HTTPS server is not verified: its names
    /// rarely include the loopback address, and nothing is sent that others may not know.
    ///
    /// # Errors
    /// If there is no response within `timeout`.
    pub(super) fn request(server: &Endpoint, path: &str, timeout: Duration) -> Result<Self> {
        let (status, body) = match server {
            Endpoint::Url(url) => over_tcp(&format!("{}{path}", url.expose()), timeout)?,
            Endpoint::Unix(socket) => over_unix(socket, path, timeout)?,
        };
        let body = serde_json::from_str(&body).unwrap_or_default();
        Ok(Self { status, body })
    }

    /// Returns up to `MAX_SHOWN` characters of the text `name` in the body.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        let text = self.body.get(name)?.as_str()?;
        Some(cut(text, MAX_SHOWN))
    }

    /// Returns version and instance id of the server, or `None` if the response does not contain
    /// both.
    pub(super) fn identity(&self) -> Option<String> {
        let (version, instance) = (self.text("version")?, self.text("instance")?);
        Some(format!("version {version}, instance {instance}"))
    }
}

/// Requests `url` and returns the status and the body of the response.
fn over_tcp(url: &str, timeout: Duration) -> Result<(u16, String)> {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_global(Some(timeout))
        .proxy(None)
        .tls_config(
            TlsConfig::builder()
                .disable_verification(true)
                .unversioned_rustls_crypto_provider(Arc::new(ring::default_provider()))
                .build(),
        )
        .http_status_as_error(false)
        .build()
        .into();
    let mut response = agent.get(url).call()?;
    let status = response.status().as_u16();
    let body = response.body_mut().with_config().limit(MAX_RESPONSE);
    Ok((status, body.read_to_string()?))
}

/// Requests `path` over a Unix socket and returns the status and the body of the response, which must not be chunked.
fn over_unix(socket: &SocketPath, path: &str, timeout: Duration) -> Result<(u16, String)> {
    let deadline = Instant::now() + timeout;
    let mut stream = unix::connect(socket.as_path())?;
    stream.set_write_timeout(Some(timeout))?;
    let head = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    let mut response = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        ensure!(
            !left.is_zero(),
            "no response within {} ms",
            timeout.as_millis()
        );
        stream.set_read_timeout(Some(left))?;
        let bytes = stream.read(&mut buffer)?;
        if bytes == 0 {
            break;
        }
        response.extend_from_slice(&buffer[..bytes]);
        ensure!(
            response.len() as u64 <= MAX_RESPONSE,
            "the response has more than {MAX_RESPONSE} bytes"
        );
    }
    parse(&String::from_utf8_lossy(&response)).context("the response is not HTTP")
}

/// Returns the status and the body of an HTTP/1.1 response. `None` if it is malformed.
fn parse(response: &str) -> Option<(u16, String)> {
    let (head, body) = response.split_once("\r\n\r\n")?;
    let mut line = head.strip_prefix("HTTP/1.")?.split(' ');
    let status = line.nth(1)?.get(..3)?.parse().ok()?;
    Some((status, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_over_a_unix_socket_are_parsed() {
        let ok = "HTTP/1.1 200 OK\r\na: b\r\n\r\n{}";
        assert_eq!(parse(ok), Some((200, "{}".to_owned())));
        for malformed in [
            "",
            "HTTP/1.1 200 OK\r\n",
            "SSH-2.0\r\n\r\n",
            "HTTP/1.1 x\r\n\r\n",
            "HTTP/1.1 20\u{e9}\r\n\r\n",
        ] {
            assert_eq!(parse(malformed), None, "{malformed}");
        }
    }
}
