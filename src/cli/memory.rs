//! The memory plan of `serve`: its budget, its division among the parts, and how it is reported.

use std::io::Write as _;
use std::path::Path;

use sightline::config::{ConfigError, ServeConfig};
use sightline::memory::{
    BudgetOrigin, ByteSize, Demands, MemoryPlan, default_budget, memory_limit,
};
use sightline::registry::expected_tensor_demand;
use sightline::store::ModelSource;

/// A memory plan and its origin.
pub(super) struct Planned {
    pub(super) plan: MemoryPlan,
    /// Bytes that the plan may use; `None` if no limit is known.
    budget: Option<u64>,
    origin: BudgetOrigin,
    threads: usize,
}

impl Planned {
    /// Plans the memory for a server with the models of `sources`. `origin` is where a budget that is set was set.
    ///
    /// # Errors
    /// [`ConfigError::Memory`] if the budget or a part that is set is too small.
    pub(super) fn new(
        config: &ServeConfig,
        origin: BudgetOrigin,
        sources: &[ModelSource],
    ) -> Result<Self, ConfigError> {
        let manifests = sources.iter().map(|source| &source.manifest);
        let tensors = expected_tensor_demand(manifests);
        let demands = Demands::new(&config.limits, config.cores, tensors);
        let share = |(limit, origin)| (Some(default_budget(limit)), origin);
        let (budget, origin) = match config.memory_budget {
            Some(bytes) => (Some(bytes), origin),
            None => memory_limit(Path::new("/")).map_or((None, BudgetOrigin::Unlimited), share),
        };
        Ok(Self {
            plan: MemoryPlan::new(budget.unwrap_or(u64::MAX), &demands, config.parts)?,
            budget,
            origin,
            threads: config.cores,
        })
    }

    /// Logs the plan as one event, and prints it for people.
    pub(super) fn announce(&self) {
        let plan = &self.plan;
        tracing::info!(
            budget_bytes = self.budget,
            origin = self.origin.as_str(),
            bodies_bytes = plan.bodies,
            pixels_bytes = plan.pixels(),
            tensors_bytes = plan.tensors,
            responses_bytes = plan.responses,
            total_bytes = plan.total(),
            decode_threads = self.threads,
            "memory plan"
        );
        // A closed stdout is not a reason to stop.
        let _ = writeln!(
            std::io::stdout(),
            "memory for requests: {} (bodies {}, images {}, tensors {}, responses {})",
            ByteSize(plan.total()),
            ByteSize(plan.bodies),
            ByteSize(plan.pixels()),
            ByteSize(plan.tensors),
            ByteSize(plan.responses),
        );
    }
}
