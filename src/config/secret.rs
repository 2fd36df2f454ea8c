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

/// Returns `text`, in which [`redacted`] has changed each URL. A URL between quotes or backticks ends there, another one
/// at a space, a quote or a backtick.
pub(super) fn redacted_in(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(scheme) = rest.find("://") {
        let (before, url) = rest.split_at(scheme);
        let end = end_of_url(before, url);
        shown.push_str(before);
        shown.push_str(&redacted(&url[..end]));
        rest = &url[end..];
    }
    shown.push_str(rest);
    shown
}

/// Returns the length of the URL whose rest after its scheme is `url`. `before` is the text before, with its scheme.
fn end_of_url(before: &str, url: &str) -> usize {
    let scheme = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
    let quote = before.trim_end_matches(scheme).chars().next_back();
    let mut escaped = false;
    let ends = |c: char| {
        let after_backslash = escaped;
        escaped = c == '\\' && !after_backslash;
        match quote {
            Some('"' | '\'' | '`') => quote == Some(c) && !after_backslash,
            _ => c.is_whitespace() || matches!(c, '"' | '\'' | '`'),
        }
    };
    url.find(ends).unwrap_or(url.len())
}

/// Returns whether `text` is a URL that [`redacted`] has changed.
pub fn is_redacted(text: &str) -> bool {
    text.contains(&format!("{REDACTED}@"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_secrets_of_a_text_are_replaced() {
        let cases = [
            (
                "expected http://HOST:PORT, got `http://u:secret@h:1`: see https://x/y or a@b",
                "expected http://HOST:PORT, got `http://***@h:1`: see https://x/y or a@b",
            ),
            (
                "a = \"http://u:se cret@h\" # b@c",
                "a = \"http://***@h\" # b@c",
            ),
            (
                r#"a = "http://u:s\"cret@h" # b@c"#,
                r#"a = "http://***@h" # b@c"#,
            ),
            (
                "a = ['http://h', 'http://u:secret@h'], b",
                "a = ['http://h', 'http://***@h'], b",
            ),
            ("a = \"http://u:secret@h", "a = \"http://***@h"),
            (
                "http://u:secret@h and https://t@i, j@k",
                "http://***@h and https://***@i, j@k",
            ),
            ("no url, a@b", "no url, a@b"),
            ("http://", "http://"),
        ];
        for (text, expected) in cases {
            assert_eq!(redacted_in(text), expected);
        }
    }

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
