//! Every metric of the server. Names end in base units; help texts are shown in `/metrics`.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

mod labels;
mod loads;

pub use labels::{Cut, ModelLabel, Rejection, Stage};
pub use loads::{LoadMetrics, ReloadResult};

use crate::budget::BudgetList;
use crate::process::ProcessCollector;
use labels::{CutLabels, ModelLabels, RejectionLabels, RequestLabels, RouteLabels, StageLabels};

/// Upper bounds of the buckets of the duration histograms, in seconds. Most requests and stages take 1 to 100 ms;
/// eight buckets per decade show there that a quantile grows by a third.
#[rustfmt::skip]
const SECONDS: [f64; 27] = [
    0.000_25, 0.000_5,
    0.001, 0.001_3, 0.001_8, 0.002_4, 0.003_2, 0.004_2, 0.005_6, 0.007_5,
    0.01, 0.013, 0.018, 0.024, 0.032, 0.042, 0.056, 0.075,
    0.1, 0.18, 0.32, 0.56, 1.0, 1.8, 3.2, 5.6, 10.0,
];
/// Upper bounds of the buckets of the batch size histogram, in images.
const IMAGES: [f64; 9] = [1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 16.0, 32.0, 64.0];

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// The metrics of the server, shared by all requests and models.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    request_duration: Histograms<RouteLabels>,
    stage_duration: Histograms<StageLabels>,
    batch_size: Histograms<ModelLabels>,
    batches: Family<CutLabels, Counter>,
    queue_depth: Family<ModelLabels, Gauge>,
    stopped_runs: Family<ModelLabels, Counter>,
    stuck_workers: Family<ModelLabels, Gauge>,
    tensor_pixels: Family<ModelLabels, Counter>,
    padding_pixels: Family<ModelLabels, Counter>,
    images: Family<ModelLabels, Counter>,
    rejected: Family<RejectionLabels, Counter>,
    /// Number of requests that are being handled.
    pub in_flight: Gauge,
    /// Metrics of the loading and replacing of models.
    pub loads: LoadMetrics,
    /// Memory budgets whose usage is exported as `sightline_budget_bytes`.
    pub budgets: BudgetList,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Creates and registers every metric.
    pub fn new() -> Self {
        let seconds: fn() -> Histogram = || Histogram::new(SECONDS);
        let images: fn() -> Histogram = || Histogram::new(IMAGES);
        let mut metrics = Self {
            registry: Registry::default(),
            requests: Family::default(),
            request_duration: Family::new_with_constructor(seconds),
            stage_duration: Family::new_with_constructor(seconds),
            batch_size: Family::new_with_constructor(images),
            batches: Family::default(),
            queue_depth: Family::default(),
            stopped_runs: Family::default(),
            stuck_workers: Family::default(),
            tensor_pixels: Family::default(),
            padding_pixels: Family::default(),
            images: Family::default(),
            rejected: Family::default(),
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
        metrics
    }

    fn register(&mut self) {
        let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        let registry = &mut self.registry;
        registry.register("sightline_build", "Version of the server", build);
        registry.register(
            "sightline_requests",
            "Finished requests",
            self.requests.clone(),
        );
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
        let help = "Images waiting for a worker";
        registry.register("sightline_queue_depth", help, self.queue_depth.clone());
        let help = "Runs of the network that were stopped at their time limit";
        registry.register("sightline_stopped_runs", help, self.stopped_runs.clone());
        let help = "Workers that do not return although their run was stopped";
        registry.register("sightline_stuck_workers", help, self.stuck_workers.clone());
        registry.register(
            "sightline_images",
            "Images with a result",
            self.images.clone(),
        );
        self.loads.register(registry);
        let help = "Requests rejected for want of capacity or time, by reason";
        registry.register("sightline_rejected", help, self.rejected.clone());
        let help = "Requests in flight";
        registry.register("sightline_in_flight", help, self.in_flight.clone());
        registry.register_collector(Box::new(BudgetCollector(self.budgets.clone())));
        registry.register_collector(Box::new(ProcessCollector));
    }

    /// Counts a finished request and records its duration.
    pub fn request(&self, route: &str, status: u16, model: ModelLabel<'_>, seconds: f64) {
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
        BatchMetrics {
            size: self.batch_size.get_or_create(&labels).clone(),
            queue_depth: self.queue_depth.get_or_create(&labels).clone(),
            stopped_runs: self.stopped_runs.get_or_create(&labels).clone(),
            stuck_workers: self.stuck_workers.get_or_create(&labels).clone(),
            tensor_pixels: self.tensor_pixels.get_or_create(&labels).clone(),
            padding_pixels: self.padding_pixels.get_or_create(&labels).clone(),
            batches: Cut::ALL.map(counter),
            budgets: self.budgets.clone(),
        }
    }

    /// Renders the `/metrics` page in the OpenMetrics text format.
    pub fn render(&self) -> String {
        let mut page = String::new();
        // Writing to a String cannot fail.
        let _ = text::encode(&mut page, &self.registry);
        page
    }
}

/// The metrics of one model's requests.
#[derive(Debug, Clone)]
pub struct ModelMetrics {
    stages: [Histogram; Stage::ALL.len()],
    /// Number of images with a result.
    pub images: Counter,
}

impl ModelMetrics {
    /// Records the duration of one stage for one image.
    pub fn stage(&self, stage: Stage, duration: std::time::Duration) {
        self.stages[stage as usize].observe(duration.as_secs_f64());
    }
}

/// The metrics of one model's queue.
#[derive(Debug, Clone)]
pub struct BatchMetrics {
    size: Histogram,
    /// Number of images waiting for a worker.
    pub queue_depth: Gauge,
    /// Number of runs that were stopped at their time limit.
    pub stopped_runs: Counter,
    /// Number of workers that do not return although their run was stopped.
    pub stuck_workers: Gauge,
    tensor_pixels: Counter,
    padding_pixels: Counter,
    batches: [Counter; 4],
    /// Memory budgets whose usage is exported as `sightline_budget_bytes`.
    pub budgets: BudgetList,
}

impl BatchMetrics {
    /// Records a batch of `images` images, and why it was cut from the queue.
    pub fn batch(&self, images: usize, cut: Cut) {
        self.size.observe(images as f64);
        self.batches[cut as usize].inc();
    }

    /// Counts the pixels of an input tensor; `content` of them are not padding.
    pub fn tensor(&self, pixels: u64, content: u64) {
        self.tensor_pixels.inc_by(pixels);
        self.padding_pixels.inc_by(pixels.saturating_sub(content));
    }
}

/// Exposes every [`BudgetList`] entry as `sightline_budget_bytes{kind,state}`.
#[derive(Debug)]
struct BudgetCollector(BudgetList);

impl Collector for BudgetCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let help =
            "Memory budgets: bytes reserved by requests (used) and available in total (total)";
        let kind = ConstGauge::new(0_u64).metric_type();
        let mut family = encoder.encode_descriptor("sightline_budget_bytes", help, None, kind)?;
        for budget in self.0.usage() {
            for (state, bytes) in [("used", budget.used), ("total", budget.total)] {
                let labels = [("kind", budget.name), ("state", state)];
                let gauge = ConstGauge::new(bytes as f64);
                gauge.encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}
