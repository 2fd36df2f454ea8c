//! The scenario `sharing`: clients use several models at the same time, which share the cores.

use std::thread::{ScopedJoinHandle, scope};

use anyhow::{Result, anyhow};

use super::{CONNECTIONS_PER_CORE, WARM_UP, WarmServer};
use crate::Plan;
use crate::http::Request;
use crate::load::{Period, Target, closed, spawn};
use crate::photos::{COFFEE_LABEL, coffee_to};
use crate::report::Report;
use crate::tally::Tally;

/// The models: both precisions of the built-in one, which have different run times.
const MODELS: [&str; 2] = ["efficientnet_lite0@fp32", "efficientnet_lite0@int8"];
/// Minimum sum of the goodputs of all models at the same time, each as a fraction of its goodput alone.
const TOTAL: f64 = 0.95;
/// Minimum goodput of each model, as a fraction of what an equal division of the cores would give it.
const SHARE: f64 = 0.5;

pub(super) fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    report.section("sharing");
    let mut warm = WarmServer::start(plan, &[])?;
    let requests: Vec<Request> = MODELS.into_iter().map(coffee_to).collect::<Result<_>>()?;
    let targets = requests.iter().map(|request| Target {
        address: warm.server.address,
        request,
        label: Some(COFFEE_LABEL),
    });
    let targets: Vec<Target<'_>> = targets.collect();
    let period = Period {
        warm_up: WARM_UP,
        counted: plan.load / 3,
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let connections = cores * CONNECTIONS_PER_CORE;
    let alone = targets
        .iter()
        .map(|target| closed(target, connections, period));
    let alone: Vec<Tally> = alone.collect::<std::io::Result<_>>()?;
    let together = scope(|scope| {
        let run = |target| spawn(scope, move || closed(target, connections, period));
        let running: Vec<ScopedJoinHandle<'_, _>> =
            targets.iter().map(run).collect::<std::io::Result<_>>()?;
        let tallies = running.into_iter().map(|thread| {
            let tally = thread.join();
            Ok(tally.map_err(|_| anyhow!("a client thread panicked"))??)
        });
        tallies.collect::<Result<Vec<Tally>>>()
    })?;
    warm.server.check_alive()?;
    let mut total = 0.0;
    for ((model, alone), together) in MODELS.iter().zip(&alone).zip(&together) {
        report.statuses(&format!("statuses of {model}"), together, &[200]);
        let [before, now] = [alone, together].map(|tally| tally.goodput(period.counted));
        report.info(
            &format!("goodput of {model} alone and with the others, 1/s"),
            format!("{before:.0}, {now:.0}"),
        );
        let part = now / before;
        report.at_least(
            "part of its goodput alone",
            part,
            SHARE / MODELS.len() as f64,
        );
        total += part;
    }
    report.at_least("sum of these parts", total, TOTAL);
    Ok(())
}
