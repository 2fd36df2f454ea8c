//! The labels of metrics.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};

/// Name and variant of a model, as metric labels. By default, name and variant are empty, for
/// requests that fail before their model is known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ModelLabel<'a> {
    /// Name of the model.
    pub model: &'a str,
    /// Variant of the model, such as `fp32`.
    pub variant: &'a str,
}

/// The stages of a request, in the order in which they run. An image that has been received is in the stage
/// `admission` again whenever it waits for memory or for a thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "variant names are the label's values")]
pub enum Stage {
    /// Waiting for the model to be loaded, for memory, and for a thread.
    admission,
    /// Receiving the body of the request from the client.
    receive,
    /// Finding the image in the body, and decoding its compressed bytes to pixels.
    decode,
    /// Resizing and normalizing pixels to the network's input.
    preprocess,
    /// Waiting behind other images of the model: for a worker, or to be decoded while enough others are.
    queue,
    /// Running the network.
    inference,
    /// Computing results from the network's outputs.
    postprocess,
    /// Encoding the response.
    encode,
}

impl Stage {
    /// Every stage, in order.
    pub const ALL: [Self; 8] = [
        Self::admission,
        Self::receive,
        Self::decode,
        Self::preprocess,
        Self::queue,
        Self::inference,
        Self::postprocess,
        Self::encode,
    ];

    /// Returns the name of the stage in metrics, `Server-Timing` and responses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::admission => "admission",
            Self::receive => "receive",
            Self::decode => "decode",
            Self::preprocess => "preprocess",
            Self::queue => "queue",
            Self::inference => "inference",
            Self::postprocess => "postprocess",
            Self::encode => "encode",
        }
    }
}

/// Why a batch was closed at its current size and sent to inference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "variant names are the label's values")]
pub enum Cut {
    /// The batch reached `max_batch_size`.
    full,
    /// A worker was free and took all images that waited.
    worker_free,
    /// A worker was free and took all waiting images of one size; images of other sizes stayed in
    /// the queue.
    size,
    /// The oldest image had waited for `max_queue_delay` before the batch was full.
    delay,
}

impl Cut {
    pub(super) const ALL: [Self; 4] = [Self::full, Self::worker_free, Self::size, Self::delay];
}

/// How a worker failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "variant names are the label's values")]
pub enum WorkerFailure {
    /// Its engine panicked.
    panic,
    /// Its engine returned an error, or not one output for each image.
    error,
    /// Its run was stopped but did not return.
    stuck,
}

impl WorkerFailure {
    pub(super) const ALL: [Self; 3] = [Self::panic, Self::error, Self::stuck];
}

/// Why a request was rejected for want of capacity or time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "variant names are the label's values")]
pub enum Rejection {
    /// The model's queue was full.
    queue_full,
    /// The images in the model's queue were predicted to take longer than the request's deadline.
    deadline_unreachable,
    /// Other requests held too much of the memory budget for request bodies.
    body_memory,
    /// Other requests held too much of the memory for responses.
    response_memory,
    /// The deadline of the request passed.
    deadline,
    /// No worker of the model was left: all were stuck or could not be rebuilt.
    model_stuck,
    /// The model was not loaded yet, and too many requests waited for models.
    model_loading,
    /// The model could not be loaded.
    model_load_failed,
    /// The memory for tensors was too small to load the model.
    model_memory,
    /// The API key exceeded its rate.
    key_rate,
    /// The API key had too many requests in flight.
    key_concurrency,
    /// An operator had unloaded the model.
    model_unloaded,
    /// The server was starting.
    starting,
    /// The server was shutting down.
    draining,
    /// Too many HTTP/2 streams were in flight.
    too_many_streams,
}

impl Rejection {
    /// Every reason for a rejection.
    pub(super) const ALL: [Self; 15] = [
        Self::queue_full,
        Self::deadline_unreachable,
        Self::body_memory,
        Self::response_memory,
        Self::deadline,
        Self::model_stuck,
        Self::model_loading,
        Self::model_load_failed,
        Self::model_memory,
        Self::key_rate,
        Self::key_concurrency,
        Self::model_unloaded,
        Self::starting,
        Self::draining,
        Self::too_many_streams,
    ];
}

/// Why a request failed, as the label `reason` of Triton's `nv_inference_request_failure`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Failure {
    /// The request was rejected for lack of capacity or time.
    REJECTED,
    /// The client disconnected.
    CANCELED,
    /// The network failed.
    BACKEND,
    /// Any other reason, for example an invalid image.
    OTHER,
}

impl Failure {
    pub(super) const ALL: [Self; 4] = [Self::REJECTED, Self::CANCELED, Self::BACKEND, Self::OTHER];
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct RequestLabels {
    pub(super) route: String,
    pub(super) status: u16,
    pub(super) model: String,
    pub(super) variant: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct RouteLabels {
    pub(super) route: String,
    pub(super) model: String,
    pub(super) variant: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ModelLabels {
    pub(super) model: String,
    pub(super) variant: String,
}

impl From<ModelLabel<'_>> for ModelLabels {
    fn from(label: ModelLabel<'_>) -> Self {
        Self {
            model: label.model.to_owned(),
            variant: label.variant.to_owned(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct StageLabels {
    pub(super) stage: Stage,
    pub(super) model: String,
    pub(super) variant: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct CutLabels {
    pub(super) reason: Cut,
    pub(super) model: String,
    pub(super) variant: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct FailureLabels {
    pub(super) kind: WorkerFailure,
    pub(super) model: String,
    pub(super) variant: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct RejectionLabels {
    pub(super) reason: Rejection,
    pub(super) model: String,
    pub(super) variant: String,
}

/// What became of a span.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "variant names are the label's values")]
pub(super) enum SpanResult {
    /// The collector accepted it.
    exported,
    /// It could not be sent, or the collector rejected it.
    failed,
    /// It was not sent, because too many spans waited.
    dropped,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct SpanLabels {
    pub(super) result: SpanResult,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct KeyLabels {
    pub(super) key: String,
    pub(super) status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ReloadLabels {
    pub(super) result: ReloadResult,
}

/// Whether new files could be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "variant names are the label's values")]
pub enum ReloadResult {
    /// What the files contain is in use.
    success,
    /// What was in use before, if anything, stays in use.
    failure,
}

impl ReloadResult {
    pub(super) const ALL: [Self; 2] = [Self::success, Self::failure];
}
