//! The measurement that the overload scenarios share: more requests than the server can process.
//!
//! The speed of a shared machine drifts by more than the loss that is measured. The load is therefore
//! divided into rounds, and the maximum goodput is measured before and after every round.

use std::io;
use std::time::Duration;

use anyhow::Result;

use super::{CpuMeter, WarmServer, maximum};
use crate::Plan;
use crate::load::{Period, Target};
use crate::report::Report;
use crate::tally::{Tally, median, quantile};

/// Status codes that valid requests may get under overload.
const STATUSES: [u16; 3] = [200, 429, 504];
/// Maximum number of rounds. A shorter load has fewer rounds.
const ROUNDS: u64 = 10;
/// Shortest time for which the responses of a round are counted, in seconds.
const ROUND_SECONDS: u64 = 6;
/// Time from the start of a round until its responses are counted. The queue fills in 1.5 s, and
/// the delay of rejections reaches its maximum of 2 s soon after.
const WARM_UP: Duration = Duration::from_secs(4);

/// The figures of all rounds.
#[derive(Default)]
struct Rounds {
    tally: Tally,
    /// Goodput of each round, and the maximum goodput after it, per second.
    goodputs: Vec<f64>,
    maxima: Vec<f64>,
    /// Goodput of each round, as a fraction of the mean of the maxima before and after it.
    ratios: Vec<f64>,
    /// Number of cores that the server and the client used in each round.
    cores: [Vec<f64>; 2],
}

/// Starts a server with `flags` and runs `load` in rounds, between which it measures the maximum
/// goodput of the server without overload. The arguments of `load` are the request to send, the last
/// maximum in responses per second, and the length of a round. Adds the figures to the report: the
/// median of the rounds' goodputs, each divided by the maximum before and after the round, must be
/// at least `goodput`. Returns the tally of all rounds.
pub(super) fn run(
    plan: &Plan,
    report: &mut Report,
    flags: &[&str],
    goodput: f64,
    load: impl Fn(&Target<'_>, f64, Period) -> io::Result<Tally>,
) -> Result<Tally> {
    let mut warm = WarmServer::start(plan, flags)?;
    let (server, target) = (&warm.server, warm.target());
    let count = (plan.load.as_secs() / ROUND_SECONDS).clamp(1, ROUNDS) as u32;
    let counted = plan.load / count;
    let period = Period {
        warm_up: WARM_UP,
        counted,
    };
    server.reset_peak_memory()?;
    let mut rounds = Rounds::default();
    let mut before = maximum(&target, counted)?;
    for _ in 0..count {
        server.wait_until_idle()?;
        let meter = CpuMeter::start(server)?;
        let tally = load(&target, before, period)?;
        let (used, client) = meter.cores(server)?;
        server.wait_until_idle()?;
        let after = maximum(&target, counted)?;
        let goodput = tally.goodput(counted);
        rounds.goodputs.push(goodput);
        rounds.maxima.push(after);
        rounds.ratios.push(goodput * 2.0 / (before + after));
        rounds.cores[0].push(used);
        rounds.cores[1].push(client);
        rounds.tally.add(tally);
        before = after;
    }
    let peak = server.memory("VmHWM")?;
    warm.server.check_alive()?;
    rounds.report(report, goodput);
    report.below("peak memory, MiB", peak, warm.allowed);
    Ok(rounds.tally)
}

impl Rounds {
    fn report(&mut self, report: &mut Report, goodput: f64) {
        report.info("rounds", self.ratios.len().to_string());
        let (achieved, maximum) = (median(&mut self.goodputs), median(&mut self.maxima));
        report.info(
            "goodput, unloaded maximum, 1/s, medians",
            format!("{achieved:.1}, {maximum:.1}"),
        );
        let ratios = &mut self.ratios;
        report.at_least("goodput / maximum, median", median(ratios), goodput);
        let (least, most) = (quantile(ratios, 0.0), quantile(ratios, 1.0));
        report.info(
            "goodput / maximum, least and largest",
            format!("{least:.3}, {most:.3}"),
        );
        report.statuses("statuses", &self.tally, &STATUSES);
        let [server, client] = self.cores.each_mut().map(|cores| median(cores));
        report.info(
            "cores used by the server, by the client",
            format!("{server:.2}, {client:.2}"),
        );
        let (p50, p99) = (self.tally.latency(0.5), self.tally.latency(0.99));
        report.info(
            "latency of 200, p50 and p99, ms",
            format!("{p50:.0}, {p99:.0}"),
        );
    }
}
