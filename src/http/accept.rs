//! Content negotiation: chooses the media type of a response by the client's `Accept` header.

use axum::http::HeaderMap;
use axum::http::header::ACCEPT;

use super::cut;
use crate::error::ServeError;

/// Returns the value of the offer that the client's `Accept` header ranks highest. Each offer is a
/// media type and a value. The first offer wins among equally ranked offers, and if there is no
/// `Accept` header.
///
/// Source: RFC 9110, section 12.5.1.
///
/// # Errors
/// [`ServeError::BadParameter`] if the client accepts none of the offers.
pub(super) fn negotiate<T: Copy>(
    headers: &HeaderMap,
    offers: &[(&'static str, T)],
) -> Result<T, ServeError> {
    let mut ranges = Vec::new();
    for value in headers.get_all(ACCEPT) {
        let text = String::from_utf8_lossy(value.as_bytes());
        ranges.extend(text.split(',').filter_map(Range::parse));
    }
    if ranges.is_empty() {
        ranges.extend(Range::parse("*/*"));
    }
    let mut best: Option<(u16, T)> = None;
    for (kind, offer) in offers {
        let quality = quality(&ranges, kind);
        if quality > best.map_or(0, |best| best.0) {
            best = Some((quality, *offer));
        }
    }
    let kinds: Vec<&str> = offers.iter().map(|(kind, _)| *kind).collect();
    best.map(|best| best.1)
        .ok_or_else(|| ServeError::BadParameter {
            field: "accept".to_owned(),
            expected: kinds.join(" or "),
            got: asked(&ranges),
        })
}

/// One media range of an `Accept` header, such as `image/*;q=0.5`.
#[derive(Debug, PartialEq, Eq)]
struct Range {
    kind: String,
    subtype: String,
    /// Weight (`q`) in thousandths, 0 to 1000.
    quality: u16,
}

impl Range {
    /// Parses a media range. Returns `None` for a malformed range, which is ignored rather than
    /// rejected.
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        let (kind, subtype) = parts.next()?.split_once('/')?;
        let weight = parts.find_map(|part| {
            let (name, value) = part.split_once('=')?;
            name.eq_ignore_ascii_case("q").then_some(value)
        });
        let quality = match weight {
            None => 1000,
            Some(weight) => (weight.parse::<f32>().ok()?.clamp(0.0, 1.0) * 1000.0) as u16,
        };
        Some(Self {
            kind: kind.to_ascii_lowercase(),
            subtype: subtype.to_ascii_lowercase(),
            quality,
        })
    }

    /// Returns how specifically the range covers `kind`/`subtype`: 0 for `*/*`, 1 for `kind/*`, 2
    /// for the exact type. Returns `None` if the range does not cover this type.
    fn precision(&self, kind: &str, subtype: &str) -> Option<u8> {
        match (self.kind.as_str(), self.subtype.as_str()) {
            ("*", "*") => Some(0),
            (own, "*") if own == kind => Some(1),
            (own, exact) if own == kind && exact == subtype => Some(2),
            _ => None,
        }
    }
}

/// Returns the weight, in thousandths, of the most specific range that covers the media type.
/// Returns 0 if no range covers it.
fn quality(ranges: &[Range], media_type: &str) -> u16 {
    let Some((kind, subtype)) = media_type.split_once('/') else {
        return 0;
    };
    let covering = ranges
        .iter()
        .filter_map(|range| Some((range.precision(kind, subtype)?, range.quality)));
    covering.max().map_or(0, |(_, quality)| quality)
}

/// Returns the media ranges that the client accepts, joined and cut to 64 characters, for an error
/// message.
fn asked(ranges: &[Range]) -> String {
    let names = ranges
        .iter()
        .map(|range| format!("{}/{}", range.kind, range.subtype));
    cut(&names.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_chooses() {
        let cases = [
            (None, Some('j')),
            (Some("*/*"), Some('j')),
            (Some("nonsense"), Some('j')),
            (Some("image/png"), Some('p')),
            (Some("image/*"), Some('p')),
            (Some("IMAGE/PNG;q=0.5, application/json;q=0.4"), Some('p')),
            (Some("image/png;q=0.2, */*;q=0.1"), Some('p')),
            (Some("text/html, */*;q=0.1"), Some('j')),
            (Some("application/json;q=0, */*"), Some('p')),
            (Some("application/json;Q=0.1, image/png;q=0.2"), Some('p')),
            (Some("application/json;q=0.1, image/png;Q=0"), Some('j')),
            (
                Some("application/json; level=1; Q=0.1, */*;q=0.2"),
                Some('p'),
            ),
            (Some("application/json;eq=0, image/png"), Some('j')),
            (Some("text/html"), None),
            (Some("image/png;q=0"), None),
        ];
        let offers = [("application/json", 'j'), ("image/png", 'p')];
        for (accept, expected) in cases {
            let mut headers = HeaderMap::new();
            if let Some(accept) = accept {
                headers.insert(ACCEPT, accept.parse().unwrap());
            }
            assert_eq!(negotiate(&headers, &offers).ok(), expected, "{accept:?}");
        }
    }

    #[test]
    fn an_error_names_both_sides() {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, "text/html".parse().unwrap());
        let error = negotiate(&headers, &[("image/png", ()), ("image/jpeg", ())]).unwrap_err();
        let expected = "`accept`: expected image/png or image/jpeg, got text/html";
        assert_eq!(error.to_string(), expected);
    }
}
