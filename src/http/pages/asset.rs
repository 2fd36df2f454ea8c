//! The embedded files of the pages, and the responses with them.

use axum::http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG,
    IF_NONE_MATCH, REFERRER_POLICY, VARY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};

/// What a page may load: its own files and nothing else. `blob:` is for images that the user chooses.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
const PERMISSIONS: HeaderName = HeaderName::from_static("permissions-policy");
const OPENER: HeaderName = HeaderName::from_static("cross-origin-opener-policy");

/// A file that is embedded in the binary.
#[derive(Debug)]
pub(super) struct Asset {
    name: &'static str,
    media_type: &'static str,
    /// Hash of the content, in hexadecimal digits.
    tag: &'static str,
    content: &'static [u8],
    /// The content as gzip data. `None` if that is not smaller.
    gzip: Option<&'static [u8]>,
}

include!(concat!(env!("OUT_DIR"), "/web.rs"));

impl Asset {
    /// Returns the embedded file `name`. `None` if there is none.
    pub(super) fn named(name: &str) -> Option<&'static Self> {
        ASSETS.iter().find(|asset| asset.name == name)
    }

    /// Returns all embedded files.
    #[cfg(test)]
    pub(super) fn all() -> &'static [Self] {
        ASSETS
    }

    /// Returns whether the file is an HTML page, which has a route of its own.
    pub(super) fn is_page(&self) -> bool {
        self.media_type.starts_with("text/html")
    }

    /// Returns whether the file is a photograph.
    pub(super) fn is_photograph(&self) -> bool {
        self.media_type == "image/jpeg"
    }

    #[cfg(test)]
    pub(super) fn route(&self) -> String {
        let folder = if self.is_photograph() {
            "samples"
        } else {
            "assets"
        };
        format!("/{folder}/{}", self.name)
    }

    /// Returns the number of bytes that a browser receives.
    #[cfg(test)]
    pub(super) fn sent_bytes(&self) -> usize {
        self.gzip.unwrap_or(self.content).len()
    }

    /// Returns the response with this file to a request with `headers`: 304 if the client has the file, compressed if
    /// the client accepts gzip. A client keeps the file, but asks each time whether it has changed.
    pub(super) fn respond(&self, headers: &HeaderMap) -> Response {
        let gzip = self.gzip.filter(|_| accepts_gzip(headers));
        let suffix = if gzip.is_some() { "-gzip" } else { "" };
        let tag = format!("\"{}{suffix}\"", self.tag);
        let mut response = if has_tag(headers, &tag) {
            StatusCode::NOT_MODIFIED.into_response()
        } else {
            let media_type = [(CONTENT_TYPE, self.media_type)];
            let mut response = (media_type, gzip.unwrap_or(self.content)).into_response();
            if gzip.is_some() {
                let encoding = HeaderValue::from_static("gzip");
                response.headers_mut().insert(CONTENT_ENCODING, encoding);
            }
            response
        };
        let sent = response.headers_mut();
        if let Ok(tag) = HeaderValue::from_str(&tag) {
            sent.insert(ETAG, tag);
        }
        for (name, value) in [
            (CACHE_CONTROL, "no-cache"),
            (VARY, "accept-encoding"),
            (X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (CONTENT_SECURITY_POLICY, POLICY),
            (REFERRER_POLICY, "no-referrer"),
            (PERMISSIONS, "camera=(self), microphone=(), geolocation=()"),
            (OPENER, "same-origin"),
        ] {
            sent.insert(name, HeaderValue::from_static(value));
        }
        response
    }
}

/// Returns whether the client has the content with the entity tag `tag`.
///
/// Source: RFC 9110, section 13.1.2.
fn has_tag(headers: &HeaderMap, tag: &str) -> bool {
    let mut lines = headers.get_all(IF_NONE_MATCH).iter();
    lines.any(|line| {
        let tags = line.to_str().unwrap_or_default().split(',').map(str::trim);
        let mut tags = tags.map(|tag| tag.strip_prefix("W/").unwrap_or(tag));
        tags.any(|known| known == tag || known == "*")
    })
}

/// Returns whether the client accepts gzip. The most specific entry decides.
///
/// Source: RFC 9110, section 12.5.3.
fn accepts_gzip(headers: &HeaderMap) -> bool {
    let mut by_name = [None; 2];
    for line in headers.get_all(ACCEPT_ENCODING) {
        for entry in line.to_str().unwrap_or_default().split(',') {
            let (name, parameters) = entry.split_once(';').unwrap_or((entry, ""));
            let weight = parameters.trim().to_ascii_lowercase();
            let weight = weight.strip_prefix("q=").map(str::parse::<f32>);
            let accepted = !matches!(weight, Some(Ok(weight)) if weight <= 0.0);
            match name.trim() {
                name if name.eq_ignore_ascii_case("gzip") => by_name[0] = Some(accepted),
                "*" => by_name[1] = Some(accepted),
                _ => {}
            }
        }
    }
    by_name[0].or(by_name[1]).unwrap_or_default()
}
