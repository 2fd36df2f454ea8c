//! The time limit that a client sets for its call, in the metadata `grpc-timeout`.

use std::time::Duration;

use axum::http::HeaderMap;
use onnx_export::text::cut;

use crate::error::ServeError;

/// Name of the metadata.
const NAME: &str = "grpc-timeout";
/// Maximum number of digits of the value.
const MAX_DIGITS: usize = 8;

/// Returns the time limit in `headers`. `None` if the client sets none.
///
/// Source: the definition of `Timeout` in gRPC's protocol over HTTP/2.
///
/// # Errors
/// [`ServeError::BadParameter`] if the value is not 1 to 8 digits and a unit.
pub(super) fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, ServeError> {
    let Some(value) = headers.get(NAME) else {
        return Ok(None);
    };
    let text = String::from_utf8_lossy(value.as_bytes());
    let parsed = parse(&text);
    parsed.map(Some).ok_or_else(|| ServeError::BadParameter {
        field: NAME.to_owned(),
        expected: "1 to 8 digits and a unit of H, M, S, m, u or n".to_owned(),
        got: cut(&text, 64).to_owned(),
    })
}

fn parse(text: &str) -> Option<Duration> {
    let unit = text.chars().last()?;
    let digits = text.strip_suffix(unit)?;
    let valid = (1..=MAX_DIGITS).contains(&digits.len());
    let valid = valid && digits.bytes().all(|byte| byte.is_ascii_digit());
    let amount: u64 = valid.then(|| digits.parse().ok()).flatten()?;
    Some(match unit {
        'H' => Duration::from_secs(amount * 3600),
        'M' => Duration::from_secs(amount * 60),
        'S' => Duration::from_secs(amount),
        'm' => Duration::from_millis(amount),
        'u' => Duration::from_micros(amount),
        'n' => Duration::from_nanos(amount),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_have_digits_and_a_unit() {
        let cases = [
            ("1H", Some(Duration::from_hours(1))),
            ("2M", Some(Duration::from_mins(2))),
            ("15S", Some(Duration::from_secs(15))),
            ("100m", Some(Duration::from_millis(100))),
            ("5u", Some(Duration::from_micros(5))),
            ("99999999n", Some(Duration::from_nanos(99_999_999))),
            ("99999999H", Some(Duration::from_hours(99_999_999))),
            ("", None),
            ("S", None),
            ("5", None),
            ("5s", None),
            ("-5S", None),
            ("+5S", None),
            ("123456789S", None),
            ("5é", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text), expected, "{text}");
        }
        assert_eq!(timeout(&HeaderMap::new()).unwrap(), None);
        let headers = HeaderMap::from_iter([(
            axum::http::HeaderName::from_static(NAME),
            "soon".parse().unwrap(),
        )]);
        let error = timeout(&headers).unwrap_err().to_string();
        assert!(error.starts_with("`grpc-timeout`: expected "), "{error}");
    }
}
