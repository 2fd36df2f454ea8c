//! Traces: the spans of a request and of its stages, and their export to an OTLP collector.
//!
//! A front end (HTTP, gRPC) begins the trace of a request with [`Traces::begin`] and passes its [`Trace`] to the
//! [admission](crate::admission::Admission), which carries it through the image pool and the queue to the worker.
//! Each stage is a [`StageSpan`], which ends where the stage ends, also if the request is cancelled meanwhile. A
//! [`Trace`] that is not recorded, because there is no collector or because the sampler decided so, costs nothing.
//!
//! What is *not* here: headers and attributes of a protocol, and the log, whose lines belong to the `tracing` span of
//! their request.

mod export;
mod trace;

pub use export::{ExportCounts, ExportError, Traces};
pub use trace::{RequestTrace, StageSpan, Trace};
