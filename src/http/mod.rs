//! The HTTP interface: this file lists every route, `middleware` what surrounds them all.
//!
//! What is *not* here: tensors. Handlers turn requests into validated values, call `pipeline`,
//! and turn answers into bytes; `problem` alone chooses status codes.

mod accept;
mod classify;
mod detect;
mod extract;
mod health;
mod middleware;
mod models;
mod params;
mod problem;
mod respond;
mod segment;
pub mod server;
mod task;

use std::sync::Arc;

use axum::Router;
use axum::extract::{OriginalUri, State};
use axum::http::Method;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::{get, post};

use crate::app::App;
use crate::error::ServeError;
use crate::manifest::Task;
use problem::Problem;

/// The HTTP contract, as served.
pub const OPENAPI: &str = include_str!("../../openapi.yaml");

/// Every route of the server.
pub fn router(app: Arc<App>) -> Router {
    let routes = Router::new()
        .route("/", get(index))
        .route(
            route_of(Task::Classification),
            post(task::handle::<classify::Classify>),
        )
        .route(
            route_of(Task::Detection),
            post(task::handle::<detect::Detect>),
        )
        .route(
            route_of(Task::Segmentation),
            post(task::handle::<segment::Segment>),
        )
        .route("/v1/models", get(models::list))
        .route("/v1/models/{model}", get(models::show))
        .route("/health/live", get(health::live))
        .route("/health/ready", get(health::ready))
        .route("/metrics", get(metrics))
        .route("/openapi.yaml", get(openapi))
        .fallback(no_route)
        .method_not_allowed_fallback(method_not_allowed);
    middleware::surround(routes, &app).with_state(app)
}

/// Returns the path of the route that serves `task`.
pub fn route_of(task: Task) -> &'static str {
    match task {
        Task::Classification => "/v1/classify",
        Task::Segmentation => "/v1/segment",
        Task::Detection => "/v1/detect",
    }
}

async fn index() -> impl IntoResponse {
    let version = env!("CARGO_PKG_VERSION");
    format!(
        "Sightline {version} serves vision networks.\n\n\
         Classify a picture:\n  curl --data-binary @photo.jpg -H 'content-type: image/jpeg' \
         http://HOST:PORT/v1/classify\n\n\
         Draw the boxes of a detector, or the masks of a segmentation model:\n  \
         curl --data-binary @photo.jpg -H 'content-type: image/jpeg' \
         'http://HOST:PORT/v1/detect?annotate=true' > drawn.png\n  \
         curl --data-binary @photo.jpg -H 'content-type: image/jpeg' \
         'http://HOST:PORT/v1/segment?annotate=true' > drawn.png\n\n\
         See /v1/models, /openapi.yaml, /metrics, /health/ready.\n"
    )
}

async fn metrics(State(app): State<Arc<App>>) -> impl IntoResponse {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(CONTENT_TYPE, kind)], app.metrics.render())
}

async fn openapi() -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/yaml")], OPENAPI)
}

async fn no_route(OriginalUri(uri): OriginalUri) -> Problem {
    ServeError::NoRoute {
        path: uri.path().to_owned(),
    }
    .into()
}

async fn method_not_allowed(method: Method, OriginalUri(uri): OriginalUri) -> Problem {
    let (path, method) = (uri.path().to_owned(), method.to_string());
    ServeError::MethodNotAllowed { path, method }.into()
}
