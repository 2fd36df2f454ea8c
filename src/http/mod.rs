//! The HTTP interface: this file lists every route, and `middleware` adds the layers around the
//! routes.
//!
//! Handlers translate: a request becomes validated values for [`crate::admission`] and
//! [`crate::pipeline`], and results become bytes. What is *not* here: tensors. Only `problem` chooses
//! status codes.

mod accept;
pub mod access;
mod activity;
mod classify;
mod connection;
pub mod contract;
mod control;
mod detect;
mod extract;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod health;
pub mod listener;
mod middleware;
mod models;
mod params;
mod problem;
mod replaceable;
mod respond;
mod segment;
pub mod server;
mod task;
mod wait;

#[cfg(test)]
mod control_tests;
#[cfg(test)]
mod lazy_tests;
#[cfg(test)]
mod router_tests;
#[cfg(test)]
mod server_tests;

use std::sync::Arc;

use axum::Router;
use axum::extract::{OriginalUri, State};
use axum::http::header::{CONTENT_TYPE, HOST};
use axum::http::{HeaderMap, Method};
use axum::response::IntoResponse;
use axum::routing::{MethodRouter, get, post};
use onnx_export::text;

use crate::app::App;
use crate::error::ServeError;
use crate::manifest::Task;
use problem::Problem;

/// Returns the router of the server, with its middleware.
pub fn router(app: Arc<App>) -> Router {
    with_middleware(routes(), app)
}

/// Returns the router of the admin listener: probes, metrics and the control of models, with the same middleware.
pub fn admin_router(app: Arc<App>) -> Router {
    let [live, ready, metrics] = admin_routes();
    let [load, unload] = control_routes();
    let listed = ("/v1/models", get(models::list));
    let shown = ("/v1/models/{model}", get(models::show));
    with_middleware([live, ready, metrics, listed, shown, load, unload], app)
}

fn with_middleware<const N: usize>(routes: [Route; N], app: Arc<App>) -> Router {
    let add = |router: Router<Arc<App>>, (path, methods)| router.route(path, methods);
    let routes = routes.into_iter().fold(Router::new(), add);
    let routes = routes
        .fallback(no_route)
        .method_not_allowed_fallback(method_not_allowed);
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
        ("/metrics", get(metrics)),
    ]
}

/// Returns every route of the public listener.
fn routes() -> [Route; 12] {
    let [live, ready, metrics] = admin_routes();
    // A client that asks the wrong listener is told so.
    let [load, unload] = CONTROL.map(|path| (path, post(control::elsewhere)));
    [
        ("/", get(index)),
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
        ("/v1/models", get(models::list)),
        ("/v1/models/{model}", get(models::show)),
        load,
        unload,
        live,
        ready,
        metrics,
        ("/openapi.yaml", get(openapi)),
    ]
}

/// Returns the path of the route that serves `task`.
pub fn route_of(task: Task) -> &'static str {
    match task {
        Task::Classification => "/v1/classify",
        Task::Segmentation => "/v1/segment",
        Task::Detection => "/v1/detect",
    }
}

async fn index(headers: HeaderMap) -> impl IntoResponse {
    let version = env!("CARGO_PKG_VERSION");
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let origin = format!("http://{}", host.unwrap_or("HOST:PORT"));
    format!(
        "Sightline {version} serves vision networks.\n\n\
         Classify an image:\n  curl -F image=@photo.jpg {origin}/v1/classify\n\n\
         Draw the boxes of a detector or the mask of a segmentation model:\n  \
         curl -F image=@photo.jpg '{origin}/v1/detect?annotate=true' > drawn.png\n  \
         curl -F image=@photo.jpg '{origin}/v1/segment?annotate=true' > drawn.png\n\n\
         See {origin}/v1/models, /openapi.yaml, /metrics, /health/ready.\n"
    )
}

/// Renders the metrics on a thread of their own, neither on one that serves sockets nor on the image pool, which may
/// be busy for seconds.
async fn metrics(State(app): State<Arc<App>>) -> Result<impl IntoResponse, Problem> {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let page = tokio::task::spawn_blocking(move || app.metrics.render()).await;
    let page =
        page.map_err(|error| Problem::internal(format!("cannot render metrics: {error}")))?;
    Ok(([(CONTENT_TYPE, kind)], page))
}

async fn openapi() -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/yaml")], contract::OPENAPI)
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
        () if controls => "use POST",
        () => "use GET",
    };
    let error = ServeError::MethodNotAllowed {
        path,
        method,
        allowed,
    };
    error.into()
}

/// Returns the first 64 characters of a text from a client, for an error message.
fn cut(text: &str) -> String {
    text::cut(text, 64).to_owned()
}
