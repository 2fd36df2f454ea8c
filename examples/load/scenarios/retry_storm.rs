//! The scenario `retry-storm`: clients send the next request immediately after a response, whether
//! it is a result or a rejection.

use anyhow::Result;

use super::overload;
use crate::Plan;
use crate::load::closed;
use crate::report::Report;

/// Number of clients with one connection each. It is below the server's default
/// `--max-connections`.
const CLIENTS: usize = 1000;
/// Minimum goodput, as a fraction of the maximum that is measured without overload.
const GOODPUT: f64 = 0.85;

pub(super) fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    report.section("retry-storm");
    overload::run(plan, report, &[], GOODPUT, |target, _, period| {
        closed(target, CLIENTS, period)
    })?;
    Ok(())
}
