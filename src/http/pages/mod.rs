//! The web pages: the playground at `/`, the reference at `/docs`, the status page at `/status`, and their files.
//!
//! The sources are in `web/`; `build/web.rs` compresses and embeds them. The pages need no API key and have no data of
//! the server: their scripts send the requests of the API, with the key that the user enters.

mod asset;

#[cfg(test)]
mod tests;

use axum::extract::rejection::PathRejection;
use axum::extract::{OriginalUri, Path, Request};
use axum::http::header::VARY;
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::accept::negotiate;
use super::problem::Problem;
use super::{Route, no_route, origin};
use asset::Asset;

/// Routes that need no API key: a browser cannot send one with the address of a page.
pub(super) const OPEN: [&str; 5] = ["/", "/docs", "/status", ASSET, SAMPLE];

const ASSET: &str = "/assets/{file}";
const SAMPLE: &str = "/samples/{file}";

/// Returns the routes of the pages on the public listener.
pub(super) fn routes() -> [Route; 5] {
    [
        ("/", get(async |request: Request| index(&request))),
        (
            "/docs",
            get(async |headers: HeaderMap| page("docs.html", &headers)),
        ),
        (
            "/status",
            get(async |headers: HeaderMap| page("status.html", &headers)),
        ),
        (ASSET, get(asset)),
        (SAMPLE, get(sample)),
    ]
}

/// Returns the routes of the status page on the admin listener, where the page can load and unload models.
pub(super) fn admin_routes() -> [Route; 2] {
    [
        (
            "/status",
            get(async |headers: HeaderMap| page("status-admin.html", &headers)),
        ),
        (ASSET, get(asset)),
    ]
}

/// `GET /`: the playground for browsers, which prefer HTML, and a short introduction as text for all other clients.
fn index(request: &Request) -> Response {
    let offers = [("text/plain", false), ("text/html", true)];
    let mut response = match negotiate(request.headers(), &offers) {
        Ok(true) => page("playground.html", request.headers()),
        // A client that accepts neither gets the text, too.
        Ok(false) | Err(_) => introduction(&origin(request)).into_response(),
    };
    let vary = HeaderValue::from_static("accept");
    response.headers_mut().append(VARY, vary);
    response
}

fn introduction(origin: &str) -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!(
        "Sightline {version} serves vision networks.\n\n\
         Classify an image:\n  curl -F image=@photo.jpg {origin}/v1/classify\n\n\
         Draw the boxes of a detector or the mask of a segmentation model:\n  \
         curl -F image=@photo.jpg '{origin}/v1/detect?annotate=true' > drawn.png\n  \
         curl -F image=@photo.jpg '{origin}/v1/segment?annotate=true' > drawn.png\n\n\
         In a browser: {origin}/ is the playground, /docs the reference, /status what the server does.\n\
         See {origin}/v1/models, /openapi.yaml, /metrics, /health/ready.\n"
    )
}

/// Returns the embedded page `name`.
fn page(name: &str, headers: &HeaderMap) -> Response {
    match Asset::named(name) {
        Some(page) => page.respond(headers),
        None => Problem::internal(format!("the page {name} is not embedded")).into_response(),
    }
}

/// `GET /assets/{file}`: a style sheet, script or icon of the pages, or the reference as JSON.
async fn asset(file: File, uri: OriginalUri, headers: HeaderMap) -> Response {
    let served = |asset: &&Asset| !asset.is_page() && !asset.is_photograph();
    match named(&file).filter(served) {
        Some(asset) => asset.respond(&headers),
        None => no_route(uri).await.into_response(),
    }
}

/// `GET /samples/{file}`: a sample photograph of the playground.
async fn sample(file: File, uri: OriginalUri, headers: HeaderMap) -> Response {
    match named(&file).filter(|asset| asset.is_photograph()) {
        Some(photograph) => photograph.respond(&headers),
        None => no_route(uri).await.into_response(),
    }
}

/// The name of a file in a path, or an error if it is not percent-encoded UTF-8.
type File = Result<Path<String>, PathRejection>;

/// Returns the embedded file of this name. `None` if there is none.
fn named(file: &File) -> Option<&'static Asset> {
    file.as_ref().ok().and_then(|Path(name)| Asset::named(name))
}
