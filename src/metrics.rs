//! Every metric of the server. Names end in base units; help texts are shown in `/metrics`.

use std::collections::BTreeSet;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

mod exposition;
mod forget;
mod gauges;
mod histograms;
mod labels;
mod loads;
mod model;
mod progress;
mod reloads;
mod statistics;
mod text;
mod tls;
mod triton;

pub use exposition::Exposition;
pub use labels::{Cut, Failure, ModelLabel, Rejection, ReloadResult, Stage, WorkerFailure};
pub use loads::LoadMetrics;
pub use model::{BatchMetrics, ModelMetrics, Ready};
pub use progress::{ImageProgress, RequestProgress};
pub use reloads::Reloads;
pub use statistics::{Count, Statistics, StatisticsSnapshot};
pub use tls::TlsMetrics;

use crate::budget::BudgetList;
use crate::process::ProcessCollector;
use crate::telemetry::ExportCounts;
use gauges::{BudgetCollector, QueueCollector};
use histograms::Histograms;
use labels::{
    CutLabels, FailureLabels, KeyLabels, ModelLabels, RejectionLabels, RequestLabels, RouteLabels,
    SpanLabels, SpanResult, StageLabels,
};
use statistics::StatisticsList;
use triton::Triton;

/// The metrics of the server, shared by all requests and models.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    /// Routes with requests to a model.
    routes: RwLock<BTreeSet<String>>,
    request_duration: Histograms<RouteLabels>,
    stage_duration: Histograms<StageLabels>,
    batch_size: Histograms<ModelLabels>,
    batches: Family<CutLabels, Counter>,
    stopped_runs: Family<ModelLabels, Counter>,
    worker_failures: Family<FailureLabels, Counter>,
    worker_restarts: Family<ModelLabels, Counter>,
    tensor_pixels: Family<ModelLabels, Counter>,
    padding_pixels: Family<ModelLabels, Counter>,
    images: Family<ModelLabels, Counter>,
    rejected: Family<RejectionLabels, Counter>,
    spans: Family<SpanLabels, Counter>,
    /// Number of lines of the log that were dropped, because its reader is too slow.
    pub log_dropped: Counter,
    cancelled: Family<StageLabels, Counter>,
    /// Places in the queue of each loaded model.
    queues: BudgetList<ModelLabels>,
    /// Triton's counters. `None` unless [`Metrics::add_triton`] was called.
    triton: Option<Triton>,
    statistics: StatisticsList,
    key_requests: Family<KeyLabels, Counter>,
    /// Counts how often the file of the API keys was read again.
    pub key_reloads: Reloads,
    /// Metrics of the TLS certificate.
    pub tls: TlsMetrics,
    /// Number of requests that are being handled.
    pub in_flight: Gauge,
    /// Metrics of the loading and replacing of models.
    pub loads: LoadMetrics,
    /// Memory budgets whose usage is exported as `sightline_budget_bytes`, by their names.
    pub budgets: BudgetList<&'static str>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Creates and registers every metric.
    pub fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::default(),
            requests: Family::default(),
            routes: RwLock::default(),
            request_duration: histograms::of_seconds(),
            stage_duration: histograms::of_seconds(),
            batch_size: histograms::of_images(),
            batches: Family::default(),
            stopped_runs: Family::default(),
            worker_failures: Family::default(),
            worker_restarts: Family::default(),
            tensor_pixels: Family::default(),
            padding_pixels: Family::default(),
            images: Family::default(),
            rejected: Family::default(),
            spans: Family::default(),
            log_dropped: Counter::default(),
            cancelled: Family::default(),
            queues: BudgetList::default(),
            triton: None,
            statistics: StatisticsList::default(),
            key_requests: Family::default(),
            key_reloads: Reloads::default(),
            tls: TlsMetrics::default(),
            in_flight: Gauge::default(),
            loads: LoadMetrics::default(),
            budgets: BudgetList::default(),
        };
        metrics.register();
        for reason in Rejection::ALL {
            // Each counter exists with the value 0 before the first rejection, so that rates of
            // Prometheus include the first rejection.
            let _ = metrics.rejected.get_or_create(&RejectionLabels {
                reason,
                model: String::new(),
                variant: String::new(),
            });
        }
        for stage in Stage::ALL {
            metrics.cancelled_counter(stage, ModelLabel::default());
        }
        metrics
    }

    /// Adds the counters of NVIDIA Triton Inference Server. Models that are created before are not counted.
    pub fn add_triton(&mut self) {
        self.triton = Some(Triton::new(&mut self.registry, self.queues.clone()));
    }

    fn register(&mut self) {
        let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        let registry = &mut self.registry;
        registry.register("sightline_build", "Version of the server", build);
        self.register_requests();
        self.register_batches();
        self.register_workers();
        self.register_files();
        let registry = &mut self.registry;
        self.loads.register(registry);
        let help = "Spans of requests, by what became of them";
        registry.register("sightline_spans", help, self.spans.clone());
        let help = "Lines of the log that were dropped, because its reader is too slow";
        registry.register("sightline_log_dropped", help, self.log_dropped.clone());
        registry.register_collector(Box::new(BudgetCollector(self.budgets.clone())));
        registry.register_collector(Box::new(QueueCollector(self.queues.clone())));
        registry.register_collector(Box::new(ProcessCollector));
    }

    /// Registers the metrics of requests.
    fn register_requests(&mut self) {
        let registry = &mut self.registry;
        let help = "Finished requests";
        registry.register("sightline_requests", help, self.requests.clone());
        let help = "Time from reading the head of a request to creating its response";
        registry.register(
            "sightline_request_duration_seconds",
            help,
            self.request_duration.clone(),
        );
        let help = "Time of each stage of a request, per image (stage encode: per response)";
        registry.register(
            "sightline_stage_duration_seconds",
            help,
            self.stage_duration.clone(),
        );
        let help = "Images with a result";
        registry.register("sightline_images", help, self.images.clone());
        let help = "Requests rejected for want of capacity or time, by reason";
        registry.register("sightline_rejected", help, self.rejected.clone());
        let help = "Requests whose client disconnected or whose time ran out, by the stage that they were in";
        registry.register("sightline_cancelled", help, self.cancelled.clone());
        let help = "Finished requests with a valid API key, by the name of the key";
        registry.register("sightline_key_requests", help, self.key_requests.clone());
        let help = "Requests in flight";
        registry.register("sightline_in_flight", help, self.in_flight.clone());
    }

    /// Registers the metrics of batches and of their runs.
    fn register_batches(&mut self) {
        let registry = &mut self.registry;
        let help = "Images per batch";
        registry.register("sightline_batch_size", help, self.batch_size.clone());
        let help = "Batches, by the reason why no further images were added";
        registry.register("sightline_batches", help, self.batches.clone());
        let help = "Pixels of network inputs, padding included";
        registry.register("sightline_tensor_pixels", help, self.tensor_pixels.clone());
        let help = "Pixels of network inputs that were padding";
        registry.register(
            "sightline_padding_pixels",
            help,
            self.padding_pixels.clone(),
        );
        let help = "Runs of the network that were stopped at their time limit";
        registry.register("sightline_stopped_runs", help, self.stopped_runs.clone());
        let help = "Threads of workers that do not return although their run was stopped";
        registry.register(
            "sightline_stuck_workers",
            help,
            self.loads.stuck_workers.clone(),
        );
    }

    /// Registers the metrics of API keys and TLS files that are read again.
    fn register_files(&mut self) {
        let registry = &mut self.registry;
        let help = "Times that the file of the API keys was read again, by result";
        registry.register("sightline_key_reloads", help, self.key_reloads.0.clone());
        let help = "Times that changed TLS files were read, by result";
        registry.register("sightline_tls_reloads", help, self.tls.reloads.0.clone());
        registry.register_collector(Box::new(tls::ExpiryCollector(self.tls.clone())));
    }

    /// Registers the metrics of failed and rebuilt workers.
    fn register_workers(&mut self) {
        let registry = &mut self.registry;
        let help = "Failures of workers, by kind";
        registry.register(
            "sightline_worker_failures",
            help,
            self.worker_failures.clone(),
        );
        let help = "New engines in the place of failed ones";
        registry.register(
            "sightline_worker_restarts",
            help,
            self.worker_restarts.clone(),
        );
        let help = "1 if the model is ready, 0 from a stopped run to the next successful test run and while no worker is left";
        registry.register("sightline_model_ready", help, self.loads.ready.clone());
    }

    /// Counts a finished request and records its duration.
    pub fn request(&self, route: &str, status: u16, model: ModelLabel<'_>, seconds: f64) {
        if !model.model.is_empty() {
            self.note_route(route);
        }
        let route = route.to_owned();
        let (model, variant) = (model.model.to_owned(), model.variant.to_owned());
        let labels = RouteLabels {
            route: route.clone(),
            model: model.clone(),
            variant: variant.clone(),
        };
        self.request_duration
            .get_or_create(&labels)
            .observe(seconds);
        self.requests
            .get_or_create(&RequestLabels {
                route,
                status,
                model,
                variant,
            })
            .inc();
    }

    /// Counts a rejected request.
    pub fn rejected(&self, reason: Rejection, model: ModelLabel<'_>) {
        let (model, variant) = (model.model.to_owned(), model.variant.to_owned());
        self.rejected
            .get_or_create(&RejectionLabels {
                reason,
                model,
                variant,
            })
            .inc();
    }

    /// Counts a request that ended without a result, because its client disconnected or its time ran out, in
    /// the stage that it was in.
    pub fn cancelled(&self, stage: Stage, model: ModelLabel<'_>) {
        self.cancelled_counter(stage, model).inc();
    }

    fn cancelled_counter(&self, stage: Stage, model: ModelLabel<'_>) -> Counter {
        let (model, variant) = (model.model.to_owned(), model.variant.to_owned());
        let labels = StageLabels {
            stage,
            model,
            variant,
        };
        self.cancelled.get_or_create(&labels).clone()
    }

    /// Counts a request to `model` that failed after `duration`, in its statistics and in Triton's counter if there is
    /// one.
    pub fn failed(&self, failure: Failure, model: ModelLabel<'_>, duration: Duration) {
        self.statistics(model).failed(duration);
        if let Some(triton) = &self.triton {
            triton.failed(failure, model);
        }
    }

    /// Returns the statistics of one model. A model that is loaded again continues its statistics.
    pub fn statistics(&self, model: ModelLabel<'_>) -> Arc<Statistics> {
        self.statistics.of(model.into())
    }

    /// Counts a finished request with the API key of the name `key`.
    pub fn key_request(&self, key: &str, status: u16) {
        let key = key.to_owned();
        self.key_requests
            .get_or_create(&KeyLabels { key, status })
            .inc();
    }

    /// Removes the counters of an API key that was removed, so that their number stays bounded.
    pub fn forget_key(&self, key: &str) {
        for status in 100..600 {
            let key = key.to_owned();
            self.key_requests.remove(&KeyLabels { key, status });
        }
    }

    /// Returns the counter of the HTTP/2 streams that are refused because too many are in flight.
    pub fn refused_streams(&self) -> Counter {
        let labels = RejectionLabels {
            reason: Rejection::too_many_streams,
            model: String::new(),
            variant: String::new(),
        };
        self.rejected.get_or_create(&labels).clone()
    }

    /// Returns the metrics of one model's requests.
    pub fn model(&self, model: &str, variant: &str) -> ModelMetrics {
        let stage = |stage| {
            let labels = StageLabels {
                stage,
                model: model.to_owned(),
                variant: variant.to_owned(),
            };
            self.stage_duration.get_or_create(&labels).clone()
        };
        let labels = ModelLabels {
            model: model.to_owned(),
            variant: variant.to_owned(),
        };
        ModelMetrics {
            stages: Stage::ALL.map(stage),
            images: self.images.get_or_create(&labels).clone(),
            triton: self.triton.as_ref().map(|triton| triton.model(&labels)),
            statistics: self.statistics.of(labels),
        }
    }

    /// Returns the metrics of one model's queue.
    pub fn batch(&self, model: &str, variant: &str) -> BatchMetrics {
        let labels = ModelLabels {
            model: model.to_owned(),
            variant: variant.to_owned(),
        };
        let counter = |reason| {
            let (model, variant) = (labels.model.clone(), labels.variant.clone());
            self.batches
                .get_or_create(&CutLabels {
                    reason,
                    model,
                    variant,
                })
                .clone()
        };
        let failures = |kind| {
            let (model, variant) = (labels.model.clone(), labels.variant.clone());
            self.worker_failures
                .get_or_create(&FailureLabels {
                    kind,
                    model,
                    variant,
                })
                .clone()
        };
        BatchMetrics {
            size: self.batch_size.get_or_create(&labels).clone(),
            stopped_runs: self.stopped_runs.get_or_create(&labels).clone(),
            stuck_workers: self.loads.stuck_workers.get_or_create(&labels).clone(),
            failures: WorkerFailure::ALL.map(failures),
            restarts: self.worker_restarts.get_or_create(&labels).clone(),
            ready: Ready {
                family: self.loads.ready.clone(),
                labels: labels.clone(),
            },
            tensor_pixels: self.tensor_pixels.get_or_create(&labels).clone(),
            padding_pixels: self.padding_pixels.get_or_create(&labels).clone(),
            batches: Cut::ALL.map(counter),
            triton: self.triton.as_ref().map(|triton| triton.batch(&labels)),
            statistics: self.statistics.of(labels.clone()),
            budgets: self.budgets.clone(),
            queues: self.queues.clone(),
            labels,
        }
    }

    /// Returns the counters of spans. They exist from the first call on, so only if spans are exported.
    pub fn spans(&self) -> ExportCounts {
        let counter = |result| self.spans.get_or_create(&SpanLabels { result }).clone();
        ExportCounts {
            exported: counter(SpanResult::exported),
            failed: counter(SpanResult::failed),
            dropped: counter(SpanResult::dropped),
        }
    }

    /// Returns the `/metrics` page in the format `exposition`.
    ///
    /// # Errors
    /// [`std::fmt::Error`] if a metric cannot be encoded, for example because a count exceeds the range of the
    /// format.
    pub fn render(&self, exposition: Exposition) -> Result<Vec<u8>, std::fmt::Error> {
        exposition.encode(&self.registry)
    }

    /// Returns the page in OpenMetrics' text format.
    #[cfg(test)]
    pub(crate) fn page(&self) -> String {
        let page = self.render(Exposition::OpenMetrics).unwrap();
        String::from_utf8(page).unwrap()
    }
}

#[cfg(test)]
mod tests;
