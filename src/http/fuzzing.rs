//! Entry points of the fuzz targets for what a request consists of (`fuzz/`), and of the tests with mutated requests
//! below. Each returns whether the input is valid.

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue, Uri};
use bytes::Bytes;
use futures_util::FutureExt;

use super::accept::negotiate;
use super::detect::classes;
use super::extract::{Framing, framing, json_images, multipart_images};
use super::params::Params;
use crate::error::ServeError;

/// Most images of one body.
const MAX_IMAGES: usize = 8;
/// Most characters of an error message, which is sent to the client.
const MAX_MESSAGE: usize = 400;
/// Most bytes of one header field; the server rejects longer heads before they are parsed.
const MAX_FIELD: usize = 32 << 10;

/// Parses `text` as the query of a request, with a parameter of each kind that the routes take.
///
/// # Panics
/// If a parsed value is out of its range, or an error is not the client's or has a long message.
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
    params.flag("annotate")?;
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
    params.finish(&["model", "orientation"])
}

/// Chooses a media type by the `Accept` header; each line of `text` is one field.
///
/// # Panics
/// If the chosen type is not offered, or an error is not the client's or has a long message.
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

/// Finds the images in a multipart body. The first line of `input` is the header `content-type`, the rest is the body.
///
/// # Panics
/// If the images are more or longer than the body allows, the body in memory is awaited, or an error is
/// not the client's or has a long message.
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
    // The body is in memory, so that nothing has to be awaited.
    let images = multipart_images(request, MAX_IMAGES).now_or_never();
    valid(
        images
            .unwrap_or(Err(ServeError::Internal("a body in memory was awaited")))
            .map(|images| check_images(&images, length)),
    )
}

/// Finds the images in a JSON body.
///
/// # Panics
/// If the images are more or longer than the body allows, or an error is not the client's or has a long
/// message.
pub fn read_json(body: &[u8]) -> bool {
    let images = json_images(body, MAX_IMAGES);
    valid(images.map(|images| check_images(&images, body.len())))
}

/// Returns the value of a header field. `None` for bytes that no header can have, which hyper rejects.
fn field(bytes: &[u8]) -> Option<HeaderValue> {
    let fits = bytes.len() <= MAX_FIELD;
    fits.then(|| HeaderValue::from_bytes(bytes).ok()).flatten()
}

/// Checks that the images are not more, and together not longer, than the body allows.
fn check_images(images: &[Bytes], body: usize) {
    assert!(images.len() <= MAX_IMAGES);
    let total: usize = images.iter().map(Bytes::len).sum();
    assert!(total <= body, "{total} bytes from {body}");
}

/// Returns whether `result` is `Ok`, after checking an error: it is the client's, and its message is short.
fn valid(result: Result<(), ServeError>) -> bool {
    let Err(error) = result else {
        return true;
    };
    let of_client = matches!(
        error,
        ServeError::BadParameter { .. }
            | ServeError::BadBody { .. }
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
    use std::panic::catch_unwind;
    use std::path::Path;

    use super::*;
    use crate::testing::mutation::mutated;
    use crate::testing::random::Random;

    /// Mutations of each seed.
    const MUTATIONS: usize = 2_000;

    /// Runs the same code as the fuzz target `name` on its seeds and on mutations of them.
    fn check(name: &str, read: fn(&[u8]) -> bool) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("fuzz/seeds")
            .join(name);
        let mut seeds: Vec<Vec<u8>> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| std::fs::read(entry.unwrap().path()).unwrap())
            .collect();
        seeds.sort();
        let mut random = Random::new(1);
        let (mut accepted, mut total) = (0, 0);
        for seed in &seeds {
            assert!(
                catch_unwind(|| read(seed)).is_ok(),
                "{}",
                seed.escape_ascii()
            );
            for _ in 0..MUTATIONS {
                let other = &seeds[random.below(seeds.len())];
                let input = mutated(seed, other, &mut random);
                let result = catch_unwind(|| read(&input));
                accepted +=
                    usize::from(result.unwrap_or_else(|_| panic!("{}", input.escape_ascii())));
                total += 1;
            }
        }
        // Mutations that all fail early, or change nothing, would test nothing.
        assert!(
            accepted > total / 200 && accepted < total * 49 / 50,
            "{accepted} of {total}"
        );
    }

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
    fn mutated_json() {
        check("json", read_json);
    }
}
