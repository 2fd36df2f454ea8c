//! The scenario `connections`: thousands of connections are held without being used, while probes
//! open new connections and an ordinary client uses the ones that it keeps open.

use std::fs::read_to_string;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::held::Held;
use super::traffic::{ordinary, while_running};
use super::{CpuMeter, WarmServer};
use crate::Plan;
use crate::http::{Connection, Request};
use crate::load::{Target, spawn};
use crate::report::Report;
use crate::server::Server;
use crate::tally::{Tally, quantile};

/// Time between two probes of `/health/live`.
const PROBE: Duration = Duration::from_millis(50);
/// Limit on the response time of every probe, in milliseconds.
const PROBE_LIMIT: f64 = 100.0;
/// The same for the public listener if all of its slots are in use, in milliseconds. A new
/// connection takes the slot of a client that has made the server wait for at least a second.
const REPLACE_LIMIT: f64 = 2000.0;
/// Number of file descriptors that a process needs for other things than held connections.
const SPARE: usize = 300;

pub(super) fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    let held = plan.held.min(descriptor_limit().saturating_sub(SPARE));
    if held < plan.held {
        report.section("connections");
        report.info("held connections, fewer for `ulimit -n`", held.to_string());
    }
    within(plan, report, held)?;
    over(plan, report, held)
}

/// Runs the scenario with a `--max-connections` that has room for all held connections, and probes
/// the public listener.
fn within(plan: &Plan, report: &mut Report, held: usize) -> Result<()> {
    report.section("connections, within --max-connections");
    let roomy = (held + 1000).to_string();
    let (server, seen) = measure(plan, &["--max-connections", &roomy], held, None)?;
    probes(report, "public", &seen.public, PROBE_LIMIT);
    report.statuses("statuses of the ordinary client", &seen.tally, &[200]);
    let (p99, usual) = (seen.tally.latency(0.99), seen.usual.latency(0.99));
    report.below("p99 of the ordinary client, ms", p99, 3.0 * usual);
    figures(report, &server, &seen)
}

/// Runs the scenario with more held connections than the default `--max-connections`, and probes
/// both listeners. The latency of the ordinary client is reported without a limit, because its
/// connections have to wait for a slot of the public listener.
fn over(plan: &Plan, report: &mut Report, held: usize) -> Result<()> {
    report.section("connections, default --max-connections");
    let admin = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let flag = admin.to_string();
    let (server, seen) = measure(plan, &["--admin-listen", &flag], held, Some(admin))?;
    probes(report, "admin", &seen.admin, PROBE_LIMIT);
    probes(report, "public", &seen.public, REPLACE_LIMIT);
    report.statuses("statuses of the ordinary client", &seen.tally, &[200]);
    let p99 = format!("{:.1}", seen.tally.latency(0.99));
    report.info("p99 of the ordinary client, ms", p99);
    figures(report, &server, &seen)
}

/// The measurements of one run of the scenario.
struct Seen {
    /// Requests of the ordinary client before connections were held.
    usual: Tally,
    /// Requests of the ordinary client while connections were held.
    tally: Tally,
    /// Response time of each probe of the public listener in milliseconds; infinite for a probe
    /// without a response of status 200.
    public: Vec<f64>,
    /// The same of the admin listener; empty if the server has none.
    admin: Vec<f64>,
    /// Average number of cores that the server and the client used, as text.
    cores: String,
    /// Number of held connections that were opened in total, and number of connections that the
    /// server had open at the end.
    connections: (usize, usize),
    /// Limit on the server's peak memory, in MiB.
    allowed: f64,
}

/// Starts a server with `flags`, holds `held` connections to it, and measures the ordinary client
/// and the probes of the public listener and of the listener `admin`, if the server has one.
fn measure(
    plan: &Plan,
    flags: &[&str],
    held: usize,
    admin: Option<SocketAddr>,
) -> Result<(Server, Seen)> {
    let mut warm = WarmServer::start(plan, flags)?;
    let (server, target) = (&warm.server, warm.target());
    let usual = ordinary(&target, plan.load / 3)?;
    let idle = server.descriptors()?;
    server.reset_peak_memory()?;

    let (counts, stop) = (Held::default(), AtomicBool::new(false));
    let (mut public, mut admin_times) = (Vec::new(), Vec::new());
    let mut probed = vec![(server.address, &mut public)];
    if let Some(address) = admin {
        probed.push((address, &mut admin_times));
    }
    let (cores, tally, open) = scope(|scope| -> Result<_> {
        let holding = spawn(scope, || counts.hold(server.address, held, &stop))?;
        counts.wait_until_open();
        let measured = under_load(server, &target, &mut probed, plan.load);
        stop.store(true, Ordering::Relaxed);
        let ended = holding.join();
        ended.map_err(|_| anyhow::anyhow!("a client thread panicked"))??;
        measured
    })?;
    warm.server.check_alive()?;
    let opened = counts.opened.load(Ordering::Relaxed);
    let seen = Seen {
        usual,
        tally,
        public,
        admin: admin_times,
        cores,
        connections: (opened, open.saturating_sub(idle)),
        allowed: warm.allowed,
    };
    Ok((warm.server, seen))
}

/// Adds the response times of the probes of a listener, in milliseconds, to the report. `limit` is
/// the limit on each of them.
fn probes(report: &mut Report, listener: &str, times: &[f64], limit: f64) {
    let mut times = times.to_vec();
    let lost = times.iter().filter(|time| time.is_infinite()).count() as u64;
    report.exactly(&format!("{listener} probes without a response"), lost, 0);
    let p50 = format!("{:.2}", quantile(&mut times, 0.5));
    report.info(&format!("{listener} /health/live, p50, ms"), p50);
    let longest = quantile(&mut times, 1.0);
    let figure = format!("{listener} /health/live, longest, ms");
    report.below(&figure, longest, limit);
}

/// Adds to the report the number of connections, the ordinary client's latency before connections
/// were held, the used cores, and the peak memory.
fn figures(report: &mut Report, server: &Server, seen: &Seen) -> Result<()> {
    let (opened, open) = seen.connections;
    report.info(
        "connections opened, open at the end",
        format!("{opened}, {open}"),
    );
    let (p50, p99) = (seen.usual.latency(0.5), seen.usual.latency(0.99));
    report.info("usual p50 and p99, ms", format!("{p50:.1}, {p99:.1}"));
    let cores = seen.cores.as_str();
    report.info("cores used by the server, by the client", cores);
    report.below("peak memory, MiB", server.memory("VmHWM")?, seen.allowed);
    Ok(())
}

/// The address of a listener, and the response times of its probes in milliseconds.
type Probed<'a> = (SocketAddr, &'a mut Vec<f64>);

/// Measures the ordinary client and the probes for `duration`. Returns the cores used by server and
/// client, the tally of the ordinary client, and the number of the server's open file descriptors
/// at the end.
fn under_load(
    server: &Server,
    target: &Target<'_>,
    probed: &mut [Probed<'_>],
    duration: Duration,
) -> Result<(String, Tally, usize)> {
    let meter = CpuMeter::start(server)?;
    let (tally, ()) = while_running(target, duration, |stop| probe(probed, stop))?;
    let (used, client) = meter.cores(server)?;
    let cores = format!("{used:.2}, {client:.2}");
    Ok((cores, tally, server.descriptors()?))
}

/// Requests `/health/live` of each listener in turn over new connections until `stop` is set, and
/// appends the response times. The time of a probe without a response of status 200 is infinite.
fn probe(probed: &mut [Probed<'_>], stop: &AtomicBool) {
    let request = Request::get("/health/live");
    while !stop.load(Ordering::Relaxed) {
        for (address, times) in &mut *probed {
            let start = Instant::now();
            let response = Connection::new(*address).send(&request);
            times.push(match response {
                Ok(response) if response.status == 200 => start.elapsed().as_secs_f64() * 1000.0,
                _ => f64::INFINITY,
            });
        }
        sleep(PROBE);
    }
}

/// Returns how many file descriptors this process may open. The server inherits this limit.
fn descriptor_limit() -> usize {
    let limits = read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let limit = line.and_then(|line| line.split_whitespace().nth(3)?.parse().ok());
    limit.unwrap_or(1024)
}
