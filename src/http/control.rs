//! The control of models by an operator: `POST /v1/models/{model}/load` and `/unload`, on the admin
//! listener only.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequestParts, OriginalUri, Path, State};
use axum::http::header::ORIGIN;
use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{HeaderName, HeaderValue};
use axum::response::Response;

use super::models::{decoded, described};
use super::problem::Problem;
use super::{cut, host, origin_of};
use crate::app::App;
use crate::error::ServeError;

/// Header in which browsers state which site a request comes from.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// A request that no script or form of a foreign web page sent. Browsers let every page send a POST without a body to any
/// address that they reach, which includes the loopback addresses of an operator's machine. The server's own status page
/// may send it, from an address that no foreign page can have.
pub(super) struct NotFromPage;

impl<S: Sync> FromRequestParts<S> for NotFromPage {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        match header_of_page(parts) {
            None => Ok(Self),
            Some(header) => Err(ServeError::CrossOrigin { header }.into()),
        }
    }
}

/// Returns the header by which a browser tells that a foreign page sent the request. `None` if there is none.
fn header_of_page(parts: &Parts) -> Option<&'static str> {
    let mut sites = parts.headers.get_all(SEC_FETCH_SITE).iter();
    let mut origins = parts.headers.get_all(ORIGIN).iter();
    match () {
        () if origins.any(|origin| !is_own_page(parts, origin)) => Some("origin"),
        () if sites.any(|site| site != "same-origin" && site != "none") => Some("sec-fetch-site"),
        () => None,
    }
}

/// Returns whether `origin` is this server, reached by an IP address or as `localhost`. The owner of any other name can
/// let it resolve to the address of this server, after a browser has loaded a page of theirs (DNS rebinding).
fn is_own_page(parts: &Parts, origin: &HeaderValue) -> bool {
    let Some(host) = host(&parts.headers, &parts.uri) else {
        return false;
    };
    let is_fixed = host.parse::<Authority>().is_ok_and(|authority| {
        let name = authority.host();
        let address = name.trim_start_matches('[').trim_end_matches(']');
        address.parse::<IpAddr>().is_ok() || name.eq_ignore_ascii_case("localhost")
    });
    is_fixed && origin.as_bytes() == origin_of(&parts.extensions, host).as_bytes()
}

/// `POST /v1/models/{model}/load`: loads a model from its files, also if it is loaded already, and
/// returns its description when it is warm. The old instance serves until then. The operation
/// continues if the client leaves.
pub(super) async fn load(
    _: NotFromPage,
    State(app): State<Arc<App>>,
    OriginalUri(uri): OriginalUri,
    name: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    let registry = app.registry()?;
    let entry = registry.reload(&decoded(name, &uri)?).await?;
    Ok(described(&registry.snapshot(), &entry))
}

/// `POST /v1/models/{model}/unload`: unloads a model and returns its description. Requests that are
/// in its queue are finished.
pub(super) async fn unload(
    _: NotFromPage,
    State(app): State<Arc<App>>,
    OriginalUri(uri): OriginalUri,
    name: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    let registry = app.registry()?;
    let entry = registry.unload(&decoded(name, &uri)?).await?;
    Ok(described(&registry.snapshot(), &entry))
}

/// The control of models on the public listener: an error that names the admin listener.
pub(super) async fn elsewhere(OriginalUri(uri): OriginalUri) -> Problem {
    let path = cut(uri.path());
    ServeError::ControlElsewhere { path }.into()
}
