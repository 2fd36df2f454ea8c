//! Shares the CPU threads of the process among the workers of a model.

use std::thread::available_parallelism;

/// Maximum number of workers of a model if neither the worker count nor the thread count is set. On
/// more cores, each worker's session gets several threads.
const MAX_INSTANCES: usize = 8;

/// Number of workers of one model, and number of threads in each worker's session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ThreadPlan {
    /// Number of workers of the model, each with its own session.
    pub instances: usize,
    /// Thread count of each worker's session.
    pub intra_op_threads: usize,
}

/// Returns the number of cores that the process may use, within its affinity mask and its cgroup's CPU
/// quota.
pub fn usable_cores() -> usize {
    available_parallelism().map_or(1, usize::from)
}

impl ThreadPlan {
    /// Returns the plan for `cores` cores. `instances` (workers) and `intra_op_threads` are used as
    /// given. A count that is `None` is chosen so that all workers together have about `cores`
    /// threads.
    ///
    /// If neither count is given, up to 8 cores run one single-threaded worker each. One worker per
    /// core has the highest throughput, because some layers of every network do not scale with the
    /// thread count.
    pub fn new(cores: usize, instances: Option<usize>, intra_op_threads: Option<usize>) -> Self {
        let cores = cores.max(1);
        let (instances, intra_op_threads) = match (instances, intra_op_threads) {
            (Some(instances), Some(threads)) => (instances, threads),
            (Some(instances), None) => (instances, cores / instances.min(cores).max(1)),
            (None, Some(threads)) => ((cores / threads.max(1)).max(1), threads),
            (None, None) => {
                let threads = cores.div_ceil(MAX_INSTANCES);
                (cores / threads, threads)
            }
        };
        Self {
            instances: instances.max(1),
            intra_op_threads: intra_op_threads.max(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans() {
        let cases = [
            (1, None, None, (1, 1)),
            (2, None, None, (2, 1)),
            (8, None, None, (8, 1)),
            (12, None, None, (6, 2)),
            (64, None, None, (8, 8)),
            (4, Some(1), None, (1, 4)),
            (4, Some(16), None, (16, 1)),
            (4, None, Some(2), (2, 2)),
            (2, None, Some(8), (1, 8)),
            (2, Some(3), Some(5), (3, 5)),
            (0, None, None, (1, 1)),
        ];
        for (cores, instances, threads, expected) in cases {
            let plan = ThreadPlan::new(cores, instances, threads);
            let got = (plan.instances, plan.intra_op_threads);
            assert_eq!(got, expected, "{cores} cores, {instances:?}, {threads:?}");
        }
    }
}
