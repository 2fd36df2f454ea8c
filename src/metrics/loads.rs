//! Metrics of the loading and replacing of models.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::labels::{ModelLabel, ModelLabels, ReloadResult};

/// Metrics of the loading and replacing of models. Clones share the same values.
#[derive(Debug, Clone, Default)]
pub struct LoadMetrics {
    loaded: Family<ModelLabels, Gauge>,
    seconds: Family<ModelLabels, Gauge<f64, AtomicU64>>,
    reloads: Family<ReloadLabels, Counter>,
    /// Whether each loaded model is ready.
    pub(super) ready: Family<ModelLabels, Gauge>,
    /// Stuck threads of all instances of a model, also of those that were replaced or unloaded.
    pub(super) stuck_workers: Family<ModelLabels, Gauge>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReloadLabels {
    model: String,
    variant: String,
    result: ReloadResult,
}

impl LoadMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "1 if the model is loaded and has completed a first run, 0 if it is not loaded any more \
             or could not be loaded";
        registry.register("sightline_model_loaded", help, self.loaded.clone());
        let help = "Time that the last successful load of the model took";
        registry.register("sightline_model_load_seconds", help, self.seconds.clone());
        let help = "Attempts to replace or to add a model while the server runs, by result";
        registry.register("sightline_model_reloads", help, self.reloads.clone());
    }

    /// Returns the gauge `sightline_model_loaded` of a model.
    pub fn loaded(&self, label: ModelLabel<'_>) -> Gauge {
        for result in ReloadResult::ALL {
            // Each counter exists with the value 0, so that rates of Prometheus include the first reload.
            self.reloads(label, result);
        }
        self.loaded.get_or_create(&label.into()).clone()
    }

    /// Returns the number of threads of a model that are stuck, also of its instances that were replaced or unloaded.
    pub fn stuck(&self, label: ModelLabel<'_>) -> usize {
        let stuck = self.stuck_workers.get(&label.into());
        stuck.map_or(0, |gauge| usize::try_from(gauge.get()).unwrap_or(0))
    }

    /// Records that a model is not loaded any more, or could not be loaded: it is neither ready nor unready.
    pub fn unloaded(&self, label: ModelLabel<'_>) {
        self.loaded(label).set(0);
        self.ready.remove(&label.into());
    }

    /// Records how long a successful load took.
    pub fn took(&self, label: ModelLabel<'_>, seconds: f64) {
        self.seconds.get_or_create(&label.into()).set(seconds);
    }

    /// Counts an attempt to replace or to add a model.
    pub fn reload(&self, label: ModelLabel<'_>, result: ReloadResult) {
        self.reloads(label, result).inc();
    }

    /// Removes the metrics of a model.
    pub(super) fn forget(&self, labels: &ModelLabels) {
        self.loaded.remove(labels);
        self.seconds.remove(labels);
        self.ready.remove(labels);
        self.stuck_workers.remove(labels);
        for result in ReloadResult::ALL {
            self.reloads.remove(&ReloadLabels {
                model: labels.model.clone(),
                variant: labels.variant.clone(),
                result,
            });
        }
    }

    fn reloads(&self, label: ModelLabel<'_>, result: ReloadResult) -> Counter {
        let labels = ReloadLabels {
            model: label.model.to_owned(),
            variant: label.variant.to_owned(),
            result,
        };
        self.reloads.get_or_create(&labels).clone()
    }
}
