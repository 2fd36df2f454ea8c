//! The access log: an event for each request, with its response, its model, its times and its client.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use hyper::body::Body as _;
use sha2::{Digest as _, Sha256};
use tower_http::request_id::RequestId;
use tracing::Span;

use super::middleware::{millis, recorded_status};
use super::problem::Problem;
use super::respond::Served;
use super::stream::Peer;
use super::traces::context_of;
use crate::config::{AccessEvents, Share};
use crate::metrics::{ModelLabel, Stage};

/// Maximum number of events per second. A client can send requests that cost less than their events, and events
/// fill disks.
const MAX_EVENTS: u32 = 1_000;
const SECOND: Duration = Duration::from_secs(1);
/// Target of the events, for `--log`.
const TARGET: &str = "sightline::access";

/// Which requests are logged, and how many were logged recently.
#[derive(Debug)]
pub struct AccessLog {
    events: AccessEvents,
    /// Share of the successful requests that are logged.
    sample: Share,
    recent: Mutex<Recent>,
}

/// The events since `start`, a period of at most one second.
#[derive(Debug)]
struct Recent {
    start: Instant,
    logged: u32,
    /// Number of events that were not logged since the last logged one, because there were too many.
    omitted: u64,
}

impl AccessLog {
    /// Creates a log of the requests that `events` selects. Of the successful requests it has the share `sample`.
    pub fn new(events: AccessEvents, sample: Share) -> Self {
        let recent = Recent {
            start: Instant::now(),
            logged: 0,
            omitted: 0,
        };
        Self {
            events,
            sample,
            recent: Mutex::new(recent),
        }
    }

    /// Returns whether a request with this status is logged. `status` is `None` if the client disconnected before
    /// the response. `bits` are the bits of the request that choose successful requests.
    fn has(&self, status: Option<u16>, bits: u64) -> bool {
        let success = status.is_some_and(|status| status < 400);
        match self.events {
            AccessEvents::Off => false,
            AccessEvents::Errors => !success,
            AccessEvents::All => !success || self.sample.includes(bits),
        }
    }

    /// Returns the 64 bits that choose `request` for the sample: the last ones of its trace id, as OpenTelemetry's
    /// sampler takes them, or else the first ones of the SHA-256 of its request id. Every server that handles a
    /// request with these ids therefore makes the same choice.
    fn bits(&self, request: &Request) -> u64 {
        let extensions = request.extensions();
        if self.sample == Share::ALL {
            return 0;
        }
        let first = |bytes: &[u8]| {
            bytes
                .first_chunk()
                .map_or(0, |bytes| u64::from_be_bytes(*bytes))
        };
        if let Some(context) = context_of(extensions) {
            return first(&context.trace_id().to_bytes()[8..]);
        }
        let id = extensions.get::<RequestId>();
        let id = id.map(|id| id.header_value().as_bytes());
        first(&Sha256::digest(id.unwrap_or_default()))
    }
}

impl Recent {
    /// Records an event at `now`. Returns the number of omitted events before it, or `None` if it has to be omitted,
    /// too.
    fn count(&mut self, now: Instant) -> Option<u64> {
        if now.saturating_duration_since(self.start) >= SECOND {
            (self.start, self.logged) = (now, 0);
        }
        if self.logged == MAX_EVENTS {
            self.omitted += 1;
            return None;
        }
        self.logged += 1;
        Some(std::mem::take(&mut self.omitted))
    }
}

/// A request that has no response yet. If it is dropped, its client has disconnected.
pub(super) struct Pending<'a> {
    log: &'a AccessLog,
    span: Span,
    peer: Option<Peer>,
    bytes_in: Option<u64>,
    /// Bits that choose the request for the sample.
    bits: u64,
    /// Whether the request is a probe or a scrape, which is logged only if it fails.
    probe: bool,
    started: Instant,
    finished: bool,
}

/// The fields of an event that the response has. All are `None` if the client disconnected before.
#[derive(Default)]
struct Fields<'a> {
    status: Option<u16>,
    code: Option<&'a str>,
    model: Option<&'a str>,
    variant: Option<&'a str>,
    bytes_out: Option<u64>,
    queue_ms: Option<f64>,
    inference_ms: Option<f64>,
}

impl<'a> Pending<'a> {
    /// Starts to observe `request`, whose route is `route`, in the span of the request.
    pub(super) fn new(log: &'a AccessLog, request: &Request, route: &str) -> Self {
        Self {
            log,
            span: Span::current(),
            peer: request.extensions().get::<Peer>().copied(),
            bytes_in: exact_size(request.body()),
            bits: log.bits(request),
            probe: is_probe(route),
            started: Instant::now(),
            finished: false,
        }
    }

    /// Logs that the request got `response` from the model `label`. `None` if the model is not known.
    pub(super) fn finish(mut self, response: &Response, label: Option<ModelLabel<'_>>) {
        self.finished = true;
        let status = recorded_status(response).as_u16();
        if !self.log.has(Some(status), self.bits) || (self.probe && status < 400) {
            return;
        }
        let served = response.extensions().get::<Served>();
        let problem = response.extensions().get::<Problem>();
        let timing = served.map(|served| served.timing.total());
        let stage = |stage| timing.map(|timing| millis(timing[stage]));
        self.log(&Fields {
            status: Some(status),
            code: problem.map(|problem| problem.code.as_str()),
            model: label.map(|label| label.model),
            variant: label.map(|label| label.variant),
            bytes_out: exact_size(response.body()),
            queue_ms: stage(Stage::queue),
            inference_ms: stage(Stage::inference),
        });
    }

    fn log(&self, fields: &Fields<'_>) {
        let recent = self.log.recent.lock();
        let omitted = recent
            .unwrap_or_else(PoisonError::into_inner)
            .count(Instant::now());
        let Some(omitted) = omitted else {
            return;
        };
        tracing::info!(
            target: TARGET,
            parent: &self.span,
            status = fields.status,
            code = fields.code,
            model = fields.model,
            variant = fields.variant,
            bytes_in = self.bytes_in,
            bytes_out = fields.bytes_out,
            duration_ms = millis(self.started.elapsed()),
            queue_ms = fields.queue_ms,
            inference_ms = fields.inference_ms,
            peer = self.peer.map(tracing::field::display),
            omitted = (omitted > 0).then_some(omitted),
            "{}",
            if fields.status.is_some() { "request finished" } else { "client disconnected" },
        );
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        if !self.finished && self.log.has(None, self.bits) {
            self.log(&Fields::default());
        }
    }
}

/// Returns whether the requests to `route` are probes and scrapes.
pub(super) fn is_probe(route: &str) -> bool {
    route.starts_with("/health/") || route.starts_with("/v2/health/") || route == "/metrics"
}

/// Returns the size of `body` in bytes, if its head states the size.
fn exact_size(body: &Body) -> Option<u64> {
    body.size_hint().exact()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_choice_selects_requests() {
        let cases = [
            (AccessEvents::Off, [false, false, false]),
            (AccessEvents::Errors, [false, true, true]),
            (AccessEvents::All, [true, true, true]),
        ];
        for (events, expected) in cases {
            let log = AccessLog::new(events, Share::ALL);
            assert_eq!(
                [Some(200), Some(404), None].map(|status| log.has(status, 0)),
                expected
            );
        }
    }

    #[test]
    fn a_sample_is_chosen_by_ids_and_has_all_errors() {
        let log = AccessLog::new(AccessEvents::All, "0.25".parse().unwrap());
        let kept = |number: u32| {
            let id = RequestId::new(number.to_string().parse().unwrap());
            let mut request = Request::new(Body::empty());
            request.extensions_mut().insert(id);
            let bits = log.bits(&request);
            assert_eq!(bits, log.bits(&request));
            assert!(log.has(Some(400), bits) && log.has(None, bits));
            log.has(Some(200), bits)
        };
        let kept = (0..1000).filter(|number| kept(*number)).count();
        assert!((200..300).contains(&kept), "{kept} of 1000");
    }

    #[test]
    fn events_are_limited_per_second() {
        let start = Instant::now();
        let mut recent = Recent {
            start,
            logged: 0,
            omitted: 0,
        };
        for _ in 0..MAX_EVENTS {
            assert_eq!(recent.count(start), Some(0));
        }
        assert_eq!(recent.count(start), None);
        assert_eq!(recent.count(start + SECOND / 2), None);
        assert_eq!(recent.count(start + SECOND), Some(2));
        assert_eq!(recent.count(start + SECOND), Some(0));
    }
}
