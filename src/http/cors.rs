//! Cross-origin requests (CORS): lets scripts of web pages with other origins send requests and read the responses.

use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{
    ACCEPT, ACCESS_CONTROL_REQUEST_METHOD, AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, ORIGIN,
    RETRY_AFTER, VARY,
};
use axum::http::{HeaderValue, Method};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use tower::{Layer, ServiceExt};
use tower_http::cors::{AllowOrigin, CorsLayer};

use super::keys::API_KEY;
use super::middleware::{REQUEST_ID, SERVER_TIMING};
use super::traceparent::{TRACEPARENT, TRACESTATE};
use super::v2::HEADER_LENGTH;
use crate::config::{CorsOrigin, CorsOrigins};

/// Time for which a browser may keep the response to a preflight request.
const PREFLIGHT_AGE: Duration = Duration::from_mins(10);

/// Adds CORS to `routes`, or nothing if no origin is allowed. All responses of the routes get the headers, errors
/// included.
pub(super) fn allow<S: Clone + Send + Sync + 'static>(
    routes: Router<S>,
    origins: &CorsOrigins,
) -> Router<S> {
    let origin = match origins {
        CorsOrigins::Off => return routes,
        CorsOrigins::Any => AllowOrigin::any(),
        CorsOrigins::Listed(origins) => AllowOrigin::list(origins.iter().filter_map(header)),
    };
    let layer = CorsLayer::new()
        .allow_origin(origin)
        .allow_methods([Method::GET, Method::HEAD, Method::POST])
        .allow_headers([
            ACCEPT,
            AUTHORIZATION,
            API_KEY,
            CONTENT_ENCODING,
            CONTENT_TYPE,
            REQUEST_ID,
            TRACEPARENT,
            TRACESTATE,
            HEADER_LENGTH,
        ])
        .expose_headers([
            HEADER_LENGTH,
            REQUEST_ID,
            SERVER_TIMING,
            RETRY_AFTER,
            TRACEPARENT,
        ])
        .max_age(PREFLIGHT_AGE);
    routes.layer(from_fn_with_state(layer, apply))
}

/// Returns the value that the header `Origin` has in requests from `origin`. Every checked origin has one.
fn header(origin: &CorsOrigin) -> Option<HeaderValue> {
    HeaderValue::from_str(origin.as_str()).ok()
}

/// Responds to a preflight request, or adds the headers to the response of another request. `CorsLayer` alone would
/// respond with 200 to every request with the method OPTIONS, also to one that no browser sent.
async fn apply(State(layer): State<CorsLayer>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    let preflight =
        headers.contains_key(ORIGIN) && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    if request.method() == Method::OPTIONS && !preflight {
        let mut response = next.run(request).await;
        // A cache must not use this response for a preflight request.
        let vary = HeaderValue::from_static("origin, access-control-request-method");
        response.headers_mut().append(VARY, vary);
        return response;
    }
    match layer.layer(next).oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}
