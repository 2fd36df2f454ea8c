//! Requests that arrive at three times the rate that the server can process, at fixed times.

use std::time::Duration;

use anyhow::Result;

use super::{CpuMeter, maximum};
use crate::Plan;
use crate::load::{Target, open};
use crate::photos::{COFFEE_LABEL, coffee};
use crate::report::Report;
use crate::server::Server;

/// Arrivals for each request that the server can process.
const OVERLOAD: f64 = 3.0;
/// Most requests in flight, below the server's default `--max-connections`.
const CONNECTIONS: usize = 1000;
/// Deadlines of the server's requests; `None` is the default.
const DEADLINES: [Option<&str>; 2] = [None, Some("1000")];
/// The default deadline.
const DEFAULT_DEADLINE: Duration = Duration::from_secs(30);

pub(super) fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    DEADLINES
        .into_iter()
        .try_for_each(|deadline| with_deadline(plan, report, deadline))
}

fn with_deadline(plan: &Plan, report: &mut Report, deadline: Option<&str>) -> Result<()> {
    let flag: Vec<&str> = deadline
        .iter()
        .flat_map(|ms| ["--request-timeout-ms", ms])
        .collect();
    let mut server = Server::start(plan, &flag)?;
    let limit = match deadline {
        Some(ms) => ms.parse()?,
        None => DEFAULT_DEADLINE.as_secs_f64() * 1000.0,
    };
    report.section(&format!("open-loop, deadline {limit} ms"));
    let request = coffee()?;
    let target = Target {
        address: server.address,
        request: &request,
        label: Some(COFFEE_LABEL),
    };
    maximum(&target, plan.unloaded / 4)?;
    let allowed = server.memory_plan()?;
    let before = maximum(&target, plan.unloaded)?;
    server.reset_peak_memory()?;
    let meter = CpuMeter::start(&server)?;
    let tally = open(&target, before * OVERLOAD, CONNECTIONS, plan.load)?;
    meter.report(&server, report)?;
    let peak = server.memory("VmHWM")?;
    let after = maximum(&target, plan.unloaded)?;
    server.check_alive()?;

    report.info(
        "unloaded maximum before, after, 1/s",
        format!("{before:.1}, {after:.1}"),
    );
    report.statuses("statuses", &tally, &[200, 429, 504]);
    let late = tally.late as f64 / tally.requests().max(1) as f64 * 100.0;
    report.info(
        "arrivals sent late, all connections in use, %",
        format!("{late:.1}"),
    );
    let goodput = tally.goodput(plan.load);
    report.at_least("goodput / maximum", goodput * 2.0 / (before + after), 0.95);
    report.info(
        "latency of 200, p50 and p99, ms",
        format!("{:.0}, {:.0}", tally.latency(0.5), tally.latency(0.99)),
    );
    report.below("p99 of 200, ms", tally.latency(0.99), limit);
    report.below("peak memory, MiB", peak, allowed);
    Ok(())
}
