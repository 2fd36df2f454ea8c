//! Clients that send the next request immediately, whether they got a result or a rejection.

use anyhow::Result;

use super::overload;
use crate::Plan;
use crate::load::closed;
use crate::report::Report;

/// Clients, fewer than the server's default `--max-connections`.
const CLIENTS: usize = 1000;
/// Least goodput as a fraction of the unloaded maximum.
const GOODPUT: f64 = 0.85;

pub(super) fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    report.section("retry-storm");
    overload::run(plan, report, &[], GOODPUT, |target, _| {
        closed(target, CLIENTS, plan.load)
    })?;
    Ok(())
}
