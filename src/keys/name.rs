//! Names of API keys.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

/// Maximum length of a name in bytes.
const MAX_NAME: usize = 64;

/// The name of an API key, which logs and metrics show instead of the key: 1 to 64 ASCII letters, digits, `.`, `_`
/// and `-`, beginning with a letter or digit. Clones share the text.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyName(Arc<str>);

/// A text cannot be the name of an API key. Does not contain the text, which may be a key in the wrong place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "expected a name of 1 to {MAX_NAME} letters, digits, `.`, `_` and `-`, beginning with a letter or digit, got {length} \
     bytes of text that is no such name"
)]
pub struct KeyNameError {
    /// Length of the text in bytes.
    pub length: usize,
}

impl KeyName {
    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for KeyName {
    type Err = KeyNameError;

    fn from_str(text: &str) -> Result<Self, KeyNameError> {
        let mut bytes = text.bytes();
        let valid = text.len() <= MAX_NAME
            && bytes.next().is_some_and(|b| b.is_ascii_alphanumeric())
            && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        let length = text.len();
        valid
            .then(|| Self(text.into()))
            .ok_or(KeyNameError { length })
    }
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let longest = "a".repeat(MAX_NAME);
        for name in ["a", "7", "web-shop", "team_a.2026", longest.as_str()] {
            assert_eq!(name.parse::<KeyName>().unwrap().as_str(), name);
        }
        let too_long = "a".repeat(MAX_NAME + 1);
        for text in ["", "-a", ".a", "a b", "a\n", "é", "a=b", too_long.as_str()] {
            let error = text.parse::<KeyName>().unwrap_err();
            assert_eq!(error.length, text.len());
        }
    }
}
