//! Cumulative statistics of each model in the form of the Open Inference Protocol. Unlike metrics, they are read by
//! clients, for example by load generators at the start and the end of a measurement.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::labels::{ModelLabels, Stage};
use crate::pipeline::Timing;

/// How often something happened, and its total time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Number of events.
    pub count: u64,
    /// Time of all events together, in nanoseconds.
    pub ns: u64,
}

impl Count {
    fn add(&mut self, duration: Duration) {
        self.count += 1;
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.ns = self.ns.saturating_add(ns);
    }
}

/// The statistics of one model at one moment. The times of the stages of a request are means over its images.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StatisticsSnapshot {
    /// Time of the last run of the network, in milliseconds since the epoch. 0 if there was none.
    pub last_inference_ms: u64,
    /// Number of images that the network has run on.
    pub images: u64,
    /// Number of runs of the network.
    pub executions: u64,
    /// Successful requests, without the time to receive their bodies.
    pub success: Count,
    /// Failed requests.
    pub fail: Count,
    /// Stages `admission` and `queue` of successful requests.
    pub queue: Count,
    /// Stages `decode` and `preprocess` of successful requests.
    pub compute_input: Count,
    /// Stage `inference` of successful requests.
    pub compute_infer: Count,
    /// Stages `postprocess` and `encode` of successful requests.
    pub compute_output: Count,
    /// Runs of the network by the number of images.
    pub batches: BTreeMap<usize, Count>,
}

/// The statistics of one model.
#[derive(Debug, Default)]
pub struct Statistics(Mutex<StatisticsSnapshot>);

impl Statistics {
    /// Returns the statistics as they are now.
    pub fn snapshot(&self) -> StatisticsSnapshot {
        self.lock().clone()
    }

    /// Counts a successful request that took `duration`, whose stages took `stages`.
    pub(super) fn succeeded(&self, duration: Duration, stages: Timing) {
        let mut all = self.lock();
        all.success.add(duration);
        all.queue
            .add(stages[Stage::admission] + stages[Stage::queue]);
        all.compute_input
            .add(stages[Stage::decode] + stages[Stage::preprocess]);
        all.compute_infer.add(stages[Stage::inference]);
        all.compute_output
            .add(stages[Stage::postprocess] + stages[Stage::encode]);
    }

    /// Counts a failed request that took `duration`.
    pub(super) fn failed(&self, duration: Duration) {
        self.lock().fail.add(duration);
    }

    /// Counts a run of the network on `images` images that took `duration`.
    pub(super) fn ran(&self, images: usize, duration: Duration) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.unwrap_or_default().as_millis();
        let mut all = self.lock();
        all.last_inference_ms = u64::try_from(now).unwrap_or(u64::MAX);
        all.images += images as u64;
        all.executions += 1;
        // Batches have a maximum size, so that their number is bounded.
        all.batches.entry(images).or_default().add(duration);
    }

    /// No code panics while it holds this lock.
    fn lock(&self) -> std::sync::MutexGuard<'_, StatisticsSnapshot> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The statistics of all models.
#[derive(Debug, Default)]
pub(super) struct StatisticsList(RwLock<HashMap<ModelLabels, Arc<Statistics>>>);

impl StatisticsList {
    /// Returns the statistics of the model `labels`, which are empty at the first call.
    pub(super) fn of(&self, labels: ModelLabels) -> Arc<Statistics> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.get(&labels) {
            return Arc::clone(known);
        }
        drop(known);
        let mut list = self.0.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(list.entry(labels).or_default())
    }

    /// Removes the statistics of a model that was removed.
    pub(super) fn forget(&self, labels: &ModelLabels) {
        let mut list = self.0.write().unwrap_or_else(PoisonError::into_inner);
        list.remove(labels);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_runs_are_counted() {
        let milliseconds = Duration::from_millis;
        let list = StatisticsList::default();
        let labels = ModelLabels {
            model: "m".to_owned(),
            variant: "fp32".to_owned(),
        };
        let statistics = list.of(labels.clone());
        let mut stages = Timing::default();
        stages[Stage::queue] = milliseconds(1);
        stages[Stage::decode] = milliseconds(2);
        stages[Stage::inference] = milliseconds(4);
        stages[Stage::postprocess] = milliseconds(8);
        statistics.succeeded(milliseconds(20), stages);
        statistics.failed(milliseconds(3));
        statistics.ran(2, milliseconds(4));
        statistics.ran(2, milliseconds(5));
        let got = list.of(labels.clone()).snapshot();
        let count = |count, milliseconds: u64| Count {
            count,
            ns: milliseconds * 1_000_000,
        };
        assert_eq!((got.images, got.executions), (4, 2));
        assert_eq!((got.success, got.fail), (count(1, 20), count(1, 3)));
        assert_eq!((got.queue, got.compute_input), (count(1, 1), count(1, 2)));
        assert_eq!(
            (got.compute_infer, got.compute_output),
            (count(1, 4), count(1, 8))
        );
        assert_eq!(got.batches, BTreeMap::from([(2, count(2, 9))]));
        assert!(got.last_inference_ms > 1_700_000_000_000);
        list.forget(&labels);
        assert_eq!(list.of(labels).snapshot(), StatisticsSnapshot::default());
    }
}
