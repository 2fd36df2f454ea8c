//! Removal of the metrics of models that are not served any more, so that their number stays bounded.

use std::sync::PoisonError;

use super::Metrics;
use super::labels::{
    Cut, CutLabels, FailureLabels, ModelLabel, ModelLabels, Rejection, RejectionLabels,
    RequestLabels, RouteLabels, Stage, StageLabels, WorkerFailure,
};

impl Metrics {
    /// Records that a model had a request on `route`. The number of routes is bounded.
    pub(super) fn note_route(&self, route: &str) {
        let known = self.routes.read().unwrap_or_else(PoisonError::into_inner);
        if known.contains(route) {
            return;
        }
        drop(known);
        let mut known = self.routes.write().unwrap_or_else(PoisonError::into_inner);
        known.insert(route.to_owned());
    }

    /// Removes the metrics of a model that was removed. No instance of it may be left, because an instance goes on
    /// writing to values that are not exported any more.
    pub fn forget_model(&self, label: ModelLabel<'_>) {
        let labels = ModelLabels::from(label);
        self.batch_size.remove(&labels);
        self.stopped_runs.remove(&labels);
        self.worker_restarts.remove(&labels);
        self.tensor_pixels.remove(&labels);
        self.padding_pixels.remove(&labels);
        self.images.remove(&labels);
        self.loads.forget(&labels);
        if let Some(triton) = &self.triton {
            triton.forget(&labels);
        }
        self.statistics.forget(&labels);
        self.forget_reasons(&labels);
        self.forget_routes(&labels);
    }

    /// Removes the metrics with a further label.
    fn forget_reasons(&self, labels: &ModelLabels) {
        let names = || (labels.model.clone(), labels.variant.clone());
        for stage in Stage::ALL {
            let (model, variant) = names();
            let labels = StageLabels {
                stage,
                model,
                variant,
            };
            self.stage_duration.remove(&labels);
            self.cancelled.remove(&labels);
        }
        for reason in Cut::ALL {
            let (model, variant) = names();
            self.batches.remove(&CutLabels {
                reason,
                model,
                variant,
            });
        }
        for kind in WorkerFailure::ALL {
            let (model, variant) = names();
            self.worker_failures.remove(&FailureLabels {
                kind,
                model,
                variant,
            });
        }
        for reason in Rejection::ALL {
            let (model, variant) = names();
            self.rejected.remove(&RejectionLabels {
                reason,
                model,
                variant,
            });
        }
    }

    /// Removes the metrics of requests.
    fn forget_routes(&self, labels: &ModelLabels) {
        let routes = self.routes.read().unwrap_or_else(PoisonError::into_inner);
        for route in routes.iter() {
            let mut labels = RequestLabels {
                route: route.clone(),
                status: 0,
                model: labels.model.clone(),
                variant: labels.variant.clone(),
            };
            for status in 100..600 {
                labels.status = status;
                self.requests.remove(&labels);
            }
            self.request_duration.remove(&RouteLabels {
                route: labels.route,
                model: labels.model,
                variant: labels.variant,
            });
        }
    }
}
