//! How often and when a download is tried again.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Months as HTTP dates name them.
const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

/// Limits on the attempts and the waiting of a download.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Number of attempts in a row that may gain less than 64 KiB.
    pub attempts: u32,
    /// Pause before the second attempt; each further one is twice as long, up to `longest_pause`.
    pub first_pause: Duration,
    /// Longest pause. A server that asks for a longer one ends the download.
    pub longest_pause: Duration,
    /// Time to connect, and time without a byte, after which a connection is closed. The rate is measured over this
    /// time, too.
    pub silence: Duration,
    /// Minimum rate in bytes per second, as a mean over the time `silence`.
    pub min_rate: u64,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            attempts: 5,
            first_pause: Duration::from_millis(500),
            longest_pause: Duration::from_mins(2),
            silence: Duration::from_secs(30),
            min_rate: 1000,
        }
    }
}

impl Patience {
    /// Returns the pause after `fruitless` attempts in a row that gained nothing. No pause if it is 0: the connection
    /// was lost in the middle of the file.
    pub(super) fn pause(&self, fruitless: u32) -> Duration {
        let Some(doublings) = fruitless.checked_sub(1) else {
            return Duration::ZERO;
        };
        let factor = 2_u32.saturating_pow(doublings);
        self.first_pause
            .saturating_mul(factor)
            .min(self.longest_pause)
    }
}

/// Returns the time from `now` that a `retry-after` header states: seconds or an HTTP date. `None` if it is malformed.
///
/// Source: RFC 9110, sections 5.6.7 and 10.2.3.
pub(super) fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    if value.bytes().all(|byte| byte.is_ascii_digit()) && !value.is_empty() {
        // More digits than fit stand for a time that is never waited for.
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    let then = UNIX_EPOCH + Duration::from_secs(date(value)?);
    Some(then.duration_since(now).unwrap_or_default())
}

/// Returns the seconds since 1970 of an HTTP date such as `Sun, 06 Nov 1994 08:49:37 GMT`.
fn date(value: &str) -> Option<u64> {
    let rest = value.split_once(", ")?.1.strip_suffix(" GMT")?;
    let fields: Vec<&str> = rest.split([' ', ':']).collect();
    let &[day, month, year, hour, minute, second] = &fields[..] else {
        return None;
    };
    let month = MONTHS.iter().position(|name| *name == month)? as u64;
    let number = |text: &str, max: u64| text.parse().ok().filter(|n: &u64| *n <= max);
    let (day, year) = (number(day, 31)?, number(year, 9999)?);
    let (hour, minute, second) = (number(hour, 23)?, number(minute, 59)?, number(second, 60)?);
    let days = days_since_1970(year, month + 1, day)?;
    Some(((days * 24 + hour) * 60 + minute) * 60 + second)
}

/// Returns the number of days from 1970-01-01 to a date of the Gregorian calendar. `None` before 1970.
fn days_since_1970(year: u64, month: u64, day: u64) -> Option<u64> {
    // The year starts in March, so that the leap day is its last one.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year.checked_sub(1)?, month + 9)
    };
    let leap_days = year / 4 - year / 100 + year / 400;
    let days = year * 365 + leap_days + (month * 153 + 2) / 5 + day.checked_sub(1)?;
    // Days from 0000-03-01 to 1970-01-01.
    days.checked_sub(719_468)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let patience = Patience::default();
        let millis = |n| patience.pause(n).as_millis();
        assert_eq!([0, 1, 2, 3].map(millis), [0, 500, 1000, 2000]);
        assert_eq!([20, u32::MAX].map(millis), [120_000, 120_000]);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let cases = [
            ("0", Some(0)),
            ("120", Some(120)),
            ("99999999999999999999999", Some(u64::MAX)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(77)),
            ("Sun, 06 Nov 1994 08:48:19 GMT", Some(0)),
            ("Mon, 07 Nov 1994 08:48:20 GMT", Some(86_400)),
            ("", None),
            ("-1", None),
            ("1.5", None),
            ("soon", None),
            ("Sun, 06 Nov 1994 25:49:37 GMT", None),
            ("Sun, 06 Nov 1994", None),
            ("Sun, 00 Foo 0000 00:00:00 GMT", None),
        ];
        for (value, expected) in cases {
            let got = retry_after(value, at(784_111_700));
            assert_eq!(got.map(|time| time.as_secs()), expected, "{value}");
        }
        assert_eq!(date("Thu, 29 Feb 2024 00:00:00 GMT"), Some(1_709_164_800));
    }
}
