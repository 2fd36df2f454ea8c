//! The HTTP contract as data, for tests and tools that compare `openapi.yaml` with the server.

use super::task::{COMMON_PARAMETERS, TaskRoute};
use super::{classify, detect, route_of, routes, segment};

pub use super::problem::CODES;

/// The OpenAPI document that `GET /openapi.yaml` serves.
pub const OPENAPI: &str = include_str!("../../openapi.yaml");

/// Returns the path of every route, in the syntax of OpenAPI, such as `/v1/models/{model}`.
pub fn paths() -> Vec<&'static str> {
    routes().into_iter().map(|(path, _)| path).collect()
}

/// Returns the path and the names of the query parameters of every route that takes images.
pub fn parameters() -> [(&'static str, Vec<&'static str>); 3] {
    [
        of::<classify::Classify>(),
        of::<detect::Detect>(),
        of::<segment::Segment>(),
    ]
}

/// Returns the path and the names of the query parameters of the route `T`.
fn of<T: TaskRoute>() -> (&'static str, Vec<&'static str>) {
    let parameters = [&COMMON_PARAMETERS, T::PARAMETERS].concat();
    (route_of(T::TASK), parameters)
}
