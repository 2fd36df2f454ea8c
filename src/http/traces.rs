//! The span of each request for OpenTelemetry, with the attributes of its semantic conventions for HTTP servers.

use std::borrow::Cow;

use axum::extract::{MatchedPath, Request};
use axum::http::header::USER_AGENT;
use axum::http::uri::Authority;
use axum::http::{Extensions, Method, Version};
use axum::response::Response;
use onnx_export::text::cut;
use opentelemetry::KeyValue;
use opentelemetry::trace::{SpanContext, Status};
use tower_http::request_id::RequestId;

use super::access::is_probe;
use super::host;
use super::middleware::{label_of, recorded_status};
use super::opening::Scheme;
use super::problem::Problem;
use super::stream::Peer;
use super::traceparent::{TRACEPARENT, caller, header};
use crate::app::App;
use crate::telemetry::{RequestTrace, Trace};

/// Name of the route of requests that match none.
pub(super) const NO_ROUTE: &str = "other";
/// Maximum number of characters of a value from the client.
const MAX_VALUE: usize = 256;

/// Begins the trace of a request and adds it to the extensions of the request. A request has a trace if its caller
/// sends one or if the server exports spans, except for probes and scrapes, which have none of their own.
pub(super) fn begin(app: &App, mut request: Request) -> Request {
    let caller = caller(request.headers());
    let trace = match &app.traces {
        Some(traces) if caller.is_some() || !is_probe(route(request.extensions())) => {
            let (name, attributes) = described(&request);
            Some(traces.begin(caller, name, attributes))
        }
        _ => caller.map(RequestTrace::unrecorded),
    };
    if let Some(trace) = trace {
        request.extensions_mut().insert(trace);
    }
    request
}

/// Returns the trace of the request with these extensions, for its stages.
pub(crate) fn trace_of(extensions: &Extensions) -> Trace {
    let trace = extensions.get::<RequestTrace>();
    trace.map(|trace| trace.trace().clone()).unwrap_or_default()
}

/// Returns the ids of the trace of the request with these extensions. `None` if it has no trace.
pub(super) fn context_of(extensions: &Extensions) -> Option<&SpanContext> {
    extensions.get::<RequestTrace>().map(RequestTrace::context)
}

/// Returns the pattern of the route that matched, or `other` if none did.
pub(super) fn route(extensions: &Extensions) -> &str {
    let path = extensions.get::<MatchedPath>();
    path.map_or(NO_ROUTE, MatchedPath::as_str)
}

/// The trace of a request that has no response yet. If it is dropped, its client has disconnected.
pub(super) struct Traced(Option<RequestTrace>);

impl Traced {
    /// Returns the trace of `request`.
    pub(super) fn of(request: &Request) -> Self {
        Self(request.extensions().get().cloned())
    }

    /// Ends the span of the request, and names it in the header `traceparent` of `response`.
    pub(super) fn finish(mut self, response: &mut Response) {
        let Some(trace) = self.0.take() else {
            return;
        };
        let status = recorded_status(response);
        let mut attributes = vec![integer("http.response.status_code", status.as_u16())];
        if let Some(label) = label_of(response.extensions()) {
            attributes.push(text("sightline.model", label.model));
            attributes.push(text("sightline.variant", label.variant));
        }
        if status.is_client_error() || status.is_server_error() {
            let problem = response.extensions().get::<Problem>();
            let code = problem.map_or(status.as_str(), |problem| problem.code.as_str());
            attributes.push(text("error.type", code));
        }
        // An error of the client is none of this span, by the conventions.
        let failed = status.is_server_error();
        let status = if failed {
            Status::error("")
        } else {
            Status::Unset
        };
        if let Some(value) = header(trace.context()) {
            response.headers_mut().insert(TRACEPARENT, value);
        }
        trace.end(attributes, status);
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        if let Some(trace) = self.0.take() {
            let kind = text("error.type", "client_disconnected");
            trace.end(vec![kind], Status::error("client disconnected"));
        }
    }
}

/// Returns the name of the span of `request`, and the attributes that the request has from the start.
fn described(request: &Request) -> (Cow<'static, str>, Vec<KeyValue>) {
    let extensions = request.extensions();
    let method = method(request.method());
    let path = extensions.get::<MatchedPath>().map(MatchedPath::as_str);
    let scheme = extensions.get::<Scheme>();
    let mut attributes = vec![
        text("http.request.method", method),
        text("url.path", request.uri().path()),
        text(
            "url.scheme",
            scheme.map_or("http", |scheme| scheme.as_str()),
        ),
        text("network.protocol.version", version(request.version())),
    ];
    attributes.extend(path.map(|path| text("http.route", path)));
    if let Some(Peer::Tcp(peer)) = extensions.get::<Peer>() {
        attributes.push(text("client.address", &peer.ip().to_string()));
        attributes.push(integer("client.port", peer.port()));
    }
    let id = extensions.get::<RequestId>();
    let id = id.and_then(|id| id.header_value().to_str().ok());
    attributes.extend(id.map(|id| text("sightline.request_id", id)));
    let agent = request.headers().get(USER_AGENT);
    let agent = agent.and_then(|agent| agent.to_str().ok());
    attributes.extend(agent.map(|agent| text("user_agent.original", agent)));
    let server =
        host(request.headers(), request.uri()).and_then(|host| host.parse::<Authority>().ok());
    if let Some(server) = server {
        attributes.push(text(
            "server.address",
            server.host().trim_matches(['[', ']']),
        ));
        attributes.extend(server.port_u16().map(|port| integer("server.port", port)));
    }
    let kind = if method == "_OTHER" { "HTTP" } else { method };
    let name = match path {
        Some(path) => Cow::Owned(format!("{kind} {path}")),
        None => Cow::Borrowed(kind),
    };
    (name, attributes)
}

fn text(name: &'static str, value: &str) -> KeyValue {
    KeyValue::new(name, cut(value, MAX_VALUE).to_owned())
}

fn integer(name: &'static str, value: u16) -> KeyValue {
    KeyValue::new(name, i64::from(value))
}

/// Returns the name of a method that the conventions know, and `_OTHER` for others, which clients can invent.
fn method(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "DELETE" => "DELETE",
        "CONNECT" => "CONNECT",
        "OPTIONS" => "OPTIONS",
        "TRACE" => "TRACE",
        "PATCH" => "PATCH",
        _ => "_OTHER",
    }
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        _ => "1.1",
    }
}
