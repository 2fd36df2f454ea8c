//! The export of spans to an OTLP collector, in batches on a thread of its own.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use opentelemetry::trace::{SpanContext, TracerProvider as _};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter as OtlpExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::resource::{EnvResourceDetector, TelemetryResourceDetector};
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracer, SdkTracerProvider, Span, SpanData,
    SpanExporter, SpanProcessor,
};
use prometheus_client::metrics::counter::Counter;
use thiserror::Error;

use super::RequestTrace;
use crate::config::{OtlpEndpoint, Share};

/// Maximum number of spans that wait for their export; further spans are dropped. A span takes about one kilobyte.
const QUEUE: usize = 4096;
/// Maximum number of spans in one request to the collector.
const BATCH: usize = 512;
/// Longest time that a span waits for its batch to fill.
const DELAY: Duration = Duration::from_secs(2);
/// Maximum time of one request to the collector.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Shortest time between two log events about failed exports.
const SILENCE: Duration = Duration::from_mins(1);

/// The exporter cannot be created.
#[derive(Debug, Error)]
#[error("cannot export spans to {endpoint}: {source}")]
pub struct ExportError {
    endpoint: OtlpEndpoint,
    source: ExporterBuildError,
}

/// Counts what became of the spans.
#[derive(Debug, Clone, Default)]
pub struct ExportCounts {
    /// Spans that the collector has accepted.
    pub exported: Counter,
    /// Spans that could not be sent, or that the collector has rejected.
    pub failed: Counter,
    /// Spans that were not sent, because too many waited.
    pub dropped: Counter,
}

/// Begins the traces of requests, and exports their spans.
#[derive(Debug)]
pub struct Traces {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

impl Traces {
    /// Starts the export to `endpoint`. `ratio` is the share of the traces that are recorded, of those that begin at
    /// this server; callers decide about theirs. The spans name the process by its id `instance`. Connects when the
    /// first spans are exported. Must be called within a Tokio runtime, which drives the connection.
    ///
    /// # Errors
    /// [`ExportError`] if the endpoint cannot be used.
    pub fn start(
        endpoint: &OtlpEndpoint,
        ratio: Share,
        instance: &str,
        counts: ExportCounts,
    ) -> Result<Self, ExportError> {
        let otlp = OtlpExporter::builder()
            .with_tonic()
            .with_endpoint(endpoint.to_string())
            .with_timeout(TIMEOUT)
            .build();
        let otlp = otlp.map_err(|source| ExportError {
            endpoint: endpoint.clone(),
            source,
        })?;
        let waiting = Arc::new(AtomicUsize::new(0));
        let counted = Counted {
            inner: otlp,
            endpoint: endpoint.to_string(),
            waiting: Arc::clone(&waiting),
            counts: counts.clone(),
            failing: Mutex::default(),
        };
        let config = BatchConfigBuilder::default()
            .with_max_queue_size(QUEUE)
            .with_max_export_batch_size(BATCH)
            .with_scheduled_delay(DELAY)
            .build();
        let batches = BatchSpanProcessor::builder(counted);
        let bounded = Bounded {
            inner: batches.with_batch_config(config).build(),
            waiting,
            dropped: counts.dropped,
        };
        let ratio = Sampler::TraceIdRatioBased(ratio.get());
        Ok(Self::of(
            SdkTracerProvider::builder()
                .with_sampler(Sampler::ParentBased(Box::new(ratio)))
                .with_resource(resource(instance))
                .with_span_processor(bounded)
                .build(),
        ))
    }

    fn of(provider: SdkTracerProvider) -> Self {
        Self {
            tracer: provider.tracer("sightline"),
            provider,
        }
    }

    /// Returns traces that pass their spans to `processor` when they end.
    #[cfg(test)]
    pub(crate) fn to(processor: impl SpanProcessor + 'static) -> Self {
        let provider = SdkTracerProvider::builder().with_span_processor(processor);
        Self::of(provider.build())
    }

    /// Begins the span `name` of a request, as a child of the span `caller`. Without a caller, the request begins a
    /// new trace.
    pub fn begin(
        &self,
        caller: Option<SpanContext>,
        name: Cow<'static, str>,
        attributes: Vec<KeyValue>,
    ) -> RequestTrace {
        RequestTrace::begin(&self.tracer, caller, name, attributes)
    }

    /// Exports the spans that have ended, and ends the export. Blocks until then, but not longer than `limit`.
    pub fn stop(&self, limit: Duration) {
        if let Err(error) = self.provider.shutdown_with_timeout(limit) {
            tracing::warn!(%error, "the last spans may not have been exported");
        }
    }
}

/// Returns the attributes of this process. `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` override them.
fn resource(instance: &str) -> Resource {
    let resource = Resource::builder_empty()
        .with_attributes([
            KeyValue::new("service.name", "sightline"),
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("service.instance.id", instance.to_owned()),
        ])
        .with_detector(Box::new(TelemetryResourceDetector))
        .with_detector(Box::new(EnvResourceDetector::new()));
    match std::env::var("OTEL_SERVICE_NAME") {
        Ok(name) if !name.is_empty() => resource.with_service_name(name).build(),
        _ => resource.build(),
    }
}

/// Passes spans to the thread that exports them, and counts those for which there is no room.
#[derive(Debug)]
struct Bounded {
    inner: BatchSpanProcessor,
    /// Number of spans that wait for their export or are being exported.
    waiting: Arc<AtomicUsize>,
    dropped: Counter,
}

impl SpanProcessor for Bounded {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.inner.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        let more = |waiting| (waiting < QUEUE).then_some(waiting + 1);
        let (set, fetch) = (Ordering::AcqRel, Ordering::Acquire);
        if self.waiting.fetch_update(set, fetch, more).is_ok() {
            self.inner.on_end(span);
        } else {
            self.dropped.inc();
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

/// Exports batches, counts their spans and logs failures.
#[derive(Debug)]
struct Counted<E> {
    inner: E,
    endpoint: String,
    waiting: Arc<AtomicUsize>,
    counts: ExportCounts,
    /// When a failure was logged last. `None` if the last export succeeded.
    failing: Mutex<Option<Instant>>,
}

impl<E: SpanExporter> SpanExporter for Counted<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let result = self.inner.export(batch).await;
        self.waiting.fetch_sub(spans, Ordering::AcqRel);
        self.note(spans, &result);
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

impl<E> Counted<E> {
    /// Counts the `spans` spans of a batch, and logs the first of several failures and the end of the failures.
    fn note(&self, spans: usize, result: &OTelSdkResult) {
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        let endpoint = &self.endpoint;
        match result {
            Ok(()) => {
                self.counts.exported.inc_by(spans as u64);
                if failing.take().is_some() {
                    tracing::info!(endpoint, "spans are exported again");
                }
            }
            Err(error) => {
                self.counts.failed.inc_by(spans as u64);
                let now = Instant::now();
                if failing.is_none_or(|last| now.saturating_duration_since(last) >= SILENCE) {
                    *failing = Some(now);
                    tracing::warn!(endpoint, %error, spans, "cannot export spans");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Unreachable;

    impl SpanExporter for Unreachable {
        async fn export(&self, _: Vec<SpanData>) -> OTelSdkResult {
            Err(opentelemetry_sdk::error::OTelSdkError::Timeout(TIMEOUT))
        }
    }

    #[test]
    fn failures_are_counted_and_logged_once() {
        let counted = Counted {
            inner: Unreachable,
            endpoint: String::new(),
            waiting: Arc::new(AtomicUsize::new(0)),
            counts: ExportCounts::default(),
            failing: Mutex::default(),
        };
        let failed = || counted.failing.lock().unwrap().unwrap();
        let error = || opentelemetry_sdk::error::OTelSdkError::Timeout(TIMEOUT);
        counted.note(3, &Err(error()));
        let first = failed();
        counted.note(4, &Err(error()));
        assert_eq!((failed(), counted.counts.failed.get()), (first, 7));
        counted.note(5, &Ok(()));
        assert!(counted.failing.lock().unwrap().is_none());
        assert_eq!(counted.counts.exported.get(), 5);
    }

    #[test]
    fn the_process_describes_itself() {
        let resource = resource("0123abcd");
        let value = |name: &'static str| resource.get(&name.into()).map(|value| value.to_string());
        assert_eq!(value("service.instance.id").as_deref(), Some("0123abcd"));
        assert_eq!(
            value("service.version").as_deref(),
            Some(env!("CARGO_PKG_VERSION"))
        );
    }
}
