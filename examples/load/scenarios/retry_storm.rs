//! Clients that send the next request immediately, whether they got a result or a rejection.

use anyhow::Result;

use super::{CpuMeter, maximum};
use crate::Plan;
use crate::load::{Target, closed};
use crate::photos::{COFFEE_LABEL, coffee};
use crate::report::Report;
use crate::server::Server;

/// Clients, below the server's default `--max-connections`.
const CLIENTS: usize = 1000;

pub(super) fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    report.section("retry-storm");
    let mut server = Server::start(plan, &[])?;
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
    let tally = closed(&target, CLIENTS, plan.load)?;
    meter.report(&server, report)?;
    let peak = server.memory("VmHWM")?;
    let after = maximum(&target, plan.unloaded)?;
    server.check_alive()?;

    report.info(
        "unloaded maximum before, after, 1/s",
        format!("{before:.1}, {after:.1}"),
    );
    report.statuses("statuses", &tally, &[200, 429, 504]);
    let goodput = tally.goodput(plan.load);
    report.at_least("goodput / maximum", goodput * 2.0 / (before + after), 0.85);
    report.info(
        "latency of 200, p50 and p99, ms",
        format!("{:.0}, {:.0}", tally.latency(0.5), tally.latency(0.99)),
    );
    report.below("peak memory, MiB", peak, allowed);
    Ok(())
}
