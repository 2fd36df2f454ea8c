//! An ordinary client, whose latency shows how much other clients slow the server down for it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{ScopedJoinHandle, scope};
use std::time::Duration;

use anyhow::{Result, anyhow};

use crate::load::{Period, Target, open, spawn};
use crate::report::Report;
use crate::tally::Tally;

/// Requests per second of the ordinary client.
const RATE: f64 = 20.0;
/// Maximum number of connections of the ordinary client.
const CONNECTIONS: usize = 40;

/// Sends the request of `target` for `duration`, at the rate of the ordinary client.
pub(super) fn ordinary(target: &Target<'_>, duration: Duration) -> Result<Tally> {
    let period = Period {
        warm_up: Duration::ZERO,
        counted: duration,
    };
    Ok(open(target, RATE, CONNECTIONS, period)?)
}

/// Reports the latencies of the ordinary client: `usual` alone, `tally` during the attack. The p99 must stay below
/// `times` the usual one.
pub(super) fn report_ordinary(report: &mut Report, usual: &Tally, tally: &Tally, times: f64) {
    report.statuses("statuses of the ordinary client", tally, &[200]);
    let (p50, p99) = (usual.latency(0.5), usual.latency(0.99));
    report.info("usual p50 and p99, ms", format!("{p50:.1}, {p99:.1}"));
    let median = format!("{:.1}", tally.latency(0.5));
    report.info("p50 of the ordinary client, ms", median);
    let name = "p99 of the ordinary client, ms";
    report.below(name, tally.latency(0.99), times * p99);
}

/// Sends ordinary requests for `duration` while `others` runs on another thread. Returns the tally
/// of the ordinary requests and the result of `others`, which must end soon after its flag is set.
pub(super) fn while_running<T: Send>(
    target: &Target<'_>,
    duration: Duration,
    others: impl FnOnce(&AtomicBool) -> T + Send,
) -> Result<(Tally, T)> {
    let stop = AtomicBool::new(false);
    let (tally, others) = scope(|scope| {
        let others: ScopedJoinHandle<'_, T> = spawn(scope, || others(&stop))?;
        let tally = ordinary(target, duration);
        stop.store(true, Ordering::Relaxed);
        let others = others.join();
        tally.map(|tally| (tally, others))
    })?;
    let others = others.map_err(|_| anyhow!("a client thread panicked"))?;
    Ok((tally, others))
}
