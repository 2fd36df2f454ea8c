//! More requests than the server can process: the figures that all kinds of overload share.

use std::io;

use anyhow::Result;

use super::{CpuMeter, maximum};
use crate::Plan;
use crate::load::Target;
use crate::photos::{COFFEE_LABEL, coffee};
use crate::report::Report;
use crate::server::Server;
use crate::tally::Tally;

/// Statuses of valid requests under overload.
const STATUSES: [u16; 3] = [200, 429, 504];

/// Runs `load`, which gets the unloaded maximum in responses per second, between two measurements
/// of that maximum. Adds the figures to the report; goodput must be at least the fraction
/// `goodput` of the maximum.
pub(super) fn run(
    plan: &Plan,
    report: &mut Report,
    flags: &[&str],
    goodput: f64,
    load: impl FnOnce(&Target<'_>, f64) -> io::Result<Tally>,
) -> Result<Tally> {
    let mut server = Server::start(plan, flags)?;
    let request = coffee()?;
    let target = Target {
        address: server.address,
        request: &request,
        label: Some(COFFEE_LABEL),
    };
    // The first requests allocate memory.
    maximum(&target, plan.unloaded / 4)?;
    let allowed = server.memory_plan()?;
    let before = maximum(&target, plan.unloaded)?;
    server.reset_peak_memory()?;
    let meter = CpuMeter::start(&server)?;
    let tally = load(&target, before)?;
    meter.report(&server, report)?;
    let peak = server.memory("VmHWM")?;
    let after = maximum(&target, plan.unloaded)?;
    server.check_alive()?;

    let maxima = format!("{before:.1}, {after:.1}");
    report.info("unloaded maximum before, after, 1/s", maxima);
    report.statuses("statuses", &tally, &STATUSES);
    let fraction = tally.goodput(plan.load) * 2.0 / (before + after);
    report.at_least("goodput / maximum", fraction, goodput);
    let (p50, p99) = (tally.latency(0.5), tally.latency(0.99));
    report.info(
        "latency of 200, p50 and p99, ms",
        format!("{p50:.0}, {p99:.0}"),
    );
    report.below("peak memory, MiB", peak, allowed);
    Ok(tally)
}
