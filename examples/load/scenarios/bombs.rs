//! The scenario `bombs`: clients send small files that cost much to decode or whose headers lie,
//! while an ordinary client sends requests.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::traffic::{ordinary, report_ordinary, while_running};
use super::{CpuMeter, WarmServer};
use crate::Plan;
use crate::http::{Connection, Request};
use crate::images;
use crate::load::on_threads;
use crate::photos::photo;
use crate::report::Report;
use crate::server::Server;
use crate::tally::Tally;

/// Number of clients that send the same file at the same time.
const CLIENTS: usize = 50;
/// Number of clients that send the same form of `IMAGES` images at the same time.
const FORMS: usize = 8;
/// Number of images in one form: the server's default `--max-images`.
const IMAGES: usize = 32;
/// Number of images that the server gets at the same time while its memory is measured. The server
/// has as many threads, so that it can decode all of them at the same time.
const AT_ONCE: usize = 8;
/// Limit on the memory in MiB, beyond that of the idle server, for [`AT_ONCE`] images with lying
/// headers at the same time. It corresponds to 32 MB.
const MEMORY: f64 = 30.5;
/// Status codes that a request with hostile images may get.
const STATUSES: [u16; 5] = [200, 413, 422, 429, 504];

pub(super) fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    latency(plan, report)?;
    memory(plan, report)
}

/// Measures the latency of the ordinary client before the attack and during it.
fn latency(plan: &Plan, report: &mut Report) -> Result<()> {
    report.section("bombs");
    let mut warm = WarmServer::start(plan, &[])?;
    let (server, target) = (&warm.server, warm.target());
    let usual = ordinary(&target, plan.load / 3)?;
    let attack = attack()?;
    let meter = CpuMeter::start(server)?;
    let (tally, (attackers, rounds)) =
        while_running(&target, plan.load, |stop| repeat(server, &attack, stop))?;
    let cores = meter.cores(server)?;
    let peak = server.memory("VmHWM")?;
    warm.server.check_alive()?;
    let attackers = attackers?;

    report.info("rounds of the attack", rounds.to_string());
    report.statuses("statuses of the attack", &attackers, &STATUSES);
    report_ordinary(report, &usual, &tally, 5.0);
    let available = std::thread::available_parallelism().map_or(1, usize::from) as f64;
    let used = cores.0 + cores.1;
    report.at_least("cores used by server and client", used, 0.9 * available);
    report.info("cores used by the client", format!("{:.2}", cores.1));
    report.below("peak memory, MiB", peak, warm.allowed);
    Ok(())
}

/// A group of clients that all send the same request at the same time, round after round.
struct Group {
    clients: usize,
    request: Request,
    barrier: Barrier,
    /// Whether the clients of the group start another round, or end.
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

    /// Runs one client of the group until `stop` is set. A round begins when all clients of the
    /// group have their responses from the round before.
    fn client(&self, server: &Server, stop: &AtomicBool, tally: &mut Tally) {
        let mut connection = Connection::new(server.address);
        loop {
            // One client decides for the group whether another round follows. If each client read
            // `stop`, some could end while others wait for them at the barrier.
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

/// Returns the groups of the attack. Each file has a group of [`CLIENTS`] clients. Two groups of
/// [`FORMS`] clients send forms: one with the tiny files, and one with padded files, which are
/// barely large enough to be accepted.
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
    // The PNG file with a profile is left out: the server classifies it like an ordinary image, so
    // many of these files would only measure the load of valid requests.
    let lying = images::lying()?.into_iter();
    files.extend(lying.filter(|(_, file)| !file.starts_with(b"\x89PNG")));
    let singles = files
        .iter()
        .map(|(_, file)| Group::new(CLIENTS, Request::classify(file)));
    let forms = forms.map(|form| Group::new(FORMS, form));
    Ok(singles.chain(forms).collect())
}

/// Runs every client of every group until `stop` is set. Returns the tally of all requests and the
/// number of rounds of all groups together.
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

/// Measures the peak memory of a server with eight threads that gets eight images with lying
/// headers at the same time, in eight requests and then in one form.
fn memory(plan: &Plan, report: &mut Report) -> Result<()> {
    report.section("lying headers, eight at once");
    let server = Server::start(plan, &["--threads", "8"])?;
    // Each worker and each image thread allocates memory for its first image and keeps it. Valid
    // requests make them do so before the memory of the idle server is measured.
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
