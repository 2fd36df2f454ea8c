//! The statistics extension: what each model has run so far.

use serde::Serialize;

use super::face::{Target, VERSION};
use crate::app::App;
use crate::metrics::Count;
use crate::registry::Snapshot;

/// The cumulative statistics of one name of a model. Both faces of a variant, and all protocols, share them.
#[derive(Debug, Clone, Serialize)]
pub struct ModelStatistics {
    /// Name of the model or variant.
    pub name: String,
    /// Version of the model.
    pub version: &'static str,
    /// Time of the last run of the network, in milliseconds since the epoch. 0 if there was none.
    pub last_inference: u64,
    /// Number of images that the network has run on.
    pub inference_count: u64,
    /// Number of runs of the network.
    pub execution_count: u64,
    /// Requests and their stages.
    pub inference_stats: DurationStatistics,
    /// Runs of the network by the number of images.
    pub batch_stats: Vec<BatchStatistics>,
}

/// Counts and total times of requests and of their stages.
#[derive(Debug, Clone, Serialize)]
pub struct DurationStatistics {
    /// Successful requests, without the time to receive their bodies.
    pub success: DurationCount,
    /// Failed requests.
    pub fail: DurationCount,
    /// Waits for admission and in the queue.
    pub queue: DurationCount,
    /// Decoding and preprocessing.
    pub compute_input: DurationCount,
    /// Runs of the network.
    pub compute_infer: DurationCount,
    /// Postprocessing and encoding.
    pub compute_output: DurationCount,
    /// Always 0, because responses are not cached.
    pub cache_hit: DurationCount,
    /// Always 0, because responses are not cached.
    pub cache_miss: DurationCount,
}

/// How often something happened, and its total time in nanoseconds.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct DurationCount {
    /// Number of events.
    pub count: u64,
    /// Total time in nanoseconds.
    pub ns: u64,
}

/// Runs of the network with one number of images. The images of a batch are decoded and postprocessed one by one, so that
/// only `compute_infer` belongs to the batch.
#[derive(Debug, Clone, Serialize)]
pub struct BatchStatistics {
    /// Number of images.
    pub batch_size: usize,
    /// Always 0.
    pub compute_input: DurationCount,
    /// Runs of the network.
    pub compute_infer: DurationCount,
    /// Always 0.
    pub compute_output: DurationCount,
}

impl From<Count> for DurationCount {
    fn from(Count { count, ns }: Count) -> Self {
        Self { count, ns }
    }
}

/// Returns the statistics of `target`, or of all names of served models if it is `None`.
pub fn statistics(app: &App, snapshot: &Snapshot, target: Option<Target>) -> Vec<ModelStatistics> {
    let targets = match target {
        Some(target) => vec![target],
        None => Target::all(snapshot),
    };
    targets.into_iter().map(|target| of(app, target)).collect()
}

fn of(app: &App, target: Target) -> ModelStatistics {
    let all = app.metrics.statistics(target.entry.label()).snapshot();
    let none = DurationCount::default();
    let batch = |(batch_size, runs): (usize, Count)| BatchStatistics {
        batch_size,
        compute_input: none,
        compute_infer: runs.into(),
        compute_output: none,
    };
    ModelStatistics {
        name: target.name,
        version: VERSION,
        last_inference: all.last_inference_ms,
        inference_count: all.images,
        execution_count: all.executions,
        inference_stats: DurationStatistics {
            success: all.success.into(),
            fail: all.fail.into(),
            queue: all.queue.into(),
            compute_input: all.compute_input.into(),
            compute_infer: all.compute_infer.into(),
            compute_output: all.compute_output.into(),
            cache_hit: none,
            cache_miss: none,
        },
        batch_stats: all.batches.into_iter().map(batch).collect(),
    }
}
