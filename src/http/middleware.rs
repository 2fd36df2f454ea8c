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
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tower_http::catch_panic::CatchPanicLayer;

use super::problem::Problem;
use crate::app::App;
use crate::metrics::Stage;
use crate::pipeline::{Answer, Timing};
use crate::registry::LoadedModel;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
/// Longest id of a client's own that is taken over.
const MAX_REQUEST_ID: usize = 128;

/// What a handler tells the middleware about an answer, through the response's extensions.
#[derive(Clone)]
struct Served {
    model: Arc<LoadedModel>,
    timing: Timing,
}

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

/// The body of an answer.
#[derive(Serialize)]
struct Body<'a, R> {
    model: &'a str,
    variant: &'a str,
    results: Vec<R>,
    timing_ms: TimingMs,
}

/// Milliseconds per stage; the encoding of the answer cannot be inside it.
#[derive(Serialize)]
struct TimingMs {
    decode: f64,
    preprocess: f64,
    queue: f64,
    inference: f64,
    postprocess: f64,
}

impl From<Timing> for TimingMs {
    fn from(timing: Timing) -> Self {
        Self {
            decode: millis(timing[Stage::decode]),
            preprocess: millis(timing[Stage::preprocess]),
            queue: millis(timing[Stage::queue]),
            inference: millis(timing[Stage::inference]),
            postprocess: millis(timing[Stage::postprocess]),
        }
    }
}

/// The answer as JSON, with its timing.
pub(super) fn respond<T, R: Serialize>(
    answer: Answer<T>,
    result: impl Fn(T) -> R,
) -> Result<Response, Problem> {
    let Answer {
        model,
        results,
        mut timing,
    } = answer;
    let started = Instant::now();
    let body = serde_json::to_vec(&Body {
        model: &model.manifest.name,
        variant: model.variant,
        results: results.into_iter().map(result).collect(),
        timing_ms: timing.into(),
    });
    let body = body.map_err(|error| Problem::internal(error.to_string()))?;
    timing[Stage::encode] = started.elapsed();
    model.metrics.stage(Stage::encode, timing[Stage::encode]);
    let kind = HeaderValue::from_static("application/json");
    let mut response = ([(CONTENT_TYPE, kind)], body).into_response();
    response.extensions_mut().insert(Served { model, timing });
    Ok(response)
}

/// Milliseconds with microsecond precision.
fn millis(duration: Duration) -> f64 {
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
    let names = served.as_ref().map_or(("", ""), |s| {
        (s.model.manifest.name.as_str(), s.model.variant)
    });
    app.metrics
        .request(route, status, names, elapsed.as_secs_f64());
    let id_text = id.to_str().unwrap_or_default();
    if let Some(problem) = response.extensions().get::<Problem>() {
        if let Some(rejection) = problem.rejection {
            app.metrics.rejected(rejection);
        }
        if let Some(hidden) = &problem.hidden {
            tracing::error!(
                request_id = id_text,
                route,
                status,
                "request failed: {hidden}"
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
