//! SHA-256 hashes of API keys.

use std::fmt;

use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

/// Length of a hash in bytes.
const BYTES: usize = 32;

/// The SHA-256 hash of an API key. It has no `PartialEq`: hashes are compared in constant time, with `ct_eq`.
#[derive(Clone, Copy)]
pub struct KeyDigest([u8; BYTES]);

impl KeyDigest {
    /// Returns the hash of `key`, the bytes that a client presents.
    pub fn of(key: &[u8]) -> Self {
        Self(Sha256::digest(key).into())
    }

    /// Returns the bytes of the hash, to find equal hashes among those of a file. Not for a hash that a client chose:
    /// the time to compare bytes depends on them.
    pub(super) fn bytes(&self) -> [u8; BYTES] {
        self.0
    }

    /// Parses 64 hexadecimal digits. `None` if `text` is anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.as_bytes();
        if text.len() != 2 * BYTES {
            return None;
        }
        let mut bytes = [0; BYTES];
        for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Some(Self(bytes))
    }
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).map(|digit| digit as u8)
}

impl ConstantTimeEq for KeyDigest {
    fn ct_eq(&self, other: &Self) -> Choice {
        self.0.ct_eq(&other.0)
    }
}

impl fmt::Display for KeyDigest {
    /// Writes the hash as 64 lower-case hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyDigest(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_what_sha256sum_prints() {
        let text = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(KeyDigest::of(b"abc").to_string(), text);
        let parsed = KeyDigest::parse(&text.to_uppercase()).unwrap();
        assert!(bool::from(parsed.ct_eq(&KeyDigest::of(b"abc"))));
        assert!(!bool::from(parsed.ct_eq(&KeyDigest::of(b"abd"))));
        let wrong = [&text[1..], &text.replace('b', "g"), &format!("{text}0"), ""];
        assert!(wrong.iter().all(|text| KeyDigest::parse(text).is_none()));
        // 64 bytes, but not 64 digits.
        assert!(KeyDigest::parse(&"é".repeat(BYTES)).is_none());
    }
}
