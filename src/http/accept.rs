//! Content negotiation: chooses the media type of a response by the client's `Accept` header.

use axum::http::HeaderMap;
use axum::http::header::ACCEPT;

use super::cut;
use crate::error::ServeError;

/// Returns the value of the offer that the client's `Accept` header ranks highest. Each offer is a
/// media type, which may have parameters, and a value. A media range covers an offer if no parameter of the
/// range, such as `version`, has another value in the offer; other parameters are ignored. The first offer wins among equally ranked offers, and if there is no
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
    /// Names and values of the parameters, without the weight.
    parameters: Vec<(String, String)>,
    /// Weight (`q`) in thousandths, 0 to 1000.
    quality: u16,
}

impl Range {
    /// Parses a media range. Returns `None` for a malformed range, which is ignored rather than
    /// rejected.
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        let (kind, subtype) = parts.next()?.split_once('/')?;
        let mut range = Self {
            kind: kind.to_ascii_lowercase(),
            subtype: subtype.to_ascii_lowercase(),
            parameters: Vec::new(),
            quality: 1000,
        };
        for (name, value) in parts.filter_map(|part| part.split_once('=')) {
            if name.eq_ignore_ascii_case("q") {
                range.quality = (value.parse::<f32>().ok()?.clamp(0.0, 1.0) * 1000.0) as u16;
                // Names after the weight belonged to extensions of `Accept` and are obsolete.
                break;
            }
            let value = value.trim_matches('"').to_ascii_lowercase();
            range.parameters.push((name.to_ascii_lowercase(), value));
        }
        Some(range)
    }

    /// Returns how specifically the range covers the media type `offer`: 0 for `*/*`, 1 for `kind/*`, 2 for the exact
    /// type, and 1 more for each parameter that is equal. Returns `None` if the range does not cover the type.
    fn precision(&self, offer: &Self) -> Option<usize> {
        let base = match (self.kind.as_str(), self.subtype.as_str()) {
            ("*", "*") => 0,
            (kind, "*") if kind == offer.kind => 1,
            (kind, subtype) if kind == offer.kind && subtype == offer.subtype => 2,
            _ => return None,
        };
        let mut equal = 0;
        for (name, value) in &self.parameters {
            match offer.parameters.iter().find(|(offered, _)| offered == name) {
                Some((_, offered)) if offered == value => equal += 1,
                Some(_) => return None,
                None => {}
            }
        }
        Some(base + equal)
    }
}

/// Returns the weight, in thousandths, of the most specific range that covers the media type.
/// Returns 0 if no range covers it.
fn quality(ranges: &[Range], media_type: &str) -> u16 {
    let Some(offer) = Range::parse(media_type) else {
        return 0;
    };
    let covering = ranges
        .iter()
        .filter_map(|range| Some((range.precision(&offer)?, range.quality)));
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
    fn parameters_select_a_version() {
        const OPEN: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        let offers = [("text/plain; version=0.0.4", 't'), (OPEN, 'o')];
        let cases = [
            ("text/plain;version=0.0.4", Some('t')),
            (
                "text/plain; version=\"0.0.4\"; escaping=underscores",
                Some('t'),
            ),
            (
                "text/plain;version=1.0.0;q=0.9, text/plain;version=0.0.4;q=0.1, application/openmetrics-text;q=0.5",
                Some('o'),
            ),
            (
                "application/openmetrics-text;version=0.0.1,text/plain;q=0.5",
                Some('t'),
            ),
            (
                "application/openmetrics-text;version=1.0.0;q=0, application/openmetrics-text, text/plain;q=0.1",
                Some('t'),
            ),
            (
                "text/*;q=0.2, application/openmetrics-text;version=1.0.0;q=0.3",
                Some('o'),
            ),
            ("text/plain;version=1.0.0", None),
        ];
        for (accept, expected) in cases {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, accept.parse().unwrap());
            assert_eq!(negotiate(&headers, &offers).ok(), expected, "{accept}");
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
