//! Requires an API key, if keys are configured.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt as _;
use tracing::Span;

use super::body::refuse;
use super::middleware::recorded_status;
use super::pages;
use super::problem::Problem;
use crate::admission::{Watch, pace};
use crate::app::App;
use crate::error::ServeError;
use crate::keys::{Grant, KeyError, KeyFile, KeyName, presented};

/// Name of the header that holds an API key without a scheme.
pub(super) const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
/// Name of the field with the key's name, in the span of a request.
pub(super) const KEY_FIELD: &str = "key";

/// A listener, which decides what its clients may request without a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Listener {
    /// The listener for clients. Only probes and web pages need no key.
    Public,
    /// The listener for operators. Probes, scrapes and web pages need no key, everything that changes the server does.
    Admin,
    /// The listener for gRPC. Only probes need no key.
    Grpc,
}

/// Methods of gRPC that are probes.
const GRPC_PROBES: [&str; 3] = [
    "/grpc.health.v1.Health/Check",
    "/inference.GRPCInferenceService/ServerLive",
    "/inference.GRPCInferenceService/ServerReady",
];

impl Listener {
    /// Returns whether the route `path` needs no key.
    fn exempts(self, path: &str) -> bool {
        match path {
            "/health/live" | "/health/ready" | "/v2/health/live" | "/v2/health/ready" => true,
            "/metrics" => self == Self::Admin,
            path if self == Self::Grpc => GRPC_PROBES.contains(&path),
            path => pages::OPEN.contains(&path),
        }
    }
}

/// Adds the check of API keys to `routes`, the routes of `listener`, unless no keys are configured.
pub(super) fn require(
    routes: Router<Arc<App>>,
    app: &Arc<App>,
    listener: Listener,
) -> Router<Arc<App>> {
    match &app.keys {
        None => routes,
        Some(keys) => {
            let state = Required {
                app: Arc::clone(app),
                keys: Arc::clone(keys),
                listener,
            };
            routes.layer(from_fn_with_state(state, check))
        }
    }
}

#[derive(Clone)]
struct Required {
    app: Arc<App>,
    keys: Arc<KeyFile>,
    listener: Listener,
}

/// Passes a request on if its route needs no key or if its key is valid and within its limits. The key counts as used
/// until there is a response; on a listener for gRPC, whose responses can be streams, until the response has ended.
async fn check(State(required): State<Required>, mut request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>();
    if path.is_some_and(|path| required.listener.exempts(path.as_str())) {
        return next.run(request).await;
    }
    let app = &required.app;
    match authorize(&required.keys, request.headers()) {
        Ok(grant) => {
            record(&grant.name);
            let grant = Arc::new(grant);
            request.extensions_mut().insert(Arc::clone(&grant));
            let response = next.run(request).await;
            count(app, &grant.name, &response);
            match required.listener {
                Listener::Grpc => hold(grant, response),
                Listener::Public | Listener::Admin => response,
            }
        }
        Err(error) => {
            let name = error.name().cloned();
            name.iter().for_each(record);
            let response = reject(&required, error.into(), request).await;
            if let Some(name) = name {
                count(app, &name, &response);
            }
            response
        }
    }
}

/// Returns `response` with a body that keeps `grant` until it has been sent or given up.
fn hold(grant: Arc<Grant>, response: Response) -> Response {
    response.map(|body| {
        Body::new(body.map_frame(move |frame| {
            // The closure owns the grant.
            let _ = &grant;
            frame
        }))
    })
}

/// Returns the permission of a request with these headers.
///
/// # Errors
/// If the request has no valid key, or if its key is over a limit.
pub(crate) fn authorize(keys: &KeyFile, headers: &HeaderMap) -> Result<Grant, KeyError> {
    let values = |name| headers.get_all(name).iter().map(HeaderValue::as_bytes);
    let key = presented(values(AUTHORIZATION), values(API_KEY))?;
    keys.keys().authorize(key)
}

/// Adds the name of the key to the span of the request, and so to all its events in the log.
fn record(name: &KeyName) {
    Span::current().record(KEY_FIELD, name.as_str());
}

fn count(app: &App, name: &KeyName, response: &Response) {
    // Every response of gRPC has the status 200.
    let problem = response.extensions().get::<Problem>();
    let status = problem.map_or_else(|| recorded_status(response), Problem::status);
    app.metrics.key_request(name.as_str(), status.as_u16());
}

/// Returns the response to a request that is rejected with `error`. Nothing of its body is kept.
async fn reject(required: &Required, error: ServeError, request: Request) -> Response {
    let app = &required.app;
    // Counted first: the client may disconnect while the response is delayed.
    Watch::new(&app.metrics).failed(&error);
    pace(app, &error).await;
    // The request of a stream may never end, and HTTP/2 resets streams without losing their responses.
    if required.listener != Listener::Grpc {
        let (parts, mut body) = request.into_parts();
        refuse(&parts.headers, &mut body).await;
    }
    Problem::from(error).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_probes_pages_and_scrapes_of_operators_need_no_key() {
        let listeners = [Listener::Public, Listener::Admin, Listener::Grpc];
        let exempt = |path| listeners.map(|from| from.exempts(path));
        assert_eq!(exempt("/health/live"), [true, true, true]);
        assert_eq!(exempt("/health/ready"), [true, true, true]);
        assert_eq!(exempt("/v2/health/live"), [true, true, true]);
        assert_eq!(exempt("/v2/health/ready"), [true, true, true]);
        assert_eq!(exempt("/metrics"), [false, true, false]);
        for path in GRPC_PROBES {
            assert_eq!(exempt(path), [false, false, true], "{path}");
        }
        for path in pages::OPEN {
            assert_eq!(exempt(path), [true, true, false], "{path}");
        }
        for path in [
            "/openapi.yaml",
            "/v1/models",
            "/v1/models/{model}/load",
            "/grpc.health.v1.Health/Watch",
            "/inference.GRPCInferenceService/ModelInfer",
            "/v2",
            "/v2/models/{model}/infer",
            "/v2/repository/models/{model}/load",
        ] {
            assert_eq!(exempt(path), [false, false, false], "{path}");
        }
    }
}
