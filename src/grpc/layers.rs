//! The layers around the methods: they check that a request is a call, begin it, and convert problems of the layers
//! within to the status of the call.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderValue, Version};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use open_inference::limits::MAX_SMALL_BYTES;
use tokio::time::timeout_at;
use tonic::{Code, Status};

use super::WITH_TENSORS;
use super::body::{Metered, Shape};
use super::call::Call;
use super::status::{recorded, status};
use super::stream::of_client;
use super::timeout::timeout;
use crate::app::App;
use crate::error::ServeError;
use crate::http::keys::Listener;
use crate::http::middleware::{self, RecordedStatus};
use crate::http::problem::Problem;
use crate::http::traces;
use crate::http::upload::Pausing;

/// End of the path of the method whose client may pause between messages, and which limits these pauses.
const PAUSES: &str = "/ModelStreamInfer";
/// End of the path of the method whose only message has a stream of responses.
const WATCHES: &str = "/Watch";
/// Ends of the paths of the methods whose responses are streams. Their time limits concern messages.
const STREAMS: [&str; 3] = [PAUSES, "/ServerReflectionInfo", WATCHES];

/// Wraps `methods`, the routes of all methods, in the layers of a call. The outermost layers are those of HTTP.
pub(super) fn surround(methods: Router<Arc<App>>, app: &Arc<App>) -> Router {
    let methods = methods.layer(from_fn_with_state(Arc::clone(app), begin));
    let methods = middleware::guard(methods, app, Listener::Grpc).layer(from_fn(translate));
    middleware::surround(methods, app).with_state(Arc::clone(app))
}

/// Wraps `rejecting`, which rejects all requests, in the layers that need no API key.
pub(super) fn surround_rejected(rejecting: Router<Arc<App>>, app: &Arc<App>) -> Router {
    let rejecting = rejecting.layer(from_fn(translate));
    middleware::surround(rejecting, app).with_state(Arc::clone(app))
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
    let path = path.map(MatchedPath::as_str).unwrap_or_default();
    let (streams, pauses) = (
        STREAMS.into_iter().any(|end| path.ends_with(end)),
        path.ends_with(PAUSES),
    );
    let shape = shape(&app, path);
    request.extensions_mut().insert(call.clone());
    let pausing = request.extensions().get::<Pausing>().cloned();
    let pausing = pauses.then(|| pausing.unwrap_or_default());
    let metered = |body| Body::new(Metered::new(body, call.clone(), shape, pausing));
    let work = next.run(request.map(metered));
    // Other calls have their deadlines in the handlers, after their models are loaded.
    let response = if streams || !call.limited {
        work.await
    } else {
        let ended = timeout_at(call.deadline.at().into(), work).await;
        ended.unwrap_or_else(|_| {
            let error = call.deadline.passed();
            Problem::from(error).into_response()
        })
    };
    record(call.finish(response))
}

/// Adds the status that metrics record to a response with which tonic alone has rejected the framing of a message. Others
/// have a problem with their status, or have succeeded so far.
fn record(mut response: Response) -> Response {
    if response.extensions().get::<Problem>().is_none()
        && let Some(ended) = Status::from_header_map(response.headers())
    {
        let status = recorded(of_client(ended).code());
        response.extensions_mut().insert(RecordedStatus(status));
    }
    response
}

/// Returns what the messages of the method `path` may be. Some methods without tensors need no key.
fn shape(app: &App, path: &str) -> Shape {
    let method = path.rsplit('/').next().unwrap_or_default();
    Shape {
        limit: if WITH_TENSORS.contains(&method) {
            app.limits.max_body_bytes
        } else {
            MAX_SMALL_BYTES
        },
        single: path.ends_with(WATCHES) || !STREAMS.into_iter().any(|end| path.ends_with(end)),
    }
}

/// Returns whether a request with these headers is a call of gRPC.
fn is_call(headers: &HeaderMap, version: Version) -> bool {
    let kind = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
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
    let ended = Status::from_header_map(response.headers());
    let (code, replaced) = match (problem, ended) {
        (Some(problem), None) => {
            let status = status(problem);
            (status.code(), Some(status))
        }
        (Some(_), Some(ended)) => (ended.code(), None),
        // Without a problem it is tonic that has rejected the framing of the message.
        (None, Some(ended)) => {
            let ended = of_client(ended);
            (ended.code(), Some(ended))
        }
        (None, None) => (Code::Ok, None),
    };
    let recorded = problem.map_or_else(|| recorded(code), Problem::status);
    let mut response = match replaced {
        None => response,
        Some(status) => {
            let extensions = response.extensions().clone();
            let mut response = status.into_http::<Body>();
            *response.extensions_mut() = extensions;
            response
        }
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
