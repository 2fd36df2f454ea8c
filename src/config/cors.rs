//! Origins of web pages whose scripts may send requests (CORS), as settings state them.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

use super::{ConfigError, redacted};

/// The text of the setting that allows all origins.
const ANY: &str = "*";

/// An origin of web pages in the form in which browsers send it, or `*` for all origins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CorsOrigin(String);

/// The origins whose scripts may send requests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum CorsOrigins {
    /// None: responses have no CORS headers.
    #[default]
    Off,
    /// All origins.
    Any,
    /// These origins.
    Listed(Vec<CorsOrigin>),
}

/// A text cannot be the origin of a web page.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "expected an origin as a browser sends it, SCHEME://HOST or SCHEME://HOST:PORT, such as https://app.example.com or \
     http://localhost:3000, or `*` for all origins, got `{got}`: {reason}"
)]
pub struct CorsOriginError {
    /// Up to 64 characters of the text.
    got: String,
    /// What is wrong with it.
    reason: &'static str,
}

impl CorsOrigin {
    /// Returns the origin as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn is_any(&self) -> bool {
        self.0 == ANY
    }
}

impl CorsOrigins {
    /// Combines the values of the setting.
    ///
    /// # Errors
    /// [`ConfigError::Value`] if `*` is not the only one.
    pub(super) fn new(origins: Vec<CorsOrigin>) -> Result<Self, ConfigError> {
        let any = origins.iter().any(CorsOrigin::is_any);
        match origins.len() {
            0 => Ok(Self::Off),
            1 if any => Ok(Self::Any),
            count if any => Err(ConfigError::Value {
                setting: "cors_origin",
                expected: "either `*` or origins".to_owned(),
                got: format!("`*` and {} more", count - 1),
            }),
            _ => Ok(Self::Listed(origins)),
        }
    }
}

impl FromStr for CorsOrigin {
    type Err = CorsOriginError;

    fn from_str(text: &str) -> Result<Self, CorsOriginError> {
        let checked = if text == ANY { Ok(()) } else { check(text) };
        checked.map_err(|reason| CorsOriginError {
            got: redacted(text).chars().take(64).collect(),
            reason,
        })?;
        // Browsers send schemes and hosts in lower case.
        Ok(Self(text.to_ascii_lowercase()))
    }
}

/// Returns what is wrong with `text` as an origin: a browser would never send it.
fn check(text: &str) -> Result<(), &'static str> {
    if text == "null" {
        return Err("`null` would allow every file and every sandboxed page");
    }
    let Some((scheme, host)) = text.split_once("://") else {
        return Err("it has no scheme, such as https://");
    };
    let named = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.');
    if !scheme.starts_with(|c: char| c.is_ascii_alphabetic()) || !scheme.bytes().all(named) {
        return Err("its scheme is malformed");
    }
    if host.contains(['/', '?', '#']) {
        return Err("an origin has no path and no `/` at its end");
    }
    if host.contains('@') {
        return Err("an origin has no user name");
    }
    if host.contains('*') {
        return Err("`*` stands for all origins, not for a part of one: list each origin");
    }
    if !host.is_ascii() {
        return Err(
            "browsers send a host name with other letters in Punycode, such as xn--bcher-kva.example",
        );
    }
    let (host, port) = split_port(host);
    if let Some(port) = port {
        check_port(scheme, port)?;
    }
    if is_host(host) {
        Ok(())
    } else {
        Err("its host is malformed")
    }
}

/// Splits `HOST:PORT` at the colon before the port. An IPv6 address is in brackets.
fn split_port(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (text, None),
    }
}

fn check_port(scheme: &str, port: &str) -> Result<(), &'static str> {
    let digits = port.bytes().all(|b| b.is_ascii_digit()) && !port.starts_with('0');
    let number = port.parse::<u16>().ok().filter(|_| digits);
    match (number, scheme.to_ascii_lowercase().as_str()) {
        (Some(80), "http") | (Some(443), "https") => {
            Err("browsers leave the default port out of an origin: remove it")
        }
        (Some(_), _) => Ok(()),
        (None, _) => Err("its port is not 1 to 65535"),
    }
}

fn is_host(text: &str) -> bool {
    if let Some(address) = text.strip_prefix('[') {
        let address = address.strip_suffix(']');
        return address.is_some_and(|address| address.parse::<Ipv6Addr>().is_ok());
    }
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    !text.is_empty() && text.bytes().all(allowed)
}

impl fmt::Display for CorsOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for CorsOrigin {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for CorsOrigin {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_that_browsers_send() {
        let cases = [
            "*",
            "https://app.example.com",
            "http://localhost:3000",
            "http://127.0.0.1:5173",
            "http://[::1]:8000",
            "https://xn--bcher-kva.example",
            "chrome-extension://abcdefghijklmnop",
            "tauri://localhost",
            "https://example.com:80",
        ];
        for text in cases {
            assert_eq!(text.parse::<CorsOrigin>().unwrap().as_str(), text);
        }
        let upper: CorsOrigin = "HTTPS://App.Example.COM".parse().unwrap();
        assert_eq!(upper.as_str(), "https://app.example.com");
    }

    #[test]
    fn other_origins_are_rejected_with_the_reason() {
        let cases = [
            ("", "no scheme"),
            ("example.com", "no scheme"),
            ("null", "sandboxed"),
            ("https://", "host is malformed"),
            ("https://a b", "host is malformed"),
            ("https://[::1", "host is malformed"),
            ("https://example.com/", "no path"),
            ("https://example.com/app", "no path"),
            ("https://user@example.com", "no user name"),
            ("https://*.example.com", "list each origin"),
            ("https://bücher.example", "Punycode"),
            ("https://example.com:443", "default port"),
            ("http://example.com:80", "default port"),
            ("http://example.com:0", "port is not"),
            ("http://example.com:99999", "port is not"),
            ("http://example.com:", "port is not"),
            ("1http://example.com", "scheme is malformed"),
        ];
        for (text, reason) in cases {
            let error = text.parse::<CorsOrigin>().unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn all_origins_exclude_listed_ones() {
        let origins = |texts: &[&str]| {
            let origins = texts.iter().map(|text| text.parse().unwrap());
            CorsOrigins::new(origins.collect())
        };
        assert_eq!(origins(&[]).unwrap(), CorsOrigins::Off);
        assert_eq!(origins(&["*"]).unwrap(), CorsOrigins::Any);
        let listed = origins(&["http://a", "http://b"]).unwrap();
        assert!(matches!(listed, CorsOrigins::Listed(list) if list.len() == 2));
        assert!(origins(&["*", "http://a"]).is_err());
    }
}
