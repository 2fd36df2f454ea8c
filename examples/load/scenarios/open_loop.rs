//! The scenario `open-loop`: requests arrive at fixed times, at three times the rate that the
//! server can process.

use anyhow::Result;

use super::overload;
use crate::Plan;
use crate::load::open;
use crate::report::Report;

/// Arrival rate as a multiple of the server's maximum goodput.
const OVERLOAD: f64 = 3.0;
/// Number of connections, which is the maximum number of requests in flight. It is below the
/// server's default `--max-connections`.
const CONNECTIONS: usize = 1000;
/// Minimum goodput, as a fraction of the maximum that is measured without overload.
const GOODPUT: f64 = 0.95;
/// Values of `--request-timeout-ms`: the server's default, and a deadline that is shorter than the
/// server needs to process a full queue.
const DEADLINES: [&str; 2] = ["30000", "1000"];

pub(super) fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    DEADLINES
        .into_iter()
        .try_for_each(|deadline| with_deadline(plan, report, deadline))
}

fn with_deadline(plan: &Plan, report: &mut Report, deadline: &str) -> Result<()> {
    report.section(&format!("open-loop, deadline {deadline} ms"));
    let flags = ["--request-timeout-ms", deadline];
    let tally = overload::run(plan, report, &flags, GOODPUT, |target, maximum, period| {
        open(target, maximum * OVERLOAD, CONNECTIONS, period)
    })?;
    let late = tally.late as f64 / tally.requests().max(1) as f64 * 100.0;
    let figure = "arrivals sent late because all connections were in use, %";
    report.info(figure, format!("{late:.1}"));
    let p99 = format!("{:.0}", tally.latency(0.99));
    report.info("p99 of 200 from the arrival time, ms", p99);
    // The server does not know how long a request waited for a connection.
    let p99 = tally.latency_from_sending(0.99);
    report.below("p99 of 200 from sending, ms", p99, deadline.parse()?);
    Ok(())
}
