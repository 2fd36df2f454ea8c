//! The memory plan of `serve`: finds the memory budget, divides it among the parts (bodies, images,
//! tensors, responses), and reports the plan.

use std::path::Path;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sightline::app::App;
use sightline::config::{ConfigError, ServeConfig};
use sightline::memory::{
    BudgetOrigin, ByteSize, Demands, MemoryPlan, default_budget, memory_limit,
};
use sightline::process::ProcessUsage;
use sightline::registry::{Served, expected_tensor_demand};

use super::say::tell;

/// Limits the private writable memory of this process to `bytes` bytes: allocations over the limit fail. The address
/// space is not limited, because the reserved address space of each thread's heap would count.
pub(super) fn limit_allocations(bytes: u64) {
    let hard = getrlimit(Resource::Data).maximum;
    let bytes = Some(hard.map_or(bytes, |hard| hard.min(bytes)));
    let limit = Rlimit {
        current: bytes,
        maximum: bytes,
    };
    if let Err(error) = setrlimit(Resource::Data, limit) {
        tracing::warn!(%error, "cannot limit the memory of the process");
    }
}

/// Makes allocations fail that would bring this process to twice its memory limit, so that a network with a huge
/// intermediate tensor fails its own request, before the system kills the process. Allocated memory is usually not
/// completely used, hence twice.
pub(super) fn limit_to_machine() {
    if let Some((limit, _)) = memory_limit(Path::new("/")) {
        limit_allocations(limit.saturating_mul(2));
    }
}

/// Returns the memory in bytes that is left beside this server: the memory limit without the resident memory and without
/// the memory that requests may still take, of which `tensor_bytes` are for tensors. `None` if no limit can be read.
pub(super) fn left_beside_server(app: &App, tensor_bytes: u64) -> Option<u64> {
    let (limit, _) = memory_limit(Path::new("/"))?;
    // Tensors in use count twice, which leaves less.
    let requests = app.unreserved_bytes().saturating_add(tensor_bytes);
    let resident = ProcessUsage::now().resident_bytes;
    Some(limit.saturating_sub(resident).saturating_sub(requests))
}

/// A memory plan, with the budget that it divides and the origin of this budget.
pub(super) struct Planned {
    pub(super) plan: MemoryPlan,
    /// Memory in bytes that the parts of the plan share. `None` if no setting and no memory limit
    /// determines a budget.
    budget: Option<u64>,
    origin: BudgetOrigin,
    threads: usize,
}

impl Planned {
    /// Plans the memory for a server with the models `served`. `origin` states where
    /// `config.memory_budget` was set; it is ignored if `config` has no budget.
    ///
    /// # Errors
    /// [`ConfigError::Memory`] if the budget, or a part whose size `config` sets, is too small.
    pub(super) fn new(
        config: &ServeConfig,
        origin: BudgetOrigin,
        served: &[Served],
    ) -> Result<Self, ConfigError> {
        let tensors = expected_tensor_demand(served);
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

    /// Returns the sizes of the budget and of its parts in bytes, each with the name of its setting.
    /// The budget is `None` if no setting and no memory limit determines one.
    pub(super) fn sizes(&self) -> [(&'static str, Option<u64>); 5] {
        let plan = &self.plan;
        [
            ("memory_budget", self.budget),
            ("body_memory_bytes", Some(plan.bodies)),
            ("decode_memory_bytes", Some(plan.pixels())),
            ("tensor_memory_bytes", Some(plan.tensors)),
            ("response_memory_bytes", Some(plan.responses)),
        ]
    }

    /// Logs the plan as one event, and prints a line with the sizes of its parts to stdout.
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
        tell!(
            "memory for requests: {} (bodies {}, images {}, tensors {}, responses {})",
            ByteSize(plan.total()),
            ByteSize(plan.bodies),
            ByteSize(plan.pixels()),
            ByteSize(plan.tensors),
            ByteSize(plan.responses),
        );
    }
}
