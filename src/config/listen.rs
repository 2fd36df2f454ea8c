//! Addresses to listen on, as settings state them.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

use super::{SocketPath, SocketPathError};

/// Prefix of the address of a Unix socket.
const UNIX: &str = "unix:";
/// The host name of loopback. It is not looked up, so that it needs no `/etc/hosts`.
const LOCALHOST: &str = "localhost";

/// An address to listen on: a host and a port, or the path of a Unix socket.
///
/// A port alone (`8080`) is on 127.0.0.1, so that a server is not reachable from other machines by
/// accident. A port after a colon (`:8080`) is on all IPv4 addresses of the machine, `0.0.0.0`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddress {
    /// An IP address and a port.
    Ip(SocketAddr),
    /// A host name, which is resolved when the server starts.
    Name {
        /// The host name.
        host: String,
        /// The port.
        port: u16,
    },
    /// A Unix socket.
    Unix(SocketPath),
}

/// A text cannot be parsed as an address.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ListenAddressError {
    /// The text has none of the forms of an address. Contains up to 64 characters of the text.
    #[error(
        "expected HOST:PORT, such as 127.0.0.1:8080, 0.0.0.0:8080, [::1]:8080 or localhost:8080, a \
         port: 8080 (on 127.0.0.1) or :8080 (on all IPv4 addresses), or unix:/PATH, got `{0}`"
    )]
    Malformed(String),
    /// The path of a Unix socket is not usable.
    #[error(transparent)]
    Path(#[from] SocketPathError),
}

impl ListenAddress {
    /// Returns the port, of which 0 stands for any free port. `None` for a Unix socket.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Ip(address) => Some(address.port()),
            Self::Name { port, .. } => Some(*port),
            Self::Unix(_) => None,
        }
    }

    /// Returns the address at which a client on this machine reaches a server that listens on this
    /// address. An unspecified IP address (`0.0.0.0` or `::`) becomes the loopback address of the
    /// same family.
    #[must_use]
    pub fn for_clients(&self) -> Self {
        match self {
            Self::Ip(address) => Self::Ip(reachable(*address)),
            Self::Name { host, port } if is_localhost(host) => {
                Self::Ip((Ipv4Addr::LOCALHOST, *port).into())
            }
            other => other.clone(),
        }
    }
}

/// Returns the IP addresses of the host name `host` to try, in this order. For `localhost` these are 127.0.0.1 and
/// `::1`.
///
/// # Errors
/// If the host name cannot be resolved.
pub fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if is_localhost(host) {
        let loopback: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        return Ok(loopback.map(|ip| SocketAddr::new(ip, port)).into());
    }
    Ok((host, port).to_socket_addrs()?.collect())
}

/// Replaces an unspecified IP address with loopback, because a server can listen on it but a client
/// should not connect to it. For `[::]`, this is the loopback address of IPv4, which every server that listens on `[::]`
/// has: containers often have no IPv6.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        ip if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

impl From<SocketAddr> for ListenAddress {
    fn from(address: SocketAddr) -> Self {
        Self::Ip(address)
    }
}

impl FromStr for ListenAddress {
    type Err = ListenAddressError;

    fn from_str(text: &str) -> Result<Self, ListenAddressError> {
        if let Some(path) = text.strip_prefix(UNIX) {
            return Ok(Self::Unix(path.parse()?));
        }
        parse(text).ok_or_else(|| ListenAddressError::Malformed(text.chars().take(64).collect()))
    }
}

/// Returns the IP address or host name that `text` states, or `None` if `text` is malformed.
fn parse(text: &str) -> Option<ListenAddress> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some(ListenAddress::Ip(address));
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return Some(ListenAddress::Ip(
            (Ipv4Addr::LOCALHOST, number(text)?).into(),
        ));
    };
    let port = number(port)?;
    if host.is_empty() {
        return Some(ListenAddress::Ip((Ipv4Addr::UNSPECIFIED, port).into()));
    }
    let host = host.to_owned();
    is_host_name(&host).then_some(ListenAddress::Name { host, port })
}

/// Returns the port in `text`, without a sign.
fn number(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// Returns whether `text` has the form of a host name. A name whose last label is a number is a
/// mistyped IP address.
fn is_host_name(text: &str) -> bool {
    let valid = |label: &str| {
        !label.is_empty()
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    let last = text.rsplit('.').next().unwrap_or_default();
    text.len() <= 253 && text.split('.').all(valid) && !last.bytes().all(|b| b.is_ascii_digit())
}

fn is_localhost(host: &str) -> bool {
    host.eq_ignore_ascii_case(LOCALHOST)
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{UNIX}{path}"),
        }
    }
}

impl Serialize for ListenAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ListenAddress {
    /// Reads an address from a text, or from an integer, which is a port.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = ListenAddress;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string such as \"127.0.0.1:8080\", or a port")
            }

            fn visit_i64<E: de::Error>(self, port: i64) -> Result<ListenAddress, E> {
                self.visit_str(&port.to_string())
            }

            fn visit_u64<E: de::Error>(self, port: u64) -> Result<ListenAddress, E> {
                self.visit_str(&port.to_string())
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<ListenAddress, E> {
                text.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_a_host_a_port_or_both() {
        let cases = [
            ("127.0.0.1:8080", "127.0.0.1:8080", "127.0.0.1:8080"),
            ("0.0.0.0:80", "0.0.0.0:80", "127.0.0.1:80"),
            ("[::1]:8080", "[::1]:8080", "[::1]:8080"),
            ("[::]:8080", "[::]:8080", "127.0.0.1:8080"),
            ("8080", "127.0.0.1:8080", "127.0.0.1:8080"),
            ("0", "127.0.0.1:0", "127.0.0.1:0"),
            (":8080", "0.0.0.0:8080", "127.0.0.1:8080"),
            ("localhost:8080", "localhost:8080", "127.0.0.1:8080"),
            ("LOCALHOST:1", "LOCALHOST:1", "127.0.0.1:1"),
            (
                "my-host_1.example:8080",
                "my-host_1.example:8080",
                "my-host_1.example:8080",
            ),
            ("unix:/run/a:1", "unix:/run/a:1", "unix:/run/a:1"),
        ];
        for (text, shown, client) in cases {
            let address: ListenAddress = text.parse().unwrap();
            assert_eq!(address.to_string(), shown, "{text}");
            assert_eq!(address.for_clients().to_string(), client, "{text}");
            assert_eq!(shown.parse(), Ok(address), "{text}");
        }
    }

    #[test]
    fn malformed_addresses_are_rejected_with_examples() {
        for text in [
            "",
            ":",
            "localhost",
            "localhost:",
            "localhost:http",
            "127.0.0.1",
            "127.0.0.1:65536",
            "300.0.0.1:80",
            "::1:8080",
            "[::1]",
            "http://localhost:8080",
            "localhost:8080/",
            "a b:80",
            "-1",
            "+80",
            "65536",
            "a..b:80",
            "*:80",
            "unix",
            "/run/a.sock",
        ] {
            let error = text.parse::<ListenAddress>().unwrap_err().to_string();
            assert!(error.contains("such as 127.0.0.1:8080"), "{error}");
            assert!(error.ends_with(&format!("got `{text}`")), "{error}");
        }
    }

    #[test]
    fn localhost_is_loopback_and_ipv4_is_first() {
        let expected = ["127.0.0.1:7", "[::1]:7"].map(|a| a.parse::<SocketAddr>().unwrap());
        assert_eq!(resolve("localhost", 7).unwrap(), expected);
        assert!(resolve("host.invalid", 7).is_err());
    }
}
