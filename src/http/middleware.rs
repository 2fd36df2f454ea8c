//! What surrounds every route: request ids, `Server-Timing`, metrics, the log, and the last net
//! under a panic.

use std::any::Any;
use std::fmt::Write as _;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use tower_http::catch_panic::CatchPanicLayer;

use super::problem::Problem;
use super::respond::Served;
use crate::app::App;
use crate::metrics::Stage;
use crate::pipeline::Timing;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
/// Longest id of a client's own that is taken over.
const MAX_REQUEST_ID: usize = 128;

/// Wraps `routes` in everything that all of them need.
pub(super) fn surround(routes: Router<Arc<App>>, app: &Arc<App>) -> Router<Arc<App>> {
    routes
        .layer(CatchPanicLayer::custom(panicked))
        .layer(from_fn_with_state(Arc::clone(app), observe))
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "the layer hands the panic over"
)]
fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    Problem::internal(format!("panic: {}", text.unwrap_or_default())).into_response()
}

/// Milliseconds with microsecond precision.
pub(super) fn millis(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}

async fn observe(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = request_id(request.headers().get(&REQUEST_ID));
    let route = request.extensions().get::<MatchedPath>().cloned();
    let method = request.method().clone();
    app.metrics.in_flight.inc();
    let in_flight = InFlight(&app);
    let mut response = next.run(request).await;
    drop(in_flight);
    let elapsed = started.elapsed();
    let route = route.as_ref().map_or("other", MatchedPath::as_str);
    let status = response.status().as_u16();
    let served = response.extensions().get::<Served>().cloned();
    let problem = response.extensions().get::<Problem>().cloned();
    let model = served.as_ref().map(|served| &served.model);
    let model = model.or(problem.as_ref().and_then(|problem| problem.model.as_ref()));
    let names = model.map_or(("", ""), |model| {
        (model.manifest.name.as_str(), model.variant.as_str())
    });
    app.metrics
        .request(route, status, names, elapsed.as_secs_f64());
    let id_text = id.to_str().unwrap_or_default();
    if let Some(problem) = &problem {
        if let Some(rejection) = problem.rejection {
            app.metrics.rejected(rejection, names);
        }
        if status >= 500 && problem.rejection.is_none() {
            let (code, model) = (problem.code(), names.0);
            let why = problem.hidden.as_deref().unwrap_or_default();
            tracing::warn!(
                request_id = id_text,
                route,
                status,
                code,
                model,
                "request failed: {why}"
            );
        }
    }
    let duration_ms = millis(elapsed);
    tracing::debug!(request_id = id_text, %method, route, status, duration_ms, "request answered");
    let timing = server_timing(served.map(|served| served.timing), elapsed);
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, id);
    headers.insert(SERVER_TIMING, timing);
    response
}

/// Counts a request as in flight until it is dropped, also when the client goes away.
struct InFlight<'a>(&'a App);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.metrics.in_flight.dec();
    }
}

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

/// The client's own id where it is short and printable, else a new one.
fn request_id(own: Option<&HeaderValue>) -> HeaderValue {
    let usable = |value: &&HeaderValue| {
        let bytes = value.as_bytes();
        (1..=MAX_REQUEST_ID).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
    };
    own.filter(usable).cloned().unwrap_or_else(|| {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        // The hasher's keys are random: ids are unique without a dependency, not secret.
        let id = RandomState::new().hash_one(NEXT.fetch_add(1, Ordering::Relaxed));
        HeaderValue::from_str(&format!("{id:016x}")).unwrap_or_else(|_| HeaderValue::from(id))
    })
}
