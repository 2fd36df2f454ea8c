//! Durations with a unit, as settings state them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

/// Longest duration: one day.
const MAX_MS: u64 = 86_400_000;

/// A duration of at most one day, in whole milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Delay(u64);

/// A text is not a duration. Contains up to 64 characters of the text.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "expected a duration of at most one day, such as 5s, 500ms or 5000 (milliseconds), got `{0}`"
)]
pub struct DelayError(String);

impl Delay {
    /// Returns the duration.
    #[must_use]
    pub fn duration(self) -> Duration {
        Duration::from_millis(self.0)
    }
}

impl FromStr for Delay {
    type Err = DelayError;

    fn from_str(text: &str) -> Result<Self, DelayError> {
        let (number, factor) = if let Some(number) = text.strip_suffix("ms") {
            (number, 1)
        } else if let Some(number) = text.strip_suffix('s') {
            (number, 1_000)
        } else {
            (text, 1)
        };
        let digits = number.bytes().all(|b| b.is_ascii_digit());
        let number = number.parse::<u64>().ok().filter(|_| digits);
        let milliseconds = number.and_then(|number| number.checked_mul(factor));
        let milliseconds = milliseconds.filter(|milliseconds| *milliseconds <= MAX_MS);
        milliseconds
            .map(Self)
            .ok_or_else(|| DelayError(text.chars().take(64).collect()))
    }
}

impl fmt::Display for Delay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            milliseconds if milliseconds > 0 && milliseconds % 1_000 == 0 => {
                write!(f, "{}s", milliseconds / 1_000)
            }
            milliseconds => write!(f, "{milliseconds}ms"),
        }
    }
}

impl Serialize for Delay {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Delay {
    /// Reads a duration from a text, or from an integer, which is a number of milliseconds.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = Delay;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration such as \"5s\", or a number of milliseconds")
            }

            fn visit_i64<E: de::Error>(self, milliseconds: i64) -> Result<Delay, E> {
                self.visit_str(&milliseconds.to_string())
            }

            fn visit_u64<E: de::Error>(self, milliseconds: u64) -> Result<Delay, E> {
                self.visit_str(&milliseconds.to_string())
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Delay, E> {
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
    fn durations_have_a_unit_or_are_milliseconds() {
        for (text, milliseconds, shown) in [
            ("5s", 5_000, "5s"),
            ("5000", 5_000, "5s"),
            ("500ms", 500, "500ms"),
            ("1500ms", 1_500, "1500ms"),
            ("0", 0, "0ms"),
            ("0s", 0, "0ms"),
            ("86400s", 86_400_000, "86400s"),
        ] {
            let delay: Delay = text.parse().unwrap();
            assert_eq!(delay.duration(), Duration::from_millis(milliseconds));
            assert_eq!(delay.to_string(), shown, "{text}");
            assert_eq!(shown.parse(), Ok(delay));
        }
        for text in [
            "",
            "s",
            "ms",
            "-1",
            "+5s",
            "1.5s",
            "5m",
            "5 s",
            "86401s",
            "99999999999999999999",
        ] {
            let error = text.parse::<Delay>().unwrap_err().to_string();
            assert!(error.ends_with(&format!("got `{text}`")), "{error}");
        }
    }
}
