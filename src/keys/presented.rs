//! The key that a request presents, and the errors of a request whose key is not accepted.

use std::num::NonZeroU32;
use std::time::Duration;

use thiserror::Error;

use super::{KeyName, KeyRate};

/// Maximum length of a presented key in bytes. A longer one is invalid and is not hashed.
pub const MAX_KEY_BYTES: usize = 256;
/// Name of the authentication scheme.
const BEARER: &[u8] = b"bearer";

/// Why a request is rejected because of its API key.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KeyError {
    /// The request presents no key.
    #[error(
        "an API key is required: send the header `Authorization: Bearer KEY` or `X-API-Key: KEY`"
    )]
    Missing,
    /// No key of the file has the hash of the presented key.
    #[error("the API key is not valid: it is mistyped, or it was removed")]
    Invalid,
    /// The request presents two keys.
    #[error(
        "the request has two different API keys: send one, in `Authorization` or in `X-API-Key`"
    )]
    Conflict,
    /// The requests of the key exceed its rate.
    #[error("API key `{name}` exceeds its rate of {rate}: retry in {} ms", .retry_after.as_millis())]
    Rate {
        /// Name of the key.
        name: KeyName,
        /// The rate of the key.
        rate: KeyRate,
        /// Time until the next request is allowed.
        retry_after: Duration,
    },
    /// The key has too many requests in flight.
    #[error(
        "API key `{name}` has {limit} requests in flight, which is its limit: wait for one of them"
    )]
    Concurrency {
        /// Name of the key.
        name: KeyName,
        /// Maximum number of requests in flight.
        limit: NonZeroU32,
    },
}

impl KeyError {
    /// Returns the name of the key, if the presented key is valid.
    pub fn name(&self) -> Option<&KeyName> {
        match self {
            Self::Rate { name, .. } | Self::Concurrency { name, .. } => Some(name),
            Self::Missing | Self::Invalid | Self::Conflict => None,
        }
    }
}

/// Returns the key that a request presents. `authorization` are the values of the header `Authorization`, and
/// `api_key` those of `X-API-Key`, or of metadata of the same names. Values of `Authorization` with another scheme than
/// `Bearer` are ignored: they may be for a proxy.
///
/// # Errors
/// [`KeyError::Missing`] if there is no key, [`KeyError::Conflict`] if there are different ones.
pub fn presented<'a>(
    authorization: impl Iterator<Item = &'a [u8]>,
    api_key: impl Iterator<Item = &'a [u8]>,
) -> Result<&'a [u8], KeyError> {
    let api_key = api_key.map(<[u8]>::trim_ascii);
    let mut keys = authorization.filter_map(bearer).chain(api_key);
    let key = keys.next().ok_or(KeyError::Missing)?;
    if keys.any(|other| other != key) {
        return Err(KeyError::Conflict);
    }
    Ok(key)
}

/// Returns the key in a value of the header `Authorization`. `None` if the value has another scheme than `Bearer`.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let value = value.trim_ascii();
    let (scheme, key) = value.split_at_checked(BEARER.len())?;
    let separate = key.first().is_none_or(u8::is_ascii_whitespace);
    (scheme.eq_ignore_ascii_case(BEARER) && separate).then(|| key.trim_ascii_start())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key<'a>(authorization: &[&'a str], api_key: &[&'a str]) -> Result<&'a str, KeyError> {
        let authorization = authorization.iter().map(|text| text.as_bytes());
        let api_key = api_key.iter().map(|text| text.as_bytes());
        presented(authorization, api_key).map(|key| str::from_utf8(key).unwrap())
    }

    #[test]
    fn either_header_presents_a_key() {
        assert_eq!(key(&["Bearer sl_a"], &[]), Ok("sl_a"));
        assert_eq!(key(&["bEARER   sl_a "], &[]), Ok("sl_a"));
        assert_eq!(key(&[], &[" sl_a"]), Ok("sl_a"));
        assert_eq!(key(&["Bearer sl_a"], &["sl_a"]), Ok("sl_a"));
        assert_eq!(key(&["Basic dTpw"], &["sl_a"]), Ok("sl_a"));
        assert_eq!(key(&["Bearer"], &[]), Ok(""));
    }

    #[test]
    fn no_key_and_two_keys_are_errors() {
        let none: [&[&str]; 4] = [&[], &["Basic dTpw"], &["Bearersl_a"], &["sl_a"]];
        for authorization in none {
            assert_eq!(key(authorization, &[]), Err(KeyError::Missing));
        }
        assert_eq!(key(&["Bearer a"], &["b"]), Err(KeyError::Conflict));
        assert_eq!(key(&["Bearer a", "Bearer b"], &[]), Err(KeyError::Conflict));
        assert_eq!(key(&["Bearer a"], &[""]), Err(KeyError::Conflict));
    }
}
