//! Errors in the form that clients of the Open Inference Protocol read: `{"error": "..."}` as `application/json`.

use axum::body::Body;
use axum::extract::Request;
use axum::http::HeaderValue;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::middleware::Next;
use axum::response::Response;
use tower_http::request_id::RequestId;

use super::super::problem::Problem;
use super::contains;

/// Replaces the body of error responses to requests of the protocol, whatever layer they come from.
pub(in super::super) async fn convert(request: Request, next: Next) -> Response {
    let path = request.uri().path();
    if !contains(path) {
        return next.run(request).await;
    }
    let loads = path.ends_with("/load");
    let id = request.extensions().get::<RequestId>().cloned();
    let mut response = next.run(request).await;
    let Some(problem) = response.extensions().get::<Problem>() else {
        return response;
    };
    let id = id.as_ref().and_then(|id| id.header_value().to_str().ok());
    let body = problem.open_inference(id, loads);
    *response.body_mut() = Body::from(body);
    let headers = response.headers_mut();
    headers.remove(CONTENT_LENGTH);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
