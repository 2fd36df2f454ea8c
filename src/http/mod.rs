//! The HTTP interface: this file lists every route, and `middleware` adds the layers around the
//! routes.
//!
//! Handlers translate: a request becomes validated values for [`crate::admission`] and
//! [`crate::pipeline`], and results become bytes. What is *not* here: tensors. Only `problem` chooses
//! status codes.

mod accept;
pub mod access;
pub(crate) mod activity;
mod begun;
pub(crate) mod body;
mod classify;
mod compat;
mod connection;
pub mod contract;
mod control;
mod cors;
mod detect;
mod embed;
mod extract;
mod frames;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod gunzip;
mod gzip;
mod health;
mod http2;
mod joined;
pub(crate) mod keys;
pub mod listener;
pub mod metrics;
pub(crate) mod middleware;
mod models;
mod observed;
mod opening;
mod pages;
pub(crate) mod problem;
mod query;
mod replaceable;
mod repoll;
pub(crate) mod respond;
mod segment;
pub mod server;
pub mod stream;
pub(crate) mod task;
mod traceparent;
pub(crate) mod traces;
pub mod unix;
pub(crate) mod upload;
mod v2;
mod wait;
mod windows;
mod zlib;

#[cfg(test)]
mod control_tests;
#[cfg(test)]
mod cors_tests;
#[cfg(test)]
mod grpc_tests;
#[cfg(test)]
mod gzip_tests;
#[cfg(test)]
mod http2_attacks;
#[cfg(test)]
mod http2_tests;
#[cfg(test)]
mod keys_tests;
#[cfg(test)]
mod lazy_tests;
#[cfg(test)]
mod router_tests;
#[cfg(test)]
mod server_tests;
#[cfg(test)]
mod stage_tests;

use std::sync::Arc;

use axum::Router;
use axum::extract::{OriginalUri, Request};
use axum::http::header::{CONTENT_TYPE, HOST};
use axum::http::uri::Authority;
use axum::http::{Extensions, HeaderMap, Method, Uri};
use axum::response::IntoResponse;
use axum::routing::{MethodRouter, get, post};

use crate::app::App;
use crate::config::Compat;
use crate::error::ServeError;
use crate::manifest::Task;
use crate::parameters::cut;
use keys::Listener;
use opening::Scheme;
use problem::Problem;

/// Returns the router of the server, with its middleware.
pub fn router(app: Arc<App>) -> Router {
    compatible_router(app, &[])
}

/// Returns the router of the server, as [`router`] does, with the routes of the servers `compat` in addition.
pub fn compatible_router(app: Arc<App>, compat: &[Compat]) -> Router {
    let mut routes = routes();
    routes.extend(compat::routes(compat));
    with_middleware(routes, app, Listener::Public)
}

/// Returns the router of the admin listener: probes, metrics and the control of models, with the same middleware but
/// without CORS. Routes other than probes and metrics need an API key, if keys are configured; see `Listener`.
pub fn admin_router(app: Arc<App>) -> Router {
    let [live, ready, metrics] = admin_routes();
    let [load, unload] = control_routes();
    let listed = ("/v1/models", get(models::list));
    let shown = ("/v1/models/{model}", get(models::show));
    let mut routes = vec![live, ready, metrics, listed, shown, load, unload];
    routes.extend(pages::admin_routes());
    routes.extend(v2::admin_routes());
    with_middleware(routes, app, Listener::Admin)
}

/// Returns the router of requests that arrive without TLS on a listener with TLS: it rejects all of them, without asking
/// for an API key and without allowing a preflight request of CORS, because a client should not send a key without TLS.
pub fn https_required_router(app: Arc<App>) -> Router {
    let routes = Router::new().fallback(https_required);
    middleware::surround(routes, &app).with_state(app)
}

fn with_middleware(routes: Vec<Route>, app: Arc<App>, listener: Listener) -> Router {
    let add = |router: Router<Arc<App>>, (path, methods)| router.route(path, methods);
    let routes = routes.into_iter().fold(Router::new(), add);
    let routes = routes
        .fallback(no_route)
        .method_not_allowed_fallback(method_not_allowed);
    let routes = middleware::guard(routes, &app, listener);
    middleware::surround(routes, &app).with_state(app)
}

/// A path and the handlers of its methods.
type Route = (&'static str, MethodRouter<Arc<App>>);

/// Paths of the routes that load and unload models.
const CONTROL: [&str; 2] = ["/v1/models/{model}/load", "/v1/models/{model}/unload"];

/// Returns the routes that change the served models, which only the admin listener has.
fn control_routes() -> [Route; 2] {
    let [load, unload] = CONTROL;
    [(load, post(control::load)), (unload, post(control::unload))]
}

/// Returns the routes for probes, which both listeners have.
fn admin_routes() -> [Route; 3] {
    [
        ("/health/live", get(health::live)),
        ("/health/ready", get(health::ready)),
        ("/metrics", get(metrics::page)),
    ]
}

/// Returns every route of the public listener.
fn routes() -> Vec<Route> {
    let [live, ready, metrics] = admin_routes();
    // A client that asks the wrong listener is told so.
    let [load, unload] = CONTROL.map(|path| (path, post(control::elsewhere)));
    let mut routes = vec![
        (
            route_of(Task::Classification),
            post(task::handle::<classify::Classify>),
        ),
        (
            route_of(Task::Detection),
            post(task::handle::<detect::Detect>),
        ),
        (
            route_of(Task::Segmentation),
            post(task::handle::<segment::Segment>),
        ),
        ("/v1/embed", post(task::handle::<embed::Embed>)),
        ("/v1/models", get(models::list)),
        ("/v1/models/{model}", get(models::show)),
        load,
        unload,
        live,
        ready,
        metrics,
        ("/openapi.yaml", get(openapi)),
    ];
    routes.extend(pages::routes());
    routes.extend(v2::routes());
    routes
}

/// Returns the path of the route that serves `task`.
pub fn route_of(task: Task) -> &'static str {
    match task {
        Task::Classification => "/v1/classify",
        Task::Segmentation => "/v1/segment",
        Task::Detection => "/v1/detect",
    }
}

/// Returns the URL of the server, as the client of `request` reaches it.
fn origin(request: &Request) -> String {
    let host = host(request.headers(), request.uri());
    origin_of(request.extensions(), host.unwrap_or("HOST:PORT"))
}

/// Returns the URL of the server at `host`, for the connection of a request with `extensions`.
fn origin_of(extensions: &Extensions, host: &str) -> String {
    let scheme = extensions.get::<Scheme>();
    let scheme = scheme.map_or("http", |scheme| scheme.as_str());
    format!("{scheme}://{host}")
}

/// Returns the host and port of the server, as the client of a request states them.
fn host<'a>(headers: &'a HeaderMap, uri: &'a Uri) -> Option<&'a str> {
    let host = headers.get(HOST);
    let host = host.and_then(|host| host.to_str().ok());
    // HTTP/2 has the host in the URI.
    host.or_else(|| uri.authority().map(Authority::as_str))
}

async fn openapi() -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/yaml")], contract::OPENAPI)
}

async fn https_required(request: Request) -> Problem {
    let (parts, body) = request.into_parts();
    body::refuse(&parts.headers, &mut { body }).await;
    ServeError::HttpsRequired.into()
}

async fn no_route(OriginalUri(uri): OriginalUri) -> Problem {
    let path = cut(uri.path());
    ServeError::NoRoute { path }.into()
}

async fn method_not_allowed(method: Method, OriginalUri(uri): OriginalUri) -> Problem {
    let (path, method) = (cut(uri.path()), cut(method.as_str()));
    let takes_images = Task::ALL.map(route_of).contains(&uri.path());
    let of_model = uri.path().strip_prefix("/v1/models/");
    let controls = of_model.is_some_and(|rest| rest.contains('/'));
    let allowed = match () {
        () if takes_images => "send an image with POST, for example with curl -F image=@photo.jpg",
        () if controls || v2::is_posted(uri.path()) => "use POST",
        () => "use GET",
    };
    let error = ServeError::MethodNotAllowed {
        path,
        method,
        allowed,
    };
    error.into()
}
