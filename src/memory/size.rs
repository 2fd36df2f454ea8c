//! Sizes in settings: a number of bytes, or a number with a suffix such as `MiB`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, de};
use thiserror::Error;

/// Suffixes that [`ByteSize`] accepts, and the number of bytes that each suffix stands for.
const SUFFIXES: [(&str, u64); 4] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

/// A number of bytes. A setting states it as a plain number (`536870912`) or with a suffix
/// (`512MiB`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct ByteSize(pub u64);

/// A text cannot be parsed as a number of bytes. Contains up to 64 characters of the text.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("expected a number of bytes, such as 536870912, 512MiB or 2GiB, got `{0}`")]
pub struct ByteSizeError(String);

impl FromStr for ByteSize {
    type Err = ByteSizeError;

    fn from_str(text: &str) -> Result<Self, ByteSizeError> {
        let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
        let suffix = text[digits.len()..].trim_start();
        let unit = match SUFFIXES.iter().find(|(name, _)| *name == suffix) {
            Some((_, unit)) => Some(*unit),
            None => suffix.is_empty().then_some(1),
        };
        let size = || digits.parse::<u64>().ok()?.checked_mul(unit?);
        let error = || ByteSizeError(text.chars().take(64).collect());
        size().map(Self).ok_or_else(error)
    }
}

impl fmt::Display for ByteSize {
    /// Writes a size of at least 1 MiB in MiB, rounded to a whole number, and a smaller size in
    /// bytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MIB: u64 = 1 << 20;
        if self.0 < MIB {
            return write!(f, "{} bytes", self.0);
        }
        write!(f, "{} MiB", (self.0 + MIB / 2) / MIB)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    /// Reads a size from an integer, which is a number of bytes, or from a text that
    /// [`ByteSize::from_str`] parses.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = ByteSize;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of bytes, or a text such as \"512MiB\"")
            }

            fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<ByteSize, E> {
                Ok(ByteSize(bytes))
            }

            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<ByteSize, E> {
                let size = u64::try_from(bytes).map(ByteSize);
                size.map_err(|_| E::invalid_value(de::Unexpected::Signed(bytes), &self))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<ByteSize, E> {
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
    fn sizes() {
        let cases = [
            ("0", Some(0)),
            ("536870912", Some(536_870_912)),
            ("512MiB", Some(512 << 20)),
            ("1 GiB", Some(1 << 30)),
            ("3KiB", Some(3072)),
            ("1TiB", Some(1 << 40)),
            ("", None),
            ("MiB", None),
            ("-1", None),
            ("1.5GiB", None),
            ("1GB", None),
            ("1gib", None),
            ("99999999999GiB", None),
            ("1é", None),
        ];
        for (text, expected) in cases {
            let size = text.parse::<ByteSize>().ok().map(|size| size.0);
            assert_eq!(size, expected, "{text:?}");
        }
        let error = "1GB".parse::<ByteSize>().unwrap_err().to_string();
        assert!(error.ends_with("got `1GB`"), "{error}");
    }

    #[test]
    fn sizes_are_shown_in_whole_mebibytes() {
        let shown = [65_536, 1 << 20, 850_000_000].map(|bytes| ByteSize(bytes).to_string());
        assert_eq!(shown, ["65536 bytes", "1 MiB", "811 MiB"]);
    }
}
