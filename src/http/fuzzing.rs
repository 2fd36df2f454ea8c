//! Functions that parse one part of a request (query, `Accept` header, multipart body, JSON body)
//! from arbitrary bytes. The fuzz targets in `fuzz/` and the tests below call them. Each function
//! returns whether its input is valid, and panics if the parser violates a guarantee.

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue, Uri};
use bytes::Bytes;
use futures_util::FutureExt;

use super::accept::negotiate;
use super::extract::{Form, Framing, framing, json_images, multipart_images};
use super::v2;
use crate::error::ServeError;
use crate::parameters::Params;
use crate::parameters::tasks::{classes, style};

/// Maximum number of images that the parsers accept in one request body.
const MAX_IMAGES: usize = 8;
/// Maximum number of characters of an error message. The client receives the message, so the
/// parsers must not copy unlimited input into it.
const MAX_MESSAGE: usize = 400;
/// Maximum number of bytes of the value of one header field. The server rejects requests with
/// longer heads before it parses their header fields.
const MAX_FIELD: usize = 32 << 10;

/// Parses `text` as the query string of a request, reading one parameter of each kind that the
/// routes have (text, flag, integer, fraction, class names).
///
/// # Panics
/// If a parsed value is out of its range, or if an error does not blame the client or has a message
/// of more than 400 characters.
pub fn read_query(text: &[u8]) -> bool {
    let uri = [b"/v1/detect?".as_slice(), text].concat();
    let Ok(uri) = Uri::try_from(uri) else {
        return false;
    };
    valid(parse_query(&uri))
}

fn parse_query(uri: &Uri) -> Result<(), ServeError> {
    let mut params = Params::parse(uri)?;
    let model = params.take("model")?;
    assert!(model.is_none_or(|model| model.len() <= uri.query().map_or(0, str::len)));
    params.orientation()?;
    params.decode()?;
    let annotate = params.flag("annotate")?;
    style(&mut params, annotate)?;
    let top_k = params.integer("top_k", 1..=100, 5)?;
    assert!((1..=100).contains(&top_k));
    if let Some(threshold) = params.share("score_threshold")? {
        assert!((0.0..=1.0).contains(&threshold), "{threshold}");
    }
    let labels = ["person", "N/A", "traffic light"].map(str::to_owned);
    if let Some(names) = params.take("classes")? {
        let ids = classes(&names, &labels)?;
        assert!(
            !ids.is_empty() && ids.iter().all(|id| matches!(id, 0 | 2)),
            "{ids:?}"
        );
    }
    params.finish(&["model", "orientation", "decode"])
}

/// Chooses the media type of a response by `Accept` header fields; each of the first 16 lines of
/// `text` is the value of one field.
///
/// # Panics
/// If the chosen media type is not among those on offer, or if an error does not blame the client
/// or has a message of more than 400 characters.
pub fn read_accept(text: &[u8]) -> bool {
    let mut headers = HeaderMap::new();
    for line in text.split(|byte| *byte == b'\n').take(16) {
        let Some(value) = field(line) else {
            return false;
        };
        headers.append(ACCEPT, value);
    }
    let offers = [("application/json", 0), ("image/png", 1), ("image/jpeg", 2)];
    let chosen = negotiate(&headers, &offers);
    assert!(!matches!(chosen, Ok(3..)));
    valid(chosen.map(|_| ()))
}

/// Finds the images in a multipart body. The first line of `input` is the value of the header
/// `content-type`, and the remaining lines are the body. Input with the content type of another
/// kind of body counts as valid and is not parsed.
///
/// # Panics
/// If there are more than 8 images, if the images together have more bytes than the body, if the
/// parser waits although the body is in memory, or if an error does not blame the client or has a
/// message of more than 400 characters.
pub fn read_multipart(input: &[u8]) -> bool {
    let line = input.iter().position(|byte| *byte == b'\n');
    let (kind, body) = input.split_at(line.unwrap_or(input.len()));
    let Some(kind) = field(kind) else {
        return false;
    };
    let body = Bytes::copy_from_slice(body.get(1..).unwrap_or_default());
    let headers = HeaderMap::from_iter([(CONTENT_TYPE, kind.clone())]);
    match framing(&headers) {
        Ok(Framing::Multipart) => {}
        Ok(Framing::Raw | Framing::Json) => return true,
        Err(error) => return valid(Err(error)),
    }
    let length = body.len();
    let mut request = Request::new(Body::from(body));
    request.headers_mut().insert(CONTENT_TYPE, kind);
    // The whole body is in memory, so the parser must complete in one poll.
    let images = multipart_images(request, Form::OWN, MAX_IMAGES).now_or_never();
    valid(
        images
            .unwrap_or(Err(ServeError::Internal("a body in memory was awaited")))
            .map(|content| check_images(&content.images, length)),
    )
}

/// Finds the images in a JSON body.
///
/// # Panics
/// If there are more than 8 images, if the images together have more bytes than the body, or if an
/// error does not blame the client or has a message of more than 400 characters.
pub fn read_json(body: &[u8]) -> bool {
    let images = json_images(body, MAX_IMAGES);
    valid(images.map(|images| check_images(&images, body.len())))
}

/// Reads an inference request of the Open Inference Protocol. The first line of `input` is the value of the header
/// `inference-header-content-length`, or empty if there is none; the remaining lines are the body.
///
/// # Panics
/// If the elements of all tensors have more than 4 bytes for each byte of the body, or if an error does not blame the
/// client or has a message of more than 400 characters.
pub fn read_inference(input: &[u8]) -> bool {
    let line = input.iter().position(|byte| *byte == b'\n');
    let (length, body) = input.split_at(line.unwrap_or(input.len()));
    let Some(length) = field(length) else {
        return false;
    };
    let mut headers = HeaderMap::new();
    if !length.is_empty() {
        headers.insert(v2::HEADER_LENGTH, length);
    }
    let body = Bytes::copy_from_slice(body.get(1..).unwrap_or_default());
    let read = v2::read_message(&headers, &body);
    valid(read.map(|bytes| assert!(bytes <= 4 * body.len(), "{bytes} of {}", body.len())))
}

/// Returns `bytes` as the value of a header field. `None` if they are longer than `MAX_FIELD` or
/// not valid in a header; the server rejects requests with either before they are parsed.
fn field(bytes: &[u8]) -> Option<HeaderValue> {
    let fits = bytes.len() <= MAX_FIELD;
    fits.then(|| HeaderValue::from_bytes(bytes).ok()).flatten()
}

/// Panics if there are more than `MAX_IMAGES` images, or if the images together have more bytes
/// than the length `body` of the request body that they come from.
fn check_images(images: &[Bytes], body: usize) {
    assert!(images.len() <= MAX_IMAGES);
    let total: usize = images.iter().map(Bytes::len).sum();
    assert!(total <= body, "{total} bytes from {body}");
}

/// Returns whether `result` is `Ok`. Panics if it is an error that does not blame the client, or
/// whose message has more than `MAX_MESSAGE` characters.
fn valid(result: Result<(), ServeError>) -> bool {
    let Err(error) = result else {
        return true;
    };
    let of_client = matches!(
        error,
        ServeError::BadParameter { .. }
            | ServeError::BadBody { .. }
            | ServeError::UnknownParameter { .. }
            | ServeError::TooManyImages { .. }
            | ServeError::UnsupportedMediaType { .. }
    );
    assert!(of_client, "{error}");
    let message = error.to_string();
    assert!(message.chars().count() <= MAX_MESSAGE, "{message}");
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::fuzz::check;

    #[test]
    fn mutated_queries() {
        check("query", read_query);
    }

    #[test]
    fn mutated_accept_headers() {
        check("accept", read_accept);
    }

    #[test]
    fn mutated_forms() {
        check("multipart", read_multipart);
    }

    #[test]
    fn mutated_inference_requests() {
        check("inference", read_inference);
    }

    #[test]
    fn mutated_json() {
        check("json", read_json);
    }
}
