//! Finds the encoded images in the body of a request, within the limits on their number.

use std::borrow::Cow;
use std::time::Instant;

use axum::body::Body;
use axum::extract::multipart::MultipartError;
use axum::extract::{DefaultBodyLimit, FromRequest, Multipart, Request};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use axum::http::request::Parts;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::FutureExt;
use serde::Deserialize;

use super::cut;
use super::gunzip::Compression;
use crate::admission::Admission;
use crate::app::App;
use crate::error::ServeError;
use crate::image::DecodeOptions;
use crate::metrics::Stage;
pub(super) use crate::pipeline::INLINE_BYTES;
use crate::pipeline::{Input, check_densities, encoded_images};
use crate::pool::JobCost;

/// Predicted time to find the images in a request body and to read their headers, in nanoseconds
/// per byte of the body. It is the time for JSON, the slowest kind of body, whose base64 is
/// decoded. Progressive JPEG files are read to their end, because their scans are counted.
const SCAN_NANOS_PER_BYTE: u64 = 2;

/// Names that the parts of a multipart body may have, with or without `[]`, which some clients append. Parts of
/// all names are images.
const PART_NAMES: [&str; 4] = ["image", "images", "file", "files"];
/// Maximum number of bytes of a text in a form.
const MAX_TEXT: usize = 256;
/// What a multipart body must hold, for error messages.
const IMAGE_PARTS: &str = "one or more parts named `image` (or `images`, `file`, `files`)";
/// What a JSON body must hold, for error messages.
const JSON_IMAGES: &str = r#"{"images": [{"data": "<base64>"}]}"#;

/// How the images are contained in a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// The body is one image file.
    Raw,
    /// The parts of a `multipart/form-data` body are image files.
    Multipart,
    /// The body is a JSON document with image files in base64.
    Json,
}

/// The names that the parts of a `multipart/form-data` body may have.
#[derive(Debug, Clone, Copy)]
pub(super) struct Form {
    /// Parts that are image files.
    pub(super) images: &'static [&'static str],
    /// Parts that are short texts.
    pub(super) texts: &'static [&'static str],
}

impl Form {
    /// The form of this server's own routes.
    pub(super) const OWN: Self = Self {
        images: &PART_NAMES,
        texts: &[],
    };
}

/// The texts of a form by the names of their parts.
pub(super) type Fields = Vec<(&'static str, String)>;

/// What a request body contains.
#[derive(Debug)]
pub(super) struct Content<I> {
    /// The images, at least one, in their order.
    pub(super) images: Vec<I>,
    /// The texts of a form. Empty for other bodies.
    pub(super) fields: Fields,
}

/// Returns the images in a request body (at least one) in their order, after checking their
/// headers. A body of more than [`INLINE_BYTES`] is scanned on the image pool.
pub(super) async fn read_inputs(
    app: &App,
    admission: &mut Admission,
    format: BodyFormat,
    parts: Parts,
    body: Bytes,
) -> Result<Content<Input>, ServeError> {
    // Before the body is parsed, so that an overloaded server rejects a request for little work.
    admission.reserve_images(1)?;
    let bytes = body.len();
    let started = Instant::now();
    let scan = move || {
        let started = Instant::now();
        let inputs = format.inputs(parts, body);
        (inputs, started.elapsed())
    };
    let (inputs, scanning) = if bytes <= INLINE_BYTES {
        scan()
    } else {
        let cost = JobCost::time(bytes as u64 * SCAN_NANOS_PER_BYTE);
        app.pool.run(cost, scan).await?
    };
    admission.timing[Stage::decode] += scanning;
    // The rest was a wait for a thread.
    admission.timing[Stage::admission] += started.elapsed().saturating_sub(scanning);
    inputs
}

/// How the images in a request body are found and decoded, and the limits on these images.
#[derive(Debug, Clone, Copy)]
pub(super) struct BodyFormat {
    pub(super) framing: Framing,
    pub(super) form: Form,
    pub(super) options: DecodeOptions,
    /// Maximum number of pixels of an image per byte of its file.
    pub(super) max_density: u64,
    pub(super) max_images: usize,
}

impl BodyFormat {
    /// Returns the images in a request body (at least one), after checking their headers and the
    /// number of pixels per byte of their files.
    fn inputs(self, parts: Parts, body: Bytes) -> Result<Content<Input>, ServeError> {
        let Content { images, fields } = self.images(parts, body)?;
        let images = encoded_images(images, self.options)?;
        check_densities(&images, self.max_density)?;
        Ok(Content { images, fields })
    }

    /// Returns the image files in a request body, at least one and at most `max_images`, and the texts of a form.
    fn images(self, parts: Parts, body: Bytes) -> Result<Content<Bytes>, ServeError> {
        let images = |images| Content {
            images,
            fields: Fields::new(),
        };
        let content = match self.framing {
            Framing::Raw if body.is_empty() => images(Vec::new()),
            Framing::Raw => images(vec![body]),
            Framing::Multipart => {
                let request = Request::from_parts(parts, Body::from(body));
                // The whole body is in memory, so the parser never waits for data and one poll
                // completes it.
                let found = multipart_images(request, self.form, self.max_images).now_or_never();
                found.ok_or(ServeError::Internal("the multipart parser waited"))??
            }
            Framing::Json => images(json_images(&body, self.max_images)?),
        };
        if content.images.is_empty() {
            let expected = match self.framing {
                Framing::Raw => "the bytes of an image as the body",
                Framing::Multipart => IMAGE_PARTS,
                Framing::Json => JSON_IMAGES,
            };
            return Err(ServeError::NoImage { expected });
        }
        Ok(content)
    }
}

/// A content encoding, and how a body with it is compressed.
type Coding = (&'static str, Compression);

/// The content encodings of bodies with images. RFC 9110, section 8.4.1.3: `x-gzip` is equivalent to `gzip`.
pub(super) const GZIP: &[Coding] = &[("gzip", Compression::Gzip), ("x-gzip", Compression::Gzip)];
/// The content encodings of messages of the Open Inference Protocol.
pub(super) const GZIP_OR_DEFLATE: &[Coding] = &[
    ("gzip", Compression::Gzip),
    ("x-gzip", Compression::Gzip),
    ("deflate", Compression::Deflate),
];

/// Returns how the body is compressed, by its content encoding, which is one of `accepted`. `None` if it is not
/// compressed.
///
/// # Errors
/// [`ServeError::UnsupportedContentEncoding`] for another encoding, and for a body that is compressed twice.
pub(super) fn encoding(
    headers: &HeaderMap,
    accepted: &[Coding],
) -> Result<Option<Compression>, ServeError> {
    let mut encoding = None;
    for value in headers.get_all(CONTENT_ENCODING) {
        let value = String::from_utf8_lossy(value.as_bytes());
        for coding in value.split(',').map(str::trim) {
            if coding.is_empty() || coding.eq_ignore_ascii_case("identity") {
                continue;
            }
            let mut known = accepted.iter();
            let known = known.find(|(name, _)| coding.eq_ignore_ascii_case(name));
            let Some((_, compression)) = known.filter(|_| encoding.is_none()) else {
                let got = cut(&value);
                return Err(ServeError::UnsupportedContentEncoding { got });
            };
            encoding = Some(*compression);
        }
    }
    Ok(encoding)
}

/// Returns how the images are contained in the body, by its content type. A body without a content
/// type is one image file.
///
/// # Errors
/// [`ServeError::UnsupportedMediaType`] for a content type that is not supported.
pub(super) fn framing(headers: &HeaderMap) -> Result<Framing, ServeError> {
    let Some(value) = headers.get(CONTENT_TYPE) else {
        return Ok(Framing::Raw);
    };
    let text = String::from_utf8_lossy(value.as_bytes());
    let essence = text
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    match essence.as_str() {
        "" | "application/octet-stream" => Ok(Framing::Raw),
        kind if kind.starts_with("image/") => Ok(Framing::Raw),
        "multipart/form-data" => Ok(Framing::Multipart),
        "application/json" => Ok(Framing::Json),
        other => {
            let got = cut(other);
            Err(ServeError::UnsupportedMediaType { got })
        }
    }
}

/// Returns the contents of the parts of a multipart body, which must have names of `form`, with or without `[]` at the
/// end. More than `limit` images are an error.
pub(super) async fn multipart_images(
    mut request: Request,
    form: Form,
    limit: usize,
) -> Result<Content<Bytes>, ServeError> {
    // axum's own limit is disabled: the body is already in memory and within `max_body_bytes`.
    DefaultBodyLimit::disable().apply(&mut request);
    let parts = Multipart::from_request(request, &()).await;
    let mut parts = parts.map_err(|error| broken_form(error.body_text()))?;
    let mut content = Content {
        images: Vec::new(),
        fields: Fields::new(),
    };
    let broken = |error: MultipartError| broken_form(error.body_text());
    while let Some(part) = parts.next_field().await.map_err(broken)? {
        let name = part.name().unwrap_or_default();
        let known = |names: &'static [&'static str]| {
            let name = name.trim_end_matches("[]");
            names.iter().find(|known| **known == name).copied()
        };
        if let Some(name) = known(form.texts) {
            let text = part.bytes().await.map_err(broken)?;
            content.fields.push((name, text_of(name, &text)?));
        } else if known(form.images).is_some() {
            if content.images.len() == limit {
                return Err(ServeError::TooManyImages { limit });
            }
            content.images.push(part.bytes().await.map_err(broken)?);
        } else {
            return Err(unknown_part(name, form));
        }
    }
    Ok(content)
}

/// Returns the text of the part `name` of a form.
fn text_of(name: &str, bytes: &[u8]) -> Result<String, ServeError> {
    let text = (bytes.len() <= MAX_TEXT).then(|| std::str::from_utf8(bytes).ok());
    text.flatten()
        .map(str::to_owned)
        .ok_or_else(|| ServeError::BadBody {
            field: name.to_owned(),
            expected: "a text of at most 256 bytes in UTF-8",
            reason: format!("{} bytes that are no such text", bytes.len()),
        })
}

fn broken_form(reason: String) -> ServeError {
    ServeError::BadBody {
        field: "multipart".to_owned(),
        expected: "a multipart/form-data body with the boundary of its content type",
        reason,
    }
}

fn unknown_part(name: &str, form: Form) -> ServeError {
    let image = form.images.first().copied().unwrap_or_default();
    ServeError::BadBody {
        field: cut(name),
        expected: IMAGE_PARTS,
        reason: format!("unknown part: images go into parts named `{image}`"),
    }
}

#[derive(Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "an object with the field `images`, a list"
)]
struct JsonBody<'a> {
    #[serde(borrow)]
    images: Vec<JsonImage<'a>>,
}

#[derive(Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "an object with the field `data`, an image file in base64"
)]
struct JsonImage<'a> {
    #[serde(borrow)]
    data: Cow<'a, str>,
}

/// Returns the images of a JSON body, decoded from base64. More than `limit` images are an error.
pub(super) fn json_images(body: &[u8], limit: usize) -> Result<Vec<Bytes>, ServeError> {
    let parsed: JsonBody<'_> =
        serde_json::from_slice(body).map_err(|error| ServeError::BadBody {
            field: "body".to_owned(),
            expected: JSON_IMAGES,
            // The message is cut because it may quote a field name of any length.
            reason: error.to_string().chars().take(200).collect(),
        })?;
    if parsed.images.len() > limit {
        return Err(ServeError::TooManyImages { limit });
    }
    let decode = |(index, image): (usize, &JsonImage<'_>)| {
        // Browsers encode files as data URLs, so the prefix of a data URL is removed.
        let text = match image
            .data
            .strip_prefix("data:")
            .and_then(|rest| rest.split_once(";base64,"))
        {
            Some((_, text)) => text,
            None => &image.data,
        };
        // Whitespace is removed: the `base64` command breaks its output into lines, which the
        // decoder does not accept.
        let text: Cow<'_, str> = if text.contains(char::is_whitespace) {
            text.split_whitespace().collect::<String>().into()
        } else {
            text.into()
        };
        STANDARD
            .decode(text.as_bytes())
            .map(Bytes::from)
            .map_err(|error| ServeError::BadBody {
                field: format!("images[{index}].data"),
                expected: "an image file in base64",
                reason: format!("not base64: {error}"),
            })
    };
    parsed.images.iter().enumerate().map(decode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_types() {
        let cases = [
            (None, Some(Framing::Raw)),
            (Some("image/png"), Some(Framing::Raw)),
            (Some("IMAGE/JPEG"), Some(Framing::Raw)),
            (Some("application/octet-stream"), Some(Framing::Raw)),
            (Some("application/json; charset=utf-8"), Some(Framing::Json)),
            (
                Some("multipart/form-data; boundary=x"),
                Some(Framing::Multipart),
            ),
            (Some("application/x-www-form-urlencoded"), None),
            (Some("text/plain"), None),
        ];
        for (kind, expected) in cases {
            let mut headers = HeaderMap::new();
            if let Some(kind) = kind {
                headers.insert(CONTENT_TYPE, kind.parse().unwrap());
            }
            assert_eq!(framing(&headers).ok(), expected, "{kind:?}");
        }
    }

    #[test]
    fn json_bodies() {
        let cases = [
            (r#"{"images":[{"data":"AQI="}]}"#, Ok(1)),
            (
                r#"{"images":[{"data":"data:image/png;base64,AQI="},{"data":""}]}"#,
                Ok(2),
            ),
            (r#"{"images":[{"data":"AQ\nI=\n"}]}"#, Ok(1)),
            (r#"{"images":[]}"#, Ok(0)),
            (r#"{"images":[{"data":"%%"}]}"#, Err("images[0].data")),
            (
                r#"{"images":[{"data":"AQI="},{"data":"A"}]}"#,
                Err("images[1].data"),
            ),
            (r#"{"images":[{"daat":"AQI="}]}"#, Err("body")),
            (r#"{"images":[{"data":7}]}"#, Err("body")),
            ("{", Err("body")),
            ("[]", Err("body")),
        ];
        for (body, expected) in cases {
            let got = json_images(body.as_bytes(), 8).map(|images| images.len());
            let field = got.map_err(|error| match error {
                ServeError::BadBody { field, .. } => field,
                other => panic!("{other}"),
            });
            assert_eq!(field, expected.map_err(str::to_owned), "{body}");
        }
        let many = r#"{"images":[{"data":""},{"data":""}]}"#;
        let error = json_images(many.as_bytes(), 1).unwrap_err();
        assert!(matches!(error, ServeError::TooManyImages { limit: 1 }));
    }
}
