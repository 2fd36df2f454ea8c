//! Small files that cost much to decode or whose headers lie, while an ordinary client sends
//! requests.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::traffic::{ordinary, while_running};
use super::{CpuMeter, maximum};
use crate::Plan;
use crate::http::{Connection, Request};
use crate::images;
use crate::load::{Target, on_threads};
use crate::photos::{COFFEE_LABEL, coffee, photo};
use crate::report::Report;
use crate::server::Server;
use crate::tally::Tally;

/// Clients that send each file at a time.
const CLIENTS: usize = 50;
/// Clients that send requests of 32 images at a time.
const FORMS: usize = 8;
/// Images in one request, the server's default limit.
const IMAGES: usize = 32;
/// Images at once, and decoding threads, when memory is measured.
const AT_ONCE: usize = 8;
/// Most memory above idle for [`AT_ONCE`] images with lying headers, in MiB: 32 MB.
const MEMORY: f64 = 30.5;
/// Statuses of requests with such images.
const STATUSES: [u16; 5] = [200, 413, 422, 429, 504];

pub(super) fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    latency(plan, report)?;
    memory(plan, report)
}

/// Measures the ordinary client without and with the attack.
fn latency(plan: &Plan, report: &mut Report) -> Result<()> {
    report.section("bombs");
    let mut server = Server::start(plan, &[])?;
    let allowed = server.memory_plan()?;
    let request = coffee()?;
    let target = Target {
        address: server.address,
        request: &request,
        label: Some(COFFEE_LABEL),
    };
    maximum(&target, plan.unloaded / 4)?;
    let usual = ordinary(&target, plan.load / 3)?;
    let attack = attack()?;
    let meter = CpuMeter::start(&server)?;
    let (tally, (attackers, rounds)) =
        while_running(&target, plan.load, |stop| repeat(&server, &attack, stop))?;
    let cores = meter.cores(&server)?;
    let peak = server.memory("VmHWM")?;
    server.check_alive()?;
    let attackers = attackers?;

    report.info("rounds of the attack", rounds.to_string());
    report.statuses("statuses of the attack", &attackers, &STATUSES);
    report.statuses("statuses of the ordinary client", &tally, &[200]);
    let (p50, p99) = (usual.latency(0.5), usual.latency(0.99));
    report.info("usual p50 and p99, ms", format!("{p50:.1}, {p99:.1}"));
    let median = format!("{:.1}", tally.latency(0.5));
    report.info("p50 of the ordinary client, ms", median);
    report.below(
        "p99 of the ordinary client, ms",
        tally.latency(0.99),
        5.0 * p99,
    );
    let available = std::thread::available_parallelism().map_or(1, usize::from) as f64;
    let used = cores.0 + cores.1;
    report.at_least("cores used by server and client", used, 0.9 * available);
    report.info("cores used by the client", format!("{:.2}", cores.1));
    report.below("peak memory, MiB", peak, allowed);
    Ok(())
}

/// Clients that send one request at the same time, again and again.
struct Group {
    clients: usize,
    request: Request,
    barrier: Barrier,
    /// Whether another round follows.
    going: AtomicBool,
    rounds: AtomicU64,
}

impl Group {
    fn new(clients: usize, request: Request) -> Self {
        Self {
            clients,
            request,
            barrier: Barrier::new(clients),
            going: AtomicBool::new(true),
            rounds: AtomicU64::new(0),
        }
    }

    /// Runs one client until `stop` is set. Each round begins when all clients of the group have
    /// their responses.
    fn client(&self, server: &Server, stop: &AtomicBool, tally: &mut Tally) {
        let mut connection = Connection::new(server.address);
        loop {
            // One client decides for all, so that all do the same number of rounds.
            if self.barrier.wait().is_leader() {
                let going = !stop.load(Ordering::Relaxed);
                self.going.store(going, Ordering::Relaxed);
                self.rounds.fetch_add(u64::from(going), Ordering::Relaxed);
            }
            self.barrier.wait();
            if !self.going.load(Ordering::Relaxed) {
                return;
            }
            let start = Instant::now();
            match connection.send(&self.request) {
                Ok(response) => tally.response(&response, start.elapsed(), true, true),
                Err(_) => tally.lost += 1,
            }
        }
    }
}

/// Returns the groups of the attack: [`CLIENTS`] for each file, and [`FORMS`] for a form of the
/// tiny files and for a form of files that are as small as the server accepts.
fn attack() -> Result<Vec<Group>> {
    let mut files = images::tiny();
    let tiny: Vec<&[u8]> = (0..IMAGES)
        .map(|image| files[image % files.len()].1.as_slice())
        .collect();
    let padded = images::padded_webp();
    let forms = [
        Request::classify_form(&tiny),
        Request::classify_form(&[padded.as_slice(); IMAGES]),
    ];
    files.push(("padded WebP", padded));
    // The PNG with a profile is an ordinary image for the network, so many of them are just load.
    let lying = images::lying()?.into_iter();
    files.extend(lying.filter(|(_, file)| !file.starts_with(b"\x89PNG")));
    let singles = files
        .iter()
        .map(|(_, file)| Group::new(CLIENTS, Request::classify(file)));
    let forms = forms.map(|form| Group::new(FORMS, form));
    Ok(singles.chain(forms).collect())
}

/// Runs every client of every group until `stop` is set. Returns what happened and the number of
/// rounds.
fn repeat(server: &Server, groups: &[Group], stop: &AtomicBool) -> (std::io::Result<Tally>, u64) {
    let clients: Vec<&Group> = groups
        .iter()
        .flat_map(|group| std::iter::repeat_n(group, group.clients))
        .collect();
    let tally = on_threads(clients.len(), |index, tally| {
        clients[index].client(server, stop, tally);
    });
    let rounds = groups.iter();
    let rounds = rounds
        .map(|group| group.rounds.load(Ordering::Relaxed))
        .sum();
    (tally, rounds)
}

/// Measures the peak memory of eight images with lying headers at once, on eight decoding threads.
fn memory(plan: &Plan, report: &mut Report) -> Result<()> {
    report.section("lying headers, eight at once");
    let server = Server::start(plan, &["--threads", "8"])?;
    // Workers and threads allocate memory for their first image.
    let warm = Request::classify(&photo("rocket.jpg")?);
    for _ in 0..3 {
        at_once(&server, &warm)?;
    }
    for (name, file) in images::lying()? {
        let mut most: f64 = 0.0;
        let mut all = Tally::default();
        for _ in 0..3 {
            sleep(Duration::from_millis(200));
            let idle = server.memory("VmRSS")?;
            server.reset_peak_memory()?;
            all.add(at_once(&server, &Request::classify(&file))?);
            let form = Request::classify_form(&[file.as_slice(); AT_ONCE]);
            let response = Connection::new(server.address).send(&form)?;
            all.response(&response, Duration::ZERO, true, true);
            most = most.max(server.memory("VmHWM")? - idle);
        }
        report.statuses(&format!("statuses, {name}"), &all, &STATUSES);
        report.below(&format!("peak above idle, {name}, MiB"), most, MEMORY);
    }
    Ok(())
}

/// Sends `request` over [`AT_ONCE`] connections at the same time.
fn at_once(server: &Server, request: &Request) -> Result<Tally> {
    let barrier = Barrier::new(AT_ONCE);
    Ok(on_threads(AT_ONCE, |_, tally| {
        barrier.wait();
        match Connection::new(server.address).send(request) {
            Ok(response) => tally.response(&response, Duration::ZERO, true, true),
            Err(_) => tally.lost += 1,
        }
    })?)
}
