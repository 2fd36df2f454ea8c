//! The layers around the methods: they check that a request is a call, begin it, and convert problems of the layers
//! within to the status of the call.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, Version};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use tokio::time::timeout_at;
use tonic::{Code, Status};

use super::body::Metered;
use super::call::Call;
use super::status::{recorded, status};
use super::timeout::timeout;
use crate::app::App;
use crate::error::ServeError;
use crate::http::keys::Listener;
use crate::http::middleware::{self, RecordedStatus};
use crate::http::problem::Problem;
use crate::http::traces;

/// End of the name of every method whose request or response is a stream. Their time limits concern messages.
const STREAMS: [&str; 4] = [
    "/ModelStreamInfer",
    "/ServerReflectionInfo",
    "/Watch",
    "/{*rest}",
];

/// Wraps `methods`, the routes of all methods, in the layers of a call. The outermost layers are those of HTTP.
pub(super) fn surround(methods: Router<Arc<App>>, app: &Arc<App>) -> Router {
    let methods = methods.layer(from_fn_with_state(Arc::clone(app), begin));
    let methods = middleware::guard(methods, app, Listener::Grpc).layer(from_fn(translate));
    middleware::surround(methods, app).with_state(Arc::clone(app))
}

/// Begins the call of `request` and ends it at its deadline.
async fn begin(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let headers = request.headers();
    if !is_call(headers, request.version()) {
        return Problem::from(ServeError::NotGrpc).into_response();
    }
    let timeout = match timeout(headers) {
        Ok(timeout) => timeout,
        Err(error) => return Problem::from(error).into_response(),
    };
    let call = Call::new(&app, timeout, traces::trace_of(request.extensions()));
    let path = request.extensions().get::<MatchedPath>();
    let streams = path.is_none_or(|path| STREAMS.iter().any(|end| path.as_str().ends_with(end)));
    request.extensions_mut().insert(call.clone());
    let limit = app.limits.max_body_bytes;
    let metered = |body| Body::new(Metered::new(body, call.clone(), limit));
    let work = next.run(request.map(metered));
    let mut response = if streams {
        work.await
    } else {
        let ended = timeout_at(call.deadline.at().into(), work).await;
        ended.unwrap_or_else(|_| {
            let error = call.deadline.passed();
            Problem::from(error).into_response()
        })
    };
    call.finish(response.extensions_mut());
    response
}

/// Returns whether a request with these headers is a call of gRPC.
fn is_call(headers: &HeaderMap, version: Version) -> bool {
    let kind = headers.get(CONTENT_TYPE).map(|kind| kind.as_bytes());
    let kind = kind.and_then(|kind| kind.strip_prefix(b"application/grpc"));
    // The protocols of gRPC-Web have other content types.
    version == Version::HTTP_2
        && kind.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// Converts a problem document to the status of a call, and tells the status to metrics and logs. Requests that are no
/// calls keep their problem documents.
async fn translate(request: Request, next: Next) -> Response {
    let is_call = is_call(request.headers(), request.version());
    let response = next.run(request).await;
    if !is_call {
        return response;
    }
    let problem = response.extensions().get::<Problem>();
    let mut response = match problem {
        Some(problem) if Status::from_header_map(response.headers()).is_none() => {
            let (failed, extensions) = (status(problem), response.extensions().clone());
            let mut response = failed.into_http::<Body>();
            *response.extensions_mut() = extensions;
            response
        }
        _ => response,
    };
    let code = Status::from_header_map(response.headers()).map_or(Code::Ok, |status| status.code());
    let recorded = match response.extensions().get::<Problem>() {
        Some(problem) => problem.status(),
        None => recorded(code),
    };
    response.extensions_mut().insert(RecordedStatus(recorded));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_have_the_content_type_of_grpc_and_http2() {
        let cases = [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc; charset=utf-8", true),
            ("application/grpc-web", false),
            ("application/json", false),
            ("", false),
        ];
        for (kind, expected) in cases {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, kind.parse().unwrap())]);
            assert_eq!(is_call(&headers, Version::HTTP_2), expected, "{kind}");
            assert!(!is_call(&headers, Version::HTTP_11));
        }
        assert!(!is_call(&HeaderMap::new(), Version::HTTP_2));
    }
}
