//! Every metric of the server, in one place. Names carry base units; help texts are what an
//! operator reads in `/metrics`.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabelSet, EncodeLabelValue, EncodeMetric, text,
};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::budget::BudgetList;
use crate::process::ProcessCollector;

/// Upper bounds of the duration histograms, in seconds.
const SECONDS: [f64; 15] = [
    0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
    10.0,
];
/// Upper bounds of the batch size histogram, in pictures.
const PICTURES: [f64; 9] = [1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 16.0, 32.0, 64.0];

/// A step of a request, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "the variants are the label's values")]
pub enum Stage {
    /// Compressed bytes to pixels.
    decode,
    /// Pixels to the network's input.
    preprocess,
    /// Waiting for a worker.
    queue,
    /// Running the network.
    inference,
    /// The network's output to the answer.
    postprocess,
    /// The answer to bytes.
    encode,
}

impl Stage {
    /// Every stage, in order.
    pub const ALL: [Self; 6] = [
        Self::decode,
        Self::preprocess,
        Self::queue,
        Self::inference,
        Self::postprocess,
        Self::encode,
    ];

    /// The stage's name in metrics, `Server-Timing` and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::decode => "decode",
            Self::preprocess => "preprocess",
            Self::queue => "queue",
            Self::inference => "inference",
            Self::postprocess => "postprocess",
            Self::encode => "encode",
        }
    }
}

/// Why a batch was cut where it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "the variants are the label's values")]
pub enum Cut {
    /// It reached `max_batch_size`.
    full,
    /// A worker was free and took all that waited.
    worker_free,
    /// A worker was free; what else waited has another size.
    size,
    /// `max_queue_delay` passed.
    delay,
}

impl Cut {
    const ALL: [Self; 4] = [Self::full, Self::worker_free, Self::size, Self::delay];
}

/// Why a request was turned away before any work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "the variants are the label's values")]
pub enum Rejection {
    /// The model's queue had no room.
    queue_full,
    /// The bodies being read had used up the memory set aside for them.
    body_memory,
    /// The deadline passed.
    deadline,
    /// The server was starting.
    starting,
    /// The server was shutting down.
    draining,
}

impl Rejection {
    /// Every reason.
    const ALL: [Self; 5] = [
        Self::queue_full,
        Self::body_memory,
        Self::deadline,
        Self::starting,
        Self::draining,
    ];
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    route: String,
    status: u16,
    model: String,
    variant: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    route: String,
    model: String,
    variant: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ModelLabels {
    model: String,
    variant: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StageLabels {
    stage: Stage,
    model: String,
    variant: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CutLabels {
    reason: Cut,
    model: String,
    variant: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RejectionLabels {
    reason: Rejection,
    model: String,
    variant: String,
}

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// The server's metrics; clones share their values.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    request_duration: Histograms<RouteLabels>,
    stage_duration: Histograms<StageLabels>,
    batch_size: Histograms<ModelLabels>,
    batches: Family<CutLabels, Counter>,
    queue_depth: Family<ModelLabels, Gauge>,
    tensor_pixels: Family<ModelLabels, Counter>,
    padding_pixels: Family<ModelLabels, Counter>,
    images: Family<ModelLabels, Counter>,
    model_loaded: Family<ModelLabels, Gauge>,
    rejected: Family<RejectionLabels, Counter>,
    /// Requests in work.
    pub in_flight: Gauge,
    /// Budgets whose use is exported.
    pub budgets: BudgetList,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Registers every metric.
    pub fn new() -> Self {
        let seconds: fn() -> Histogram = || Histogram::new(SECONDS);
        let pictures: fn() -> Histogram = || Histogram::new(PICTURES);
        let mut metrics = Self {
            registry: Registry::default(),
            requests: Family::default(),
            request_duration: Family::new_with_constructor(seconds),
            stage_duration: Family::new_with_constructor(seconds),
            batch_size: Family::new_with_constructor(pictures),
            batches: Family::default(),
            queue_depth: Family::default(),
            tensor_pixels: Family::default(),
            padding_pixels: Family::default(),
            images: Family::default(),
            model_loaded: Family::default(),
            rejected: Family::default(),
            in_flight: Gauge::default(),
            budgets: BudgetList::default(),
        };
        metrics.register();
        for reason in Rejection::ALL {
            // Counters start at 0, so that a rate sees the first rejection.
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
            "Requests answered",
            self.requests.clone(),
        );
        let help = "Time from a request's first byte to its answer";
        registry.register(
            "sightline_request_duration_seconds",
            help,
            self.request_duration.clone(),
        );
        let help = "Time of each step of a request, per picture";
        registry.register(
            "sightline_stage_duration_seconds",
            help,
            self.stage_duration.clone(),
        );
        let help = "Pictures in one run of the network";
        registry.register("sightline_batch_size", help, self.batch_size.clone());
        let help = "Batches, by why they were cut where they were";
        registry.register("sightline_batches", help, self.batches.clone());
        let help = "Pixels that networks have read, padding included";
        registry.register("sightline_tensor_pixels", help, self.tensor_pixels.clone());
        let help = "Those of them that were padding";
        registry.register(
            "sightline_padding_pixels",
            help,
            self.padding_pixels.clone(),
        );
        let help = "Pictures waiting for a worker";
        registry.register("sightline_queue_depth", help, self.queue_depth.clone());
        registry.register("sightline_images", "Pictures answered", self.images.clone());
        let help = "1 for each model that is loaded and warm";
        registry.register("sightline_model_loaded", help, self.model_loaded.clone());
        let help = "Requests turned away before any work, by why";
        registry.register("sightline_rejected", help, self.rejected.clone());
        let help = "Requests being answered";
        registry.register("sightline_in_flight", help, self.in_flight.clone());
        registry.register_collector(Box::new(BudgetCollector(self.budgets.clone())));
        registry.register_collector(Box::new(ProcessCollector));
    }

    /// Counts an answered request. `model` is empty where none was involved.
    pub fn request(&self, route: &str, status: u16, model: (&str, &str), seconds: f64) {
        let route = route.to_owned();
        let (model, variant) = (model.0.to_owned(), model.1.to_owned());
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

    /// Counts a request that was turned away.
    ///
    /// `model` is its name and variant, both empty where none was involved.
    pub fn rejected(&self, reason: Rejection, model: (&str, &str)) {
        let (model, variant) = (model.0.to_owned(), model.1.to_owned());
        self.rejected
            .get_or_create(&RejectionLabels {
                reason,
                model,
                variant,
            })
            .inc();
    }

    /// The handles of one model's request path.
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
        self.model_loaded.get_or_create(&labels).set(0);
        ModelMetrics {
            stages: Stage::ALL.map(stage),
            images: self.images.get_or_create(&labels).clone(),
            loaded: self.model_loaded.get_or_create(&labels).clone(),
        }
    }

    /// The handles of one model's queue.
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
            tensor_pixels: self.tensor_pixels.get_or_create(&labels).clone(),
            padding_pixels: self.padding_pixels.get_or_create(&labels).clone(),
            batches: Cut::ALL.map(counter),
            budgets: self.budgets.clone(),
        }
    }

    /// The `/metrics` page, in the OpenMetrics text format that Prometheus reads.
    pub fn render(&self) -> String {
        let mut page = String::new();
        // Writing to a String cannot fail.
        let _ = text::encode(&mut page, &self.registry);
        page
    }
}

/// The metrics of one model's request path.
#[derive(Debug, Clone)]
pub struct ModelMetrics {
    stages: [Histogram; 6],
    /// Pictures answered.
    pub images: Counter,
    /// 1 once the model is loaded and warm.
    pub loaded: Gauge,
}

impl ModelMetrics {
    /// Records one step of one picture.
    pub fn stage(&self, stage: Stage, duration: std::time::Duration) {
        let index = Stage::ALL
            .iter()
            .position(|s| *s == stage)
            .unwrap_or_default();
        self.stages[index].observe(duration.as_secs_f64());
    }
}

/// The metrics of one model's queue.
#[derive(Debug, Clone)]
pub struct BatchMetrics {
    size: Histogram,
    /// Pictures waiting for a worker.
    pub queue_depth: Gauge,
    tensor_pixels: Counter,
    padding_pixels: Counter,
    batches: [Counter; 4],
    /// Budgets whose use is exported.
    pub budgets: BudgetList,
}

impl BatchMetrics {
    /// Records a batch of `pictures`.
    pub fn batch(&self, pictures: usize, cut: Cut) {
        self.size.observe(pictures as f64);
        self.batches[cut as usize].inc();
    }

    /// Records the size of a picture's tensor, and of the part of it that is no padding.
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
