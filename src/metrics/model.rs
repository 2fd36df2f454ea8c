//! The metrics of one model: those of its requests and those of its queue.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use super::labels::{Cut, ModelLabels, Stage, WorkerFailure};
use super::statistics::Statistics;
use super::triton::{TritonBatch, TritonModel};
use crate::budget::{Budget, BudgetList};
use crate::pipeline::RequestTiming;

/// The metrics of one model's requests.
#[derive(Debug, Clone)]
pub struct ModelMetrics {
    pub(super) stages: [Histogram; Stage::ALL.len()],
    /// Number of images with a result.
    pub images: Counter,
    pub(super) triton: Option<TritonModel>,
    pub(super) statistics: Arc<Statistics>,
}

impl ModelMetrics {
    /// Records the duration of one stage for one image.
    pub fn stage(&self, stage: Stage, duration: Duration) {
        self.stages[stage as usize].observe(duration.as_secs_f64());
    }

    /// Counts a successful request in the model's statistics, and in Triton's counters if there are any. `duration` is
    /// its time without the time to receive its body.
    pub fn succeeded(&self, duration: Duration, timing: &RequestTiming) {
        self.statistics.succeeded(duration, timing.mean());
        let total = timing.total();
        let stage = |stage| total[stage];
        if let Some(triton) = &self.triton {
            triton.succeeded(duration, stage);
        }
    }
}

/// The gauge `sightline_model_ready` of one model. It exists from the first call of [`Ready::set`] until the model is
/// unloaded.
#[derive(Debug, Clone)]
pub struct Ready {
    pub(super) family: Family<ModelLabels, Gauge>,
    pub(super) labels: ModelLabels,
}

impl Ready {
    /// Sets the gauge to 1 if the model is ready, to 0 if not.
    pub fn set(&self, ready: bool) {
        let gauge = self.family.get_or_create(&self.labels);
        gauge.set(i64::from(ready));
    }

    /// Returns the value of the gauge.
    #[cfg(test)]
    pub fn get(&self) -> i64 {
        self.family.get(&self.labels).map_or(0, |gauge| gauge.get())
    }
}

/// The metrics of one model's queue.
#[derive(Debug, Clone)]
pub struct BatchMetrics {
    pub(super) size: Histogram,
    /// Number of runs that were stopped at their time limit.
    pub stopped_runs: Counter,
    /// Number of threads of workers that do not return although their run was stopped.
    pub stuck_workers: Gauge,
    pub(super) failures: [Counter; WorkerFailure::ALL.len()],
    /// Number of new engines in the place of failed ones.
    pub restarts: Counter,
    /// Whether the model is ready.
    pub ready: Ready,
    pub(super) tensor_pixels: Counter,
    pub(super) padding_pixels: Counter,
    pub(super) batches: [Counter; Cut::ALL.len()],
    pub(super) triton: Option<TritonBatch>,
    pub(super) statistics: Arc<Statistics>,
    /// Memory budgets whose usage is exported as `sightline_budget_bytes`, by their names.
    pub budgets: BudgetList<&'static str>,
    pub(super) queues: BudgetList<ModelLabels>,
    pub(super) labels: ModelLabels,
}

impl BatchMetrics {
    /// Records a batch of `images` images, and why it was cut from the queue.
    pub fn batch(&self, images: usize, cut: Cut) {
        self.size.observe(images as f64);
        self.batches[cut as usize].inc();
        if let Some(triton) = &self.triton {
            triton.ran(images);
        }
    }

    /// Records a batch of `images` images that the network ran in `duration`.
    pub fn ran(&self, images: usize, duration: Duration) {
        self.statistics.ran(images, duration);
    }

    /// Exports the use of `places`, the places in the model's queue, until they are dropped.
    pub fn queue(&self, places: &Budget) {
        self.queues.add(self.labels.clone(), places);
    }

    /// Counts a failure of a worker.
    pub fn failed(&self, kind: WorkerFailure) {
        self.failures[kind as usize].inc();
    }

    /// Counts the pixels of an input tensor; `content` of them are not padding.
    pub fn tensor(&self, pixels: u64, content: u64) {
        self.tensor_pixels.inc_by(pixels);
        self.padding_pixels.inc_by(pixels.saturating_sub(content));
    }
}
