//! The layers around every route: sensitive headers, request ids, a span per request, metrics and
//! `Server-Timing`, and a response to panics.

use std::any::Any;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{AUTHORIZATION, CONNECTION, COOKIE, PROXY_AUTHORIZATION};
use axum::http::{Extensions, HeaderName, HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use tower::ServiceBuilder;
use tower::util::MapRequestLayer;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::request_id::{
    MakeRequestUuid, PropagateRequestIdLayer, RequestId, SetRequestIdLayer,
};
use tower_http::sensitive_headers::SetSensitiveRequestHeadersLayer;
use tower_http::trace::TraceLayer;
use tracing::{Span, field};

use super::access::Pending;
use super::keys::{API_KEY, Listener};
use super::problem::Problem;
use super::respond::Served;
use super::traces::{self, NO_ROUTE, Traced};
use super::{cors, keys, v2};
use crate::app::App;
use crate::metrics::{ModelLabel, Stage};
use crate::pipeline::Timing;

pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub(super) const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
/// Maximum length of a client's request id in bytes; a longer one is replaced.
const MAX_REQUEST_ID: usize = 128;

/// Wraps `routes`, the routes of `listener`, in the layers for their access: API keys, and CORS headers on all responses,
/// of panics and of requests without a key, too.
pub(crate) fn guard(
    routes: Router<Arc<App>>,
    app: &Arc<App>,
    listener: Listener,
) -> Router<Arc<App>> {
    let routes = keys::require(routes, app, listener).layer(CatchPanicLayer::custom(panicked));
    match listener {
        Listener::Public => cors::allow(routes, &app.cors),
        Listener::Admin | Listener::Grpc => routes,
    }
}

/// Wraps `routes` in the layers that all routes need. The code lists the outermost layer first.
pub(crate) fn surround(routes: Router<Arc<App>>, app: &Arc<App>) -> Router<Arc<App>> {
    let begin_trace = {
        let app = Arc::clone(app);
        move |request| traces::begin(&app, request)
    };
    let span = TraceLayer::new_for_http()
        .make_span_with(request_span)
        .on_request(())
        .on_response(())
        .on_body_chunk(())
        .on_eos(())
        .on_failure(());
    routes.layer(
        ServiceBuilder::new()
            .layer(SetSensitiveRequestHeadersLayer::new([
                AUTHORIZATION,
                COOKIE,
                PROXY_AUTHORIZATION,
                API_KEY,
            ]))
            .layer(MapRequestLayer::new(drop_unusable_id))
            .layer(SetRequestIdLayer::new(REQUEST_ID, MakeRequestUuid))
            .layer(PropagateRequestIdLayer::new(REQUEST_ID))
            .layer(MapRequestLayer::new(begin_trace))
            .layer(span)
            .layer(from_fn_with_state(Arc::clone(app), observe))
            .layer(from_fn(v2::errors::convert)),
    )
}

/// The status that metrics and logs record for a response, if it is another than that of the response: every response of
/// gRPC has the status 200.
#[derive(Clone, Copy)]
pub(crate) struct RecordedStatus(pub(crate) StatusCode);

/// Returns the status that metrics and logs record for `response`.
pub(super) fn recorded_status(response: &Response) -> StatusCode {
    let recorded = response.extensions().get::<RecordedStatus>();
    recorded.map_or_else(|| response.status(), |recorded| recorded.0)
}

/// Removes a client's request id unless it is short and printable; the next layer sets a new one.
fn drop_unusable_id(mut request: Request) -> Request {
    let usable = |value: &HeaderValue| {
        let bytes = value.as_bytes();
        (1..=MAX_REQUEST_ID).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
    };
    if !request.headers().get(&REQUEST_ID).is_none_or(usable) {
        request.headers_mut().remove(&REQUEST_ID);
    }
    request
}

/// Returns the tracing span of one request, to which all log lines about the request belong. It includes the work for
/// this request on the image pool and in a worker.
fn request_span(request: &axum::http::Request<Body>) -> Span {
    let extensions = request.extensions();
    let id = extensions.get::<RequestId>();
    let id = id.and_then(|id| id.header_value().to_str().ok());
    // At level `error`, so that every event about a request has its id, whatever the filter of the log.
    tracing::error_span!(
        "request",
        request_id = id.unwrap_or_default(),
        trace_id = traces::context_of(extensions).map(|context| field::display(context.trace_id())),
        method = %request.method(),
        route = traces::route(extensions),
        // `KEY_FIELD`, the name of the API key, once it is known.
        key = field::Empty,
    )
}

/// Returns the response to a request whose handler panicked: a problem document with the code
/// `internal`. The message of the panic goes only to the log.
#[expect(
    clippy::needless_pass_by_value,
    reason = "the layer passes the panic by value"
)]
fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    Problem::internal(format!("panic: {}", text.unwrap_or_default())).into_response()
}

/// Converts a duration to milliseconds, cut to whole microseconds.
pub(super) fn millis(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}

/// Counts a request, measures its time, logs a fault of the server, and adds the `Server-Timing`
/// header.
async fn observe(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let path = request.extensions().get::<MatchedPath>().cloned();
    let route = path.as_ref().map_or(NO_ROUTE, MatchedPath::as_str);
    let traced = Traced::of(&request);
    let pending = Pending::new(&app.access_log, &request, route);
    app.metrics.in_flight.inc();
    let in_flight = InFlight(&app);
    let mut response = next.run(request).await;
    drop(in_flight);
    let elapsed = started.elapsed();
    let status = recorded_status(&response).as_u16();
    let extensions = response.extensions();
    let served = extensions.get::<Served>();
    let problem = extensions.get::<Problem>();
    let label = label_of(extensions);
    let (seconds, labels) = (elapsed.as_secs_f64(), label.unwrap_or_default());
    app.metrics.request(route, status, labels, seconds);
    if let Some(problem) = problem
        && let Some(reason) = &problem.hidden
    {
        let code = problem.code.as_str();
        tracing::error!(status, code, model = labels.model, reason, "request failed");
    }
    pending.finish(&response, label);
    let timing = server_timing(served.map(|served| served.timing.total()), elapsed);
    traced.finish(&mut response);
    response.headers_mut().insert(SERVER_TIMING, timing);
    if app.is_leaving() {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(CONNECTION, close);
    }
    response
}

/// Returns the model of the response with these extensions. `None` if the model is not known.
pub(super) fn label_of(extensions: &Extensions) -> Option<ModelLabel<'_>> {
    let served = extensions.get::<Served>();
    let served = served.map(|served| served.model.label());
    let rejected = || extensions.get::<Problem>()?.model.as_ref();
    served.or_else(|| rejected().map(|model| model.label()))
}

/// Counts a request as in flight until this guard is dropped, also if the client disconnects.
struct InFlight<'a>(&'a App);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.metrics.in_flight.dec();
    }
}

/// Returns the value of the `Server-Timing` header: the time of each stage, if the pipeline
/// measured it, and the total time, in milliseconds.
fn server_timing(timing: Option<Timing>, total: Duration) -> HeaderValue {
    let mut text = String::new();
    if let Some(timing) = timing {
        for stage in Stage::ALL {
            // Writing to a String cannot fail.
            let _ = write!(text, "{};dur={}, ", stage.as_str(), millis(timing[stage]));
        }
    }
    let _ = write!(text, "total;dur={}", millis(total));
    HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static(""))
}
