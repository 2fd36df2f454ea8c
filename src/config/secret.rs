//! Values that are never printed.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize, Serializer};

/// What is printed instead of a secret.
const REDACTED: &str = "***";

/// A URL that can contain a user name and a password or a token (`https://user:password@host/`).
///
/// `Display`, `Debug` and `Serialize` replace this part by `***`, so that logs, errors and
/// `--print-config` do not reveal it. Only [`SecretUrl::expose`] returns the whole URL.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub struct SecretUrl(String);

impl SecretUrl {
    /// Returns the whole URL, for a connection. It must not be printed.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Returns whether the URL contains a user name or a password.
    pub fn has_credentials(&self) -> bool {
        matches!(redacted(&self.0), Cow::Owned(_))
    }
}

impl From<String> for SecretUrl {
    fn from(url: String) -> Self {
        Self(url)
    }
}

impl FromStr for SecretUrl {
    type Err = std::convert::Infallible;

    fn from_str(url: &str) -> Result<Self, Self::Err> {
        Ok(Self(url.to_owned()))
    }
}

impl fmt::Display for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&redacted(&self.0))
    }
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", redacted(&self.0))
    }
}

impl Serialize for SecretUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&redacted(&self.0))
    }
}

/// Returns `url`, with `***` instead of a user name and password before the host. A text with an `@`
/// that is no URL loses everything before the last one.
pub fn redacted(url: &str) -> Cow<'_, str> {
    let (scheme, rest) = match url.find("://") {
        Some(at) => url.split_at(at + "://".len()),
        None => ("", url),
    };
    // A password may contain `/`, `?` and `#` by mistake, so an `@` after them counts, too.
    match rest.rsplit_once('@') {
        Some((secret, host)) if !secret.is_empty() => {
            Cow::Owned(format!("{scheme}{REDACTED}@{host}"))
        }
        _ => Cow::Borrowed(url),
    }
}

/// Returns whether `text` is a URL that [`redacted`] has changed.
pub fn is_redacted(text: &str) -> bool {
    text.contains(&format!("{REDACTED}@"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_and_the_password_of_a_url_are_not_printed() {
        let cases = [
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
            ("https://user:pass@host:1/p?q", "https://***@host:1/p?q"),
            ("https://token@host", "https://***@host"),
            ("https://a:b@c:d@host", "https://***@host"),
            ("https://user:pa/ss@host/", "https://***@host/"),
            ("https://user:p?a#ss@host/", "https://***@host/"),
            ("user:pass@host", "***@host"),
            ("http://[::1]:80", "http://[::1]:80"),
            ("", ""),
            ("@", "@"),
        ];
        for (url, expected) in cases {
            let secret = SecretUrl::from(url.to_owned());
            assert_eq!(secret.to_string(), expected);
            assert_eq!(format!("{secret:?}"), format!("{expected:?}"));
            assert_eq!(serde_json::to_value(&secret).unwrap(), expected);
            assert_eq!(secret.has_credentials(), url != expected, "{url}");
            assert_eq!(secret.expose(), url);
        }
    }
}
