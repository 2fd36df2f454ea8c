//! Plans the workers of a model and the threads of their sessions.

use std::thread::available_parallelism;

use crate::cores::Performance;

/// Maximum number of workers of a model if their number is not set. On more cores, sessions with several threads use
/// the rest.
const MAX_INSTANCES: usize = 64;

/// Number of workers of one model, and the thread counts of their sessions. All models share the cores, so this bounds
/// what one model can use, and does not divide the cores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ThreadPlan {
    /// Number of workers of the model, which is the number of batches that can run at the same time.
    pub instances: usize,
    /// Maximum thread count of a session.
    pub intra_op_threads: usize,
}

/// Returns the number of cores that the process may use, within its affinity mask and its cgroup's CPU
/// quota.
pub fn usable_cores() -> usize {
    available_parallelism().map_or(1, usize::from)
}

impl ThreadPlan {
    /// Returns the plan for `cores` cores. `instances` bounds the number of workers and `intra_op_threads` the thread
    /// count of a session; without them, up to 64 workers can use all cores, alone or together. With
    /// [`Performance::Throughput`], there is one worker with one thread for each core.
    pub fn new(
        cores: usize,
        instances: Option<usize>,
        intra_op_threads: Option<usize>,
        performance: Performance,
    ) -> Self {
        let cores = cores.max(1);
        let (most_instances, most_threads) = match performance {
            Performance::Throughput => (cores, 1),
            Performance::Latency | Performance::Auto => (cores.min(MAX_INSTANCES), cores),
        };
        let threads = intra_op_threads.unwrap_or(most_threads);
        Self {
            instances: instances.unwrap_or(most_instances).max(1),
            intra_op_threads: threads.clamp(1, most_threads),
        }
    }

    /// Returns the thread counts above 1 of the sessions that a model may have, in ascending order: powers of two, and
    /// the maximum.
    pub fn wider(self) -> impl Iterator<Item = usize> {
        let most = self.intra_op_threads;
        let powers = (1..usize::BITS).map(|shift| 1 << shift);
        let powers = powers.take_while(move |threads| *threads < most);
        powers.chain((most > 1).then_some(most))
    }

    /// Returns the number of workers that have a session with `threads` threads, so that these sessions can use all of
    /// `cores` cores.
    pub fn sessions(self, threads: usize, cores: usize) -> usize {
        let fitting = (cores / threads.max(1)).max(1);
        if threads <= 1 {
            self.instances
        } else {
            self.instances.min(fitting)
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
            (2, None, None, (2, 2)),
            (8, None, None, (8, 8)),
            (12, None, None, (12, 12)),
            (64, None, None, (64, 64)),
            (4, Some(1), None, (1, 4)),
            (4, Some(16), None, (16, 4)),
            (4, None, Some(2), (4, 2)),
            (2, None, Some(8), (2, 2)),
            (2, Some(3), Some(5), (3, 2)),
            (0, None, None, (1, 1)),
        ];
        for (cores, instances, threads, expected) in cases {
            let plan = ThreadPlan::new(cores, instances, threads, Performance::Auto);
            let got = (plan.instances, plan.intra_op_threads);
            assert_eq!(got, expected, "{cores} cores, {instances:?}, {threads:?}");
        }
        let throughput = ThreadPlan::new(64, None, None, Performance::Throughput);
        assert_eq!((throughput.instances, throughput.intra_op_threads), (64, 1));
    }

    #[test]
    fn sessions_of_each_thread_count_fit_the_cores() {
        // Columns: cores, then the number of sessions of each thread count.
        let cases: [(usize, &[(usize, usize)]); 4] = [
            (1, &[(1, 1)]),
            (2, &[(1, 2), (2, 1)]),
            (12, &[(1, 12), (2, 6), (4, 3), (8, 1), (12, 1)]),
            (
                64,
                &[(1, 64), (2, 32), (4, 16), (8, 8), (16, 4), (32, 2), (64, 1)],
            ),
        ];
        for (cores, expected) in cases {
            let plan = ThreadPlan::new(cores, None, None, Performance::Auto);
            let threads = std::iter::once(1).chain(plan.wider());
            let sessions: Vec<_> = threads
                .map(|threads| (threads, plan.sessions(threads, cores)))
                .collect();
            assert_eq!(sessions, expected, "{cores} cores");
        }
    }
}
