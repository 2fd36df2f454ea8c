//! Thousands of connections that are held without being used, while probes and an ordinary client
//! send requests over new and kept connections.

use std::fs::read_to_string;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::held::Held;
use super::traffic::{ordinary, while_running};
use super::{CpuMeter, maximum};
use crate::Plan;
use crate::http::{Connection, Request};
use crate::load::{Target, spawn};
use crate::photos::{COFFEE_LABEL, coffee};
use crate::report::Report;
use crate::server::Server;
use crate::tally::{Tally, quantile};

/// Time between two probes of `/health/live`.
const PROBE: Duration = Duration::from_millis(50);
/// Longest time of a probe, in milliseconds.
const PROBE_LIMIT: f64 = 100.0;
/// Descriptors that the server and the client need for other things.
const SPARE: usize = 300;

pub(super) fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    let held = plan.held.min(descriptor_limit().saturating_sub(SPARE));
    let roomy = (held + 1000).to_string();
    for (name, flags) in [
        ("all open at once", &["--max-connections", &roomy][..]),
        ("default --max-connections", &[]),
    ] {
        report.section(&format!("connections, {name}"));
        if held < plan.held {
            report.info("held connections, fewer for `ulimit -n`", held.to_string());
        }
        measure(plan, report, flags, held)?;
    }
    Ok(())
}

fn measure(plan: &Plan, report: &mut Report, flags: &[&str], held: usize) -> Result<()> {
    let mut server = Server::start(plan, flags)?;
    let request = coffee()?;
    let target = Target {
        address: server.address,
        request: &request,
        label: Some(COFFEE_LABEL),
    };
    maximum(&target, plan.unloaded / 4)?;
    let allowed = server.memory_plan()?;
    let usual = ordinary(&target, plan.load / 3)?;
    let idle = server.descriptors()?;
    server.reset_peak_memory()?;

    let (counts, stop) = (Held::default(), AtomicBool::new(false));
    let (meter, tally, mut probes, open) = scope(|scope| -> Result<_> {
        let holding = spawn(scope, || counts.hold(server.address, held, &stop))?;
        counts.wait_until_open();
        let measured = under_load(&server, &target, plan.load);
        stop.store(true, Ordering::Relaxed);
        let ended = holding.join();
        ended.map_err(|_| anyhow::anyhow!("a client thread panicked"))??;
        measured
    })?;
    server.check_alive()?;

    let opened = counts.opened.load(Ordering::Relaxed);
    report.info("connections opened", opened.to_string());
    report.info(
        "connections open at the end",
        open.saturating_sub(idle).to_string(),
    );
    let lost = probes.iter().filter(|time| time.is_infinite()).count() as u64;
    report.exactly("probes without a response", lost, 0);
    let (p50, most) = (quantile(&mut probes, 0.5), quantile(&mut probes, 1.0));
    report.info("/health/live, p50, ms", format!("{p50:.2}"));
    report.below("/health/live, longest, ms", most, PROBE_LIMIT);
    report.statuses("statuses of the ordinary client", &tally, &[200]);
    let (p50, p99) = (usual.latency(0.5), usual.latency(0.99));
    report.info("usual p50 and p99, ms", format!("{p50:.1}, {p99:.1}"));
    report.below(
        "p99 of the ordinary client, ms",
        tally.latency(0.99),
        3.0 * p99,
    );
    report.info("cores used by the server, by the client", meter);
    report.below("peak memory, MiB", server.memory("VmHWM")?, allowed);
    Ok(())
}

/// Measures the ordinary client and the probes. Returns the used cores, the tally, the times of
/// the probes in milliseconds, and the number of the server's descriptors at the end.
fn under_load(
    server: &Server,
    target: &Target<'_>,
    duration: Duration,
) -> Result<(String, Tally, Vec<f64>, usize)> {
    let times = Mutex::new(Vec::new());
    let meter = CpuMeter::start(server)?;
    let (tally, ()) = while_running(target, duration, |stop| probe(server, stop, &times))?;
    let (used, client) = meter.cores(server)?;
    let times = times.into_inner().unwrap_or_default();
    let cores = format!("{used:.2}, {client:.2}");
    Ok((cores, tally, times, server.descriptors()?))
}

/// Asks for `/health/live` over new connections until `stop` is set. The time of a probe that gets
/// no response is infinite.
fn probe(server: &Server, stop: &AtomicBool, times: &Mutex<Vec<f64>>) {
    let request = Request::get("/health/live");
    while !stop.load(Ordering::Relaxed) {
        let start = Instant::now();
        let response = Connection::new(server.address).send(&request);
        let time = match response {
            Ok(response) if response.status == 200 => start.elapsed().as_secs_f64() * 1000.0,
            _ => f64::INFINITY,
        };
        if let Ok(mut times) = times.lock() {
            times.push(time);
        }
        sleep(PROBE);
    }
}

/// Returns how many descriptors this process and the server, which inherits the limit, may open.
fn descriptor_limit() -> usize {
    let limits = read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let limit = line.and_then(|line| line.split_whitespace().nth(3)?.parse().ok());
    limit.unwrap_or(1024)
}
