//! The results of the models that `bench` measures in this process, one line each.

use serde::Serialize;
use sightline::threads::usable_cores;

use super::alone::Stages;
use super::load::{Load, median};

/// The results of one round of measurements of a model.
pub(super) struct Round {
    pub(super) stages: Stages,
    /// Median latency over one connection, in milliseconds.
    pub(super) single: f64,
    /// Latency and throughput over `--connections` connections.
    pub(super) many: Load,
}

/// One line of the table: the results of a model.
#[derive(Serialize)]
pub(super) struct Line {
    model: String,
    stages: Stages,
    /// Median latency over one connection, in milliseconds.
    single_p50: f64,
    /// Median latency over one connection minus the elapsed time of the stages without a server, in
    /// milliseconds.
    added: f64,
    /// Median latency over `--connections` connections, in milliseconds.
    many_p50: f64,
    /// 99th percentile of the latency over `--connections` connections, in milliseconds.
    many_p99: f64,
    /// Throughput over `--connections` connections, in images per second.
    per_second: f64,
    /// `per_second` as a fraction of the throughput that the CPU cores would reach if they ran only
    /// the stages of requests.
    of_ideal: f64,
    /// CPU usage while the server is idle, as a fraction of one core.
    idle: f64,
}

impl Line {
    /// Header line of the table, with the names of the columns.
    pub(super) const HEAD: &str = "model                                    decode prepr. infer. postpr.  wall |  1 conn: p50  added | \
         load: p50    p99  images/s  of ideal | idle CPU";

    pub(super) fn new(model: String, idle: f64, rounds: &[Round]) -> Self {
        let over = |figure: &dyn Fn(&Round) -> f64| median(rounds.iter().map(figure).collect());
        let cores = usable_cores() as f64;
        Self {
            model,
            stages: Stages {
                decode: over(&|round| round.stages.decode),
                preprocess: over(&|round| round.stages.preprocess),
                inference: over(&|round| round.stages.inference),
                postprocess: over(&|round| round.stages.postprocess),
                wall: over(&|round| round.stages.wall),
            },
            single_p50: over(&|round| round.single),
            added: over(&|round| round.single - round.stages.wall),
            many_p50: over(&|round| round.many.p50),
            many_p99: over(&|round| round.many.p99),
            per_second: over(&|round| round.many.per_second),
            of_ideal: over(&|r| r.many.per_second * r.stages.cpu() / 1000.0 / cores),
            idle,
        }
    }
}

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Stages {
            decode,
            preprocess,
            inference,
            postprocess,
            wall,
        } = self.stages;
        write!(
            f,
            "{:40} {decode:6.2} {preprocess:6.2} {inference:6.2} {postprocess:6.2} {wall:6.2} | ",
            self.model
        )?;
        write!(f, "{:12.2} {:6.2} | ", self.single_p50, self.added)?;
        write!(
            f,
            "{:9.2} {:6.2} {:9.1} ",
            self.many_p50, self.many_p99, self.per_second
        )?;
        write!(
            f,
            "{:8.1}% | {:7.2}%",
            self.of_ideal * 100.0,
            self.idle * 100.0
        )
    }
}
