//! The measurement that the overload scenarios share: more requests than the server can process.

use std::io;

use anyhow::Result;

use super::{CpuMeter, maximum};
use crate::Plan;
use crate::load::Target;
use crate::photos::{COFFEE_LABEL, coffee};
use crate::report::Report;
use crate::server::Server;
use crate::tally::Tally;

/// Status codes that valid requests may get under overload.
const STATUSES: [u16; 3] = [200, 429, 504];

/// Starts a server with `flags`, measures its maximum goodput, runs `load`, and measures the
/// maximum goodput again. The arguments of `load` are the request to send and the first maximum, in
/// responses per second. Adds the figures to the report: the goodput of `load` must be at least the
/// fraction `goodput` of the mean of the two maxima. Returns the tally of `load`.
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
    // The first requests make the server allocate memory that it keeps, which is part of its idle
    // memory.
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
