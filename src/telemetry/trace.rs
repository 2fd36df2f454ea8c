//! The trace of one request: its own span, and a span for each stage.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Instant, SystemTime};

use opentelemetry::trace::{
    Span as _, SpanBuilder, SpanContext, SpanKind, Status, TraceContextExt as _, Tracer as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::{SdkTracer, Span};

use crate::metrics::Stage;

/// Maximum number of spans of stages per request. A request has about seven for each of its images.
const MAX_STAGES: usize = 256;

/// The trace that a request belongs to.
#[derive(Debug, Clone)]
pub struct RequestTrace {
    context: SpanContext,
    trace: Trace,
}

/// A handle to the trace of a request, with which its stages record their spans. It is empty if the request is not
/// recorded.
#[derive(Debug, Clone, Default)]
pub struct Trace {
    request: Option<Arc<Request>>,
    /// Position of an image in the request, from 0, which the spans state. `None` for stages of the whole request.
    image: Option<usize>,
}

/// A request that is recorded.
struct Request {
    tracer: SdkTracer,
    /// Contains the span of the request, the parent of the spans of its stages.
    context: Context,
    /// The same moment on both clocks, so that all spans of the request agree on the order of events.
    began: (Instant, SystemTime),
    stages: AtomicUsize,
}

impl fmt::Debug for Request {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let span = self.context.span();
        formatter
            .debug_tuple("Request")
            .field(span.span_context())
            .finish()
    }
}

impl RequestTrace {
    /// Returns the trace of a request that this server does not record. `caller` is the span of the caller.
    pub fn unrecorded(caller: SpanContext) -> Self {
        Self {
            context: caller,
            trace: Trace::default(),
        }
    }

    /// Begins the span `name` of a request, as a child of the span `caller`. Without a caller, the request begins a
    /// new trace.
    pub(super) fn begin(
        tracer: &SdkTracer,
        caller: Option<SpanContext>,
        name: Cow<'static, str>,
        attributes: Vec<KeyValue>,
    ) -> Self {
        let began = (Instant::now(), SystemTime::now());
        let builder = SpanBuilder::from_name(name)
            .with_kind(SpanKind::Server)
            .with_start_time(began.1)
            .with_attributes(attributes);
        let parent = Context::new();
        let parent = match caller {
            Some(caller) => parent.with_remote_span_context(caller),
            None => parent,
        };
        let span = tracer.build_with_context(builder, &parent);
        let context = span.span_context().clone();
        let request = span.is_recording().then(|| {
            Arc::new(Request {
                tracer: tracer.clone(),
                context: parent.with_span(span),
                began,
                stages: AtomicUsize::new(0),
            })
        });
        Self {
            context,
            trace: Trace {
                request,
                image: None,
            },
        }
    }

    /// Returns the ids of the trace and of the span of the request; of the caller's span if this server does not
    /// record any.
    pub fn context(&self) -> &SpanContext {
        &self.context
    }

    /// Returns the handle with which the stages of the request record their spans.
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// Ends the span of the request. Stages that still run end their own spans later. Only the first call has an
    /// effect.
    pub fn end(&self, attributes: Vec<KeyValue>, status: Status) {
        if let Some(request) = &self.trace.request {
            let span = request.context.span();
            span.set_attributes(attributes);
            span.set_status(status);
            span.end_with_timestamp(request.time(Instant::now()));
        }
    }
}

impl Request {
    /// Converts a moment of the request to the time of day.
    fn time(&self, moment: Instant) -> SystemTime {
        let (instant, time) = self.began;
        time + moment.saturating_duration_since(instant)
    }
}

impl Trace {
    /// Returns the handle for the stages of the image at position `index` of the request.
    #[must_use]
    pub fn of_image(&self, index: usize) -> Self {
        Self {
            request: self.request.clone(),
            image: Some(index),
        }
    }

    /// Begins the span of `stage`.
    pub fn begin(&self, stage: Stage) -> StageSpan {
        self.span_at(stage.as_str(), Instant::now())
    }

    /// Records the span of `stage`, which has lasted from `start` to `end`.
    pub fn record(&self, stage: Stage, start: Instant, end: Instant) {
        self.span_at(stage.as_str(), start).end_at(end);
    }

    fn span_at(&self, name: &'static str, start: Instant) -> StageSpan {
        let Some(request) = &self.request else {
            return StageSpan(None);
        };
        if request.stages.fetch_add(1, Ordering::Relaxed) >= MAX_STAGES {
            return StageSpan(None);
        }
        let mut builder = SpanBuilder::from_name(name).with_start_time(request.time(start));
        if let Some(image) = self.image {
            let image = i64::try_from(image).unwrap_or(i64::MAX);
            builder = builder.with_attributes([KeyValue::new("sightline.image", image)]);
        }
        let span = request.tracer.build_with_context(builder, &request.context);
        StageSpan(Some(Box::new((Arc::clone(request), span))))
    }
}

/// The span of a stage that has begun. If it is dropped before its end, because the stage failed or because the
/// request was cancelled, the span ends with the status `Error`.
#[must_use]
pub struct StageSpan(Option<Box<(Arc<Request>, Span)>>);

impl StageSpan {
    /// Records how many images the batch of the stage has.
    pub fn set_batch_size(&mut self, images: usize) {
        if let Some(recorded) = &mut self.0 {
            let images = i64::try_from(images).unwrap_or(i64::MAX);
            let size = KeyValue::new("sightline.batch_size", images);
            recorded.1.set_attribute(size);
        }
    }

    /// Ends the span of a stage that has succeeded.
    pub fn end(self) {
        self.end_at(Instant::now());
    }

    /// Ends the span of a stage that succeeded at the moment `end`.
    pub fn end_at(mut self, end: Instant) {
        if let Some(mut recorded) = self.0.take() {
            let end = recorded.0.time(end);
            recorded.1.end_with_timestamp(end);
        }
    }
}

impl Drop for StageSpan {
    fn drop(&mut self) {
        if let Some(mut recorded) = self.0.take() {
            let end = recorded.0.time(Instant::now());
            recorded.1.set_status(Status::error("not finished"));
            recorded.1.end_with_timestamp(end);
        }
    }
}

impl fmt::Debug for StageSpan {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("StageSpan")
            .field("recorded", &self.0.is_some())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use opentelemetry::trace::{SpanId, TraceFlags, TraceId, TraceState};
    use opentelemetry_sdk::error::OTelSdkResult;
    use opentelemetry_sdk::trace::{SpanData, SpanProcessor};

    use super::*;
    use crate::telemetry::Traces;

    /// Keeps the spans that have ended.
    #[derive(Debug, Clone, Default)]
    struct Ended(Arc<Mutex<Vec<SpanData>>>);

    impl SpanProcessor for Ended {
        fn on_start(&self, _: &mut Span, _: &Context) {}

        fn on_end(&self, span: SpanData) {
            self.0.lock().unwrap().push(span);
        }

        fn force_flush(&self) -> OTelSdkResult {
            Ok(())
        }

        fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
            Ok(())
        }
    }

    fn caller(flags: TraceFlags) -> SpanContext {
        let (trace, span) = (TraceId::from(7), SpanId::from(9));
        SpanContext::new(trace, span, flags, true, TraceState::default())
    }

    #[test]
    fn a_stage_that_is_dropped_before_its_end_has_failed() {
        let ended = Ended::default();
        let traces = Traces::to(ended.clone());
        let caller = caller(TraceFlags::SAMPLED);
        let request = traces.begin(Some(caller), "request".into(), Vec::new());
        let image = request.trace().of_image(3);
        image.begin(Stage::decode).end();
        let queue = image.begin(Stage::queue);
        request.end(Vec::new(), Status::Unset);
        // The image is still in the queue when the client has left.
        drop(queue);
        request.end(Vec::new(), Status::error("again"));
        let spans = ended.0.lock().unwrap();
        let names: Vec<&str> = spans.iter().map(|span| &*span.name).collect();
        assert_eq!(names, ["decode", "request", "queue"]);
        let root = spans[1].span_context.span_id();
        assert_eq!(spans[1].parent_span_id, SpanId::from(9));
        for stage in [&spans[0], &spans[2]] {
            assert_eq!(stage.span_context.trace_id(), TraceId::from(7));
            assert_eq!(stage.parent_span_id, root);
            assert_eq!(stage.attributes, [KeyValue::new("sightline.image", 3)]);
            assert!(stage.start_time >= spans[1].start_time && stage.end_time >= stage.start_time);
        }
        assert_eq!(spans[0].status, Status::Unset);
        assert_eq!(spans[1].status, Status::Unset);
        assert_eq!(spans[2].status, Status::error("not finished"));
    }

    #[test]
    fn a_trace_that_its_caller_does_not_sample_is_passed_on_and_not_recorded() {
        let ended = Ended::default();
        let traces = Traces::to(ended.clone());
        let caller = caller(TraceFlags::NOT_SAMPLED);
        let request = traces.begin(Some(caller), "request".into(), Vec::new());
        request.trace().begin(Stage::decode).end();
        request.end(Vec::new(), Status::Unset);
        assert!(ended.0.lock().unwrap().is_empty());
        assert_eq!(request.context().trace_id(), TraceId::from(7));
        assert!(!request.context().is_sampled());
    }

    #[test]
    fn a_request_has_a_bounded_number_of_spans() {
        let ended = Ended::default();
        let traces = Traces::to(ended.clone());
        let request = traces.begin(None, "request".into(), Vec::new());
        for index in 0..1000 {
            request.trace().of_image(index).begin(Stage::decode).end();
        }
        request.end(Vec::new(), Status::Unset);
        assert_eq!(ended.0.lock().unwrap().len(), MAX_STAGES + 1);
    }
}
