//! Computes how many replicas serve a rate of requests within a latency goal, from measured costs.
//!
//! A replica is a queue in front of `cores` servers (M/G/k): requests arrive at random times, independently of each
//! other, and each occupies one core for a time that was measured. The module `queue` has the formulas, whose tests compare them
//! with a simulation. A load balancer divides the rate evenly among the replicas, each of which has a queue of its own;
//! one that sends each request to the least loaded replica does better than the plan.

mod costs;
mod gamma;
mod queue;
#[cfg(test)]
mod simulation;

pub use costs::{Costs, CostsError};
pub use queue::{Latency, Queue};

/// Utilization above which a replica counts as overloaded: its queue grows for minutes after a small burst, and the
/// formulas describe the mean of such hours only.
pub const MAX_UTILIZATION: f64 = 0.95;
/// Largest number of replicas that is considered.
pub const MAX_REPLICAS: u32 = 10_000;

/// What the replicas have to do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Goal {
    /// Requests per second of all replicas together, greater than 0.
    pub rate: f64,
    /// Latency within which 99 % of the requests must be served, in seconds.
    pub p99: f64,
    /// Cores of each replica, at least 1.
    pub cores: u32,
}

/// Latencies with a number of replicas.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outcome {
    /// Number of replicas.
    pub replicas: u32,
    /// Share of the time in which a core of a replica is busy; above 1 if the replicas cannot serve the rate.
    pub utilization: f64,
    /// Latencies of the requests. `None` if the utilization is above [`MAX_UTILIZATION`].
    pub latency: Option<Latency>,
}

/// Why there is no plan.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum PlanError {
    /// More replicas do not help.
    #[error(
        "the p99 goal of {goal:.1} ms cannot be met: a request takes {alone:.1} ms (p99) on an idle replica; \
         choose a faster model, int8, or smaller images"
    )]
    TooSlow {
        /// The goal, in milliseconds.
        goal: f64,
        /// The p99 of the service time, in milliseconds.
        alone: f64,
    },
    /// The rate is too high.
    #[error(
        "more than {MAX_REPLICAS} replicas would be needed: check --rate, or use more cores per replica"
    )]
    TooMany,
}

/// Returns the latencies if `replicas` replicas serve `goal.rate` requests per second.
pub fn outcome(costs: &Costs, goal: &Goal, replicas: u32) -> Outcome {
    let queue = Queue::new(costs, goal.cores, goal.rate / f64::from(replicas.max(1)));
    let utilization = queue.utilization();
    Outcome {
        replicas,
        utilization,
        latency: (utilization <= MAX_UTILIZATION).then(|| queue.latency()),
    }
}

/// Returns the outcome with the smallest number of replicas that meets `goal`.
///
/// # Errors
/// If no number of replicas meets the goal.
pub fn plan(costs: &Costs, goal: &Goal) -> Result<Outcome, PlanError> {
    let alone = costs.quantile(0.99);
    if alone > goal.p99 {
        let (goal, alone) = (goal.p99 * 1e3, alone * 1e3);
        return Err(PlanError::TooSlow { goal, alone });
    }
    let meets = |replicas| {
        let latency = outcome(costs, goal, replicas).latency;
        latency.is_some_and(|latency| latency.p99 <= goal.p99)
    };
    // Latencies fall with the number of replicas, so the smallest one is found by bisection.
    let (mut low, mut high) = (0, 1);
    while !meets(high) {
        if high >= MAX_REPLICAS {
            return Err(PlanError::TooMany);
        }
        low = high;
        high = (high * 2).min(MAX_REPLICAS);
    }
    while high - low > 1 {
        let middle = low.midpoint(high);
        if meets(middle) {
            high = middle;
        } else {
            low = middle;
        }
    }
    Ok(outcome(costs, goal, high))
}

/// Returns the memory limit for a replica that has `resident` bytes resident when its models are loaded: requests get 60 %
/// of the limit (`--memory-budget`), which leaves the rest for the models and the allocator. At least 512 MiB, in steps
/// of 128 MiB.
pub fn memory_limit(resident: u64) -> u64 {
    const STEP: u64 = 128 << 20;
    let limit = (resident as f64 / 0.4) as u64;
    limit.max(512 << 20).div_ceil(STEP) * STEP
}

#[cfg(test)]
mod tests {
    use super::*;

    fn goal(rate: f64, p99: f64, cores: u32) -> Goal {
        Goal { rate, p99, cores }
    }

    #[test]
    fn the_smallest_number_of_replicas_meets_the_goal() {
        let costs = Costs::new(vec![0.009, 0.010, 0.011]).unwrap();
        for (rate, p99, cores) in [(50.0, 0.05, 2), (900.0, 0.03, 2), (5000.0, 0.012, 8)] {
            let goal = goal(rate, p99, cores);
            let found = plan(&costs, &goal).unwrap();
            assert!(found.latency.unwrap().p99 <= p99, "{found:?}");
            if found.replicas > 1 {
                let fewer = outcome(&costs, &goal, found.replicas - 1).latency;
                assert!(fewer.is_none_or(|latency| latency.p99 > p99), "{found:?}");
            }
        }
    }

    #[test]
    fn goals_that_cannot_be_met_are_errors() {
        let costs = Costs::new(vec![0.010; 10]).unwrap();
        let slow = plan(&costs, &goal(1.0, 0.005, 2)).unwrap_err();
        assert!(
            slow.to_string().contains("a request takes 10.0 ms"),
            "{slow}"
        );
        let many = plan(&costs, &goal(1e9, 0.1, 1));
        assert_eq!(many, Err(PlanError::TooMany));
    }

    #[test]
    fn an_overloaded_replica_has_no_latency() {
        let costs = Costs::new(vec![0.010]).unwrap();
        let overloaded = outcome(&costs, &goal(300.0, 1.0, 2), 1);
        assert!((overloaded.utilization - 1.5).abs() < 1e-9);
        assert_eq!(overloaded.latency, None);
    }

    #[test]
    fn memory_limits_leave_the_budget_of_requests() {
        assert_eq!(memory_limit(110 << 20), 512 << 20);
        assert_eq!(memory_limit(400 << 20), 1024 << 20);
    }
}
