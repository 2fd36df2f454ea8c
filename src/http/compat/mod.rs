//! The contracts of servers that are no longer maintained, so that their clients work unchanged: `DeepStack` (and
//! `CodeProject.AI`, which took over its contract) and `TorchServe`. Off unless `--compat` names them.
//!
//! Their requests pass through the common handler, so they have the limits, keys and metrics of all others.

mod deepstack;
mod torchserve;

use axum::body::Body;
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Serialize;

use super::Route;
use super::problem::Problem;
use crate::config::Compat;

/// Returns the routes of the servers `compat`.
pub(super) fn routes(compat: &[Compat]) -> Vec<Route> {
    let mut routes: Vec<Route> = Vec::new();
    if compat.contains(&Compat::DeepStack) {
        routes.push(("/v1/vision/detection", post(deepstack::detect)));
    }
    if compat.contains(&Compat::TorchServe) {
        let predict = post(torchserve::predict).put(torchserve::predict);
        routes.push(("/predictions/{model}", predict));
        routes.push(("/ping", get(torchserve::ping)));
    }
    routes
}

/// Returns the response for `problem` with `body` instead of a problem document. Its status and headers stay.
fn error(problem: Problem, body: &impl Serialize) -> Response {
    let body = serde_json::to_vec(body).unwrap_or_default();
    let mut response = problem.into_response();
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    *response.body_mut() = Body::from(body);
    response
}
