//! URLs of files, and the redirects between them.

use std::fmt;
use std::net::IpAddr;

use onnx_export::text::cut;
use ureq::http::Uri;
use ureq::http::uri::Scheme;

use super::DownloadError;
use crate::config::{SecretUrl, redacted};

/// Maximum number of characters of a URL in an error message.
const MAX_SHOWN: usize = 300;

/// A URL that a file may be requested from: `https`, or `http` where that is allowed.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Address(Uri);

impl Address {
    /// Parses `url`. Allows `http` to the loopback interface, and to other hosts if `plain` is set.
    ///
    /// # Errors
    /// [`DownloadError::Address`] if the URL is malformed or its scheme is not allowed.
    pub(super) fn parse(url: &SecretUrl, plain: bool) -> Result<Self, DownloadError> {
        let fail = |reason| DownloadError::Address {
            url: shown(url.expose()),
            reason,
        };
        let uri: Uri = url
            .expose()
            .parse()
            .map_err(|_| fail("expected https://HOST/PATH"))?;
        check(uri, plain).map(Self).map_err(fail)
    }

    /// Returns the URL of a redirect from this URL to `location`, the value of a `location` header.
    ///
    /// # Errors
    /// [`DownloadError::Redirect`] if the location is malformed, or leads from `https` to `http` or to a scheme that
    /// [`Address::parse`] does not allow.
    pub(super) fn redirect(&self, location: &str, plain: bool) -> Result<Self, DownloadError> {
        let fail = |reason| DownloadError::Redirect {
            from: self.to_string(),
            to: shown(location),
            reason,
        };
        let joined = self.joined(location);
        let uri: Uri = joined
            .parse()
            .map_err(|_| fail("the location is not a URL"))?;
        let uri = check(uri, plain).map_err(fail)?;
        if self.is_secure() && uri.scheme() != Some(&Scheme::HTTPS) {
            return Err(fail("a redirect from https to http is not followed"));
        }
        Ok(Self(uri))
    }

    /// Returns the URL for a request.
    pub(super) fn uri(&self) -> &Uri {
        &self.0
    }

    fn is_secure(&self) -> bool {
        self.0.scheme() == Some(&Scheme::HTTPS)
    }

    /// Resolves the reference `location` against this URL.
    ///
    /// Source: RFC 3986, section 5.2. Dot segments are left to the server, and a fragment is dropped.
    fn joined(&self, location: &str) -> String {
        let location = location.split('#').next().unwrap_or_default();
        let scheme = self.0.scheme_str().unwrap_or_default();
        let authority = self.0.authority().map_or("", |authority| {
            let text = authority.as_str();
            text.rsplit_once('@').map_or(text, |(_, host)| host)
        });
        if has_scheme(location) {
            return location.to_owned();
        }
        if location.starts_with("//") {
            return format!("{scheme}:{location}");
        }
        let origin = format!("{scheme}://{authority}");
        if location.starts_with('/') {
            return origin + location;
        }
        let path = self.0.path();
        let folder = path.rfind('/').map_or("/", |end| &path[..=end]);
        if location.starts_with('?') {
            origin + path + location
        } else {
            origin + folder + location
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shown(&self.0.to_string()))
    }
}

/// Returns `url` as it is shown in messages: cut, and without user name, password and query, which can contain tokens.
fn shown(url: &str) -> String {
    let url = redacted(url);
    let plain = url.split(['?', '#']).next().unwrap_or_default();
    cut(plain, MAX_SHOWN).to_owned()
}

/// Returns whether the reference `location` starts with a scheme.
fn has_scheme(location: &str) -> bool {
    let scheme = location.split_once(':').map(|(scheme, _)| scheme);
    scheme.is_some_and(|scheme| {
        !scheme.is_empty()
            && scheme
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
    })
}

/// Returns `uri` if it has a host and an allowed scheme, else what is wrong with it.
fn check(uri: Uri, plain: bool) -> Result<Uri, &'static str> {
    let Some(host) = uri.host().filter(|host| !host.is_empty()) else {
        return Err("expected https://HOST/PATH");
    };
    match uri.scheme_str() {
        Some("https") => Ok(uri),
        Some("http") if plain || is_loopback(host) => Ok(uri),
        Some("http") => Err(
            "http is not encrypted, and anybody on the way could replace the file; --allow-http allows it",
        ),
        _ => Err("only https is supported"),
    }
}

/// Returns whether `host` is `localhost` or an IP address of the loopback interface.
fn is_loopback(host: &str) -> bool {
    let ip = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || ip.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str, plain: bool) -> Result<Address, DownloadError> {
        Address::parse(&url.to_owned().into(), plain)
    }

    #[test]
    fn http_is_allowed_on_loopback_only_unless_the_user_says_so() {
        for (url, allowed, with_flag) in [
            ("https://a.org/x.pth", true, true),
            ("http://a.org/x.pth", false, true),
            ("http://localhost.a.org/x", false, true),
            ("http://127.0.0.1.a.org/x", false, true),
            ("http://127.0.0.1:8/x", true, true),
            ("http://[::1]/x", true, true),
            ("http://localhost/x", true, true),
            ("ftp://a.org/x", false, false),
            ("file:///etc/passwd", false, false),
            ("a.org/x", false, false),
            ("https://", false, false),
            ("", false, false),
        ] {
            assert_eq!(parse(url, false).is_ok(), allowed, "{url}");
            assert_eq!(parse(url, true).is_ok(), with_flag, "{url}");
        }
    }

    #[test]
    fn redirects_are_resolved_and_never_lose_encryption() {
        let from = parse("https://u:p@a.org:1/models/x.pth?token=t", true).unwrap();
        for (location, expected) in [
            ("https://b.org/y", Some("https://b.org/y")),
            ("//b.org/y", Some("https://b.org/y")),
            ("/y?q#f", Some("https://a.org:1/y?q")),
            ("y", Some("https://a.org:1/models/y")),
            ("?v=2", Some("https://a.org:1/models/x.pth?v=2")),
            ("http://a.org:1/models/x.pth", None),
            ("http://127.0.0.1/y", None),
            ("file:///etc/passwd", None),
            ("javascript:alert(1)", None),
            ("https:///", None),
            ("http://[", None),
        ] {
            let to = from.redirect(location, true).ok();
            assert_eq!(
                to.map(|to| to.0.to_string()).as_deref(),
                expected,
                "{location}"
            );
        }
        let local = parse("http://127.0.0.1/x", false).unwrap();
        assert!(local.redirect("http://a.org/x", false).is_err());
        assert!(local.redirect("https://a.org/x", false).is_ok());
    }

    #[test]
    fn credentials_and_tokens_are_not_shown() {
        let address = parse("https://user:pass@a.org/x?token=t", false).unwrap();
        assert_eq!(address.to_string(), "https://***@a.org/x");
    }
}
