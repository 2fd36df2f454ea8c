//! The metrics of NVIDIA Triton Inference Server, for its dashboards and autoscalers.
//!
//! `version` is the variant of the model. A request is counted once, an inference once per image; durations are
//! cumulative microseconds of successful requests, summed over the images of each.
//!
//! Source: <https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/metrics.html>

use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::prometheus_protobuf::prometheus_data_model::{
    Counter as CounterMessage, MetricFamily, MetricType as MessageType,
};
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::Registry;

use super::gauges::encode_gauges;
use super::labels::{Failure, ModelLabel, ModelLabels, Stage};
use crate::budget::BudgetList;

/// A counter whose name does not end in `_total`. OpenMetrics has no such counters, so that its type is unknown
/// there; [`make_counters`] changes the type in the other formats.
#[derive(Debug, Clone, Default)]
struct PlainCounter(Counter);

impl TypedMetric for PlainCounter {
    const TYPE: MetricType = MetricType::Unknown;
}

impl EncodeMetric for PlainCounter {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        encoder.encode_gauge(&self.0.get())
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

/// Turns the families of Triton's counters, which are those of unknown type, into counters.
pub(super) fn make_counters(families: &mut [MetricFamily]) {
    for family in families {
        if family.r#type() != MessageType::Untyped {
            continue;
        }
        family.set_type(MessageType::Counter);
        for metric in &mut family.metric {
            metric.counter = metric.gauge.take().map(|gauge| CounterMessage {
                value: gauge.value,
                ..CounterMessage::default()
            });
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VersionLabels {
    model: String,
    version: String,
}

impl From<&ModelLabels> for VersionLabels {
    fn from(labels: &ModelLabels) -> Self {
        Self {
            model: labels.model.clone(),
            version: labels.variant.clone(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FailureLabels {
    model: String,
    version: String,
    reason: Failure,
}

type Counters = Family<VersionLabels, PlainCounter>;

/// Triton's metrics of all models.
#[derive(Debug)]
pub(super) struct Triton {
    success: Counters,
    failure: Family<FailureLabels, PlainCounter>,
    inferences: Counters,
    executions: Counters,
    request: Counters,
    queue: Counters,
    input: Counters,
    infer: Counters,
    output: Counters,
}

impl Triton {
    /// Registers the metrics. `queues` are the places in the queues of the models.
    pub(super) fn new(registry: &mut Registry, queues: BudgetList<ModelLabels>) -> Self {
        let mut counters = |name: &str, help: &str| {
            let family = Counters::default();
            registry.register(format!("nv_inference_{name}"), help, family.clone());
            family
        };
        let triton = Self {
            success: counters("request_success", "Successful requests"),
            inferences: counters("count", "Images that were run"),
            executions: counters("exec_count", "Batches that were run"),
            request: counters(
                "request_duration_us",
                "Time of successful requests after their body was received",
            ),
            queue: counters(
                "queue_duration_us",
                "Time of the stages admission and queue in successful requests",
            ),
            input: counters(
                "compute_input_duration_us",
                "Time of the stages decode and preprocess in successful requests",
            ),
            infer: counters(
                "compute_infer_duration_us",
                "Time of the stage inference in successful requests",
            ),
            output: counters(
                "compute_output_duration_us",
                "Time of the stages postprocess and encode in successful requests",
            ),
            failure: Family::default(),
        };
        let failure = triton.failure.clone();
        registry.register("nv_inference_request_failure", "Failed requests", failure);
        registry.register_collector(Box::new(PendingCollector(queues)));
        triton
    }

    /// Returns the metrics of the requests to one model.
    pub(super) fn model(&self, labels: &ModelLabels) -> TritonModel {
        for reason in Failure::ALL {
            let VersionLabels { model, version } = labels.into();
            let _ = self.failure.get_or_create(&FailureLabels {
                model,
                version,
                reason,
            });
        }
        let counter = |family: &Counters| family.get_or_create(&labels.into()).0.clone();
        TritonModel {
            success: counter(&self.success),
            request: counter(&self.request),
            queue: counter(&self.queue),
            input: counter(&self.input),
            infer: counter(&self.infer),
            output: counter(&self.output),
        }
    }

    /// Returns the metrics of one model's batches.
    pub(super) fn batch(&self, labels: &ModelLabels) -> TritonBatch {
        let counter = |family: &Counters| family.get_or_create(&labels.into()).0.clone();
        TritonBatch {
            inferences: counter(&self.inferences),
            executions: counter(&self.executions),
        }
    }

    /// Removes the metrics of a model.
    pub(super) fn forget(&self, labels: &ModelLabels) {
        for family in [
            &self.success,
            &self.inferences,
            &self.executions,
            &self.request,
            &self.queue,
            &self.input,
            &self.infer,
            &self.output,
        ] {
            family.remove(&labels.into());
        }
        for reason in Failure::ALL {
            let VersionLabels { model, version } = labels.into();
            self.failure.remove(&FailureLabels {
                model,
                version,
                reason,
            });
        }
    }

    /// Counts a failed request.
    pub(super) fn failed(&self, reason: Failure, model: ModelLabel<'_>) {
        let labels = FailureLabels {
            model: model.model.to_owned(),
            version: model.variant.to_owned(),
            reason,
        };
        self.failure.get_or_create(&labels).0.inc();
    }
}

/// Triton's metrics of the requests to one model.
#[derive(Debug, Clone)]
pub(super) struct TritonModel {
    success: Counter,
    request: Counter,
    queue: Counter,
    input: Counter,
    infer: Counter,
    output: Counter,
}

impl TritonModel {
    /// Counts a successful request that took `duration`. `stage` returns the time of each stage.
    pub(super) fn succeeded(&self, duration: Duration, stage: impl Fn(Stage) -> Duration) {
        self.success.inc();
        for (counter, time) in [
            (&self.request, duration),
            (&self.queue, stage(Stage::admission) + stage(Stage::queue)),
            (&self.input, stage(Stage::decode) + stage(Stage::preprocess)),
            (&self.infer, stage(Stage::inference)),
            (
                &self.output,
                stage(Stage::postprocess) + stage(Stage::encode),
            ),
        ] {
            counter.inc_by(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
        }
    }
}

/// Triton's metrics of one model's batches.
#[derive(Debug, Clone)]
pub(super) struct TritonBatch {
    inferences: Counter,
    executions: Counter,
}

impl TritonBatch {
    /// Counts a batch of `images` images.
    pub(super) fn ran(&self, images: usize) {
        self.inferences.inc_by(images as u64);
        self.executions.inc();
    }
}

/// Exposes the images in the queue of each loaded model as `nv_inference_pending_request_count`.
#[derive(Debug)]
struct PendingCollector(BudgetList<ModelLabels>);

impl Collector for PendingCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let queues = self.0.usage();
        let queues: Vec<(VersionLabels, u64)> = queues
            .iter()
            .map(|queue| ((&queue.label).into(), queue.used))
            .collect();
        let samples = queues.iter().map(|(labels, used)| (labels, *used));
        let help = "Images that have a place in the queue and that no worker has taken";
        encode_gauges(
            &mut encoder,
            "nv_inference_pending_request_count",
            help,
            samples,
        )
    }
}
