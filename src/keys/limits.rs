//! Limits of an API key, as a line of the key file states them.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use governor::Quota;
use onnx_export::text::cut;

use super::error::KeyLineError;
use crate::nearest::nearest;

/// Maximum value of each limit.
const MOST: u32 = 1_000_000;
/// Names of the limits.
const NAMES: [&str; 3] = ["rate", "burst", "concurrency"];

/// The limits of one API key. The default is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KeyLimits {
    /// Limit on the rate of requests. `None` if the rate is not limited.
    pub rate: Option<KeyRate>,
    /// Maximum number of requests in flight. `None` if it is not limited.
    pub concurrency: Option<NonZeroU32>,
}

/// A limit on the rate of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyRate {
    requests: NonZeroU32,
    unit: Unit,
    /// Number of requests that are allowed at once after a time without requests.
    burst: NonZeroU32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Second,
    Minute,
    Hour,
}

impl Unit {
    fn symbol(self) -> &'static str {
        match self {
            Self::Second => "s",
            Self::Minute => "m",
            Self::Hour => "h",
        }
    }
}

impl KeyRate {
    /// Returns the rate in the form that the crate `governor` takes.
    pub(super) fn quota(self) -> Quota {
        let quota = match self.unit {
            Unit::Second => Quota::per_second(self.requests),
            Unit::Minute => Quota::per_minute(self.requests),
            Unit::Hour => Quota::per_hour(self.requests),
        };
        quota.allow_burst(self.burst)
    }

    fn with_burst(self, burst: NonZeroU32) -> Self {
        Self { burst, ..self }
    }
}

impl FromStr for KeyRate {
    type Err = ();

    /// Parses a rate such as `50/s`, `600/m` or `1000/h`. The burst is what the rate allows in one second, at least one
    /// request.
    fn from_str(text: &str) -> Result<Self, ()> {
        let (requests, unit) = text.split_once('/').ok_or(())?;
        let requests = count(requests).ok_or(())?;
        let (unit, seconds) = match unit {
            "s" => (Unit::Second, 1),
            "m" => (Unit::Minute, 60),
            "h" => (Unit::Hour, 3600),
            _ => return Err(()),
        };
        let burst = NonZeroU32::new(requests.get() / seconds).unwrap_or(NonZeroU32::MIN);
        Ok(Self {
            requests,
            unit,
            burst,
        })
    }
}

impl fmt::Display for KeyRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.requests, self.unit.symbol())
    }
}

/// Returns the whole number in `text`, 1 to [`MOST`], without a sign.
fn count(text: &str) -> Option<NonZeroU32> {
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let count: NonZeroU32 = text.parse().ok()?;
    (count.get() <= MOST).then_some(count)
}

/// Parses the limits of a line, such as `rate=50/s burst=100 concurrency=8`, each at most once and in any order.
///
/// # Errors
/// [`KeyLineError`] for the first field that is not a limit, and for a burst without a rate.
pub(super) fn parse<'a>(fields: impl Iterator<Item = &'a str>) -> Result<KeyLimits, KeyLineError> {
    let mut limits = KeyLimits::default();
    let mut burst = None;
    for field in fields {
        let (name, value) = field.split_once('=').ok_or(KeyLineError::Fields)?;
        match name {
            "rate" => set(&mut limits.rate, "rate", value.parse().ok())?,
            "burst" => set(&mut burst, "burst", count(value))?,
            "concurrency" => set(&mut limits.concurrency, "concurrency", count(value))?,
            _ => {
                let nearest = nearest(cut(name, 64), NAMES);
                return Err(KeyLineError::UnknownLimit { nearest });
            }
        }
    }
    match (&mut limits.rate, burst) {
        (_, None) => {}
        (Some(rate), Some(burst)) => *rate = rate.with_burst(burst),
        (None, Some(_)) => return Err(KeyLineError::BurstWithoutRate),
    }
    Ok(limits)
}

/// Sets a limit to `value`, which is `None` if the text of the limit is invalid.
fn set<T>(limit: &mut Option<T>, name: &'static str, value: Option<T>) -> Result<(), KeyLineError> {
    if limit.is_some() {
        return Err(KeyLineError::LimitTwice { name });
    }
    *limit = Some(value.ok_or(KeyLineError::Limit { name })?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn limits(text: &str) -> Result<KeyLimits, KeyLineError> {
        parse(text.split_whitespace())
    }

    #[test]
    fn limits_of_a_line() {
        assert_eq!(limits("").unwrap(), KeyLimits::default());
        let all = limits("concurrency=8 burst=100 rate=50/s").unwrap();
        assert_eq!(all.concurrency.unwrap().get(), 8);
        let rate = all.rate.unwrap();
        assert_eq!((rate.to_string().as_str(), rate.burst.get()), ("50/s", 100));
        let interval = rate.quota().replenish_interval();
        assert_eq!(interval, Duration::from_millis(20));
        let bursts = ["7/s", "600/m", "30/m", "3600/h"].map(|rate| {
            let rate: KeyRate = rate.parse().unwrap();
            rate.burst.get()
        });
        assert_eq!(bursts, [7, 10, 1, 1]);
    }

    #[test]
    fn wrong_limits_are_named() {
        let cases = [
            ("rate=0/s", "`rate`"),
            ("rate=50", "`rate`"),
            ("rate=50/d", "`rate`"),
            ("rate=+5/s", "`rate`"),
            ("rate=1000001/s", "`rate`"),
            ("concurrency=0", "`concurrency`"),
            ("concurrency=-1", "`concurrency`"),
            ("rate=1/s burst=", "`burst`"),
            ("burst=5", "`burst` needs"),
            ("rate=1/s rate=2/s", "`rate` twice"),
            ("ratte=1/s", "did you mean `rate`"),
            ("sl_secret=1", "expected `rate"),
            ("secret", "expected `NAME SHA256`"),
        ];
        for (text, message) in cases {
            let error = limits(text).unwrap_err().to_string();
            assert!(error.contains(message), "{text}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
