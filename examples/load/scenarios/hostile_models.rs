//! The scenario `hostile-models`: clients send images for which a hostile model runs endlessly, while
//! an ordinary client uses the built-in model.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::WarmServer;
use super::traffic::{ordinary, report_ordinary, while_running};
use crate::Plan;
use crate::hostile::endless_above;
use crate::http::{Connection, Request};
use crate::images;
use crate::load::{on_threads, spawn};
use crate::onnx::write_model;
use crate::report::Report;
use crate::server::Server;
use crate::tally::Tally;

/// Name of the hostile model, and the path of requests to it.
const MODEL: &str = "looping";
const PATH: &str = "/v1/classify?model=looping";
/// Name of the built-in model, which the ordinary client requests.
const BUILT_IN: &str = "efficientnet_lite0";
/// Number of clients that send images to the hostile model.
const CLIENTS: usize = 4;
/// Status codes that these clients may get. The server stops each endless run one second after the
/// deadline of its request.
const STATUSES: [u16; 2] = [429, 504];
/// Flags of the server. `docs/limits.md` recommends the last two for models from unknown sources.
const TIMEOUT: [&str; 2] = ["--request-timeout-ms", "1000"];
const GRACE: [&str; 2] = ["--shutdown-grace-ms", "2000"];
const ONE_WORKER: [&str; 2] = ["--instances", "1"];
const ONE_THREAD: [&str; 2] = ["--intra-op-threads", "1"];
/// Time between two probes of readiness.
const PROBE: Duration = Duration::from_millis(100);
/// Maximum time from the end of the attack until the hostile model processes another image.
const RECOVERY: Duration = Duration::from_secs(30);

pub(super) fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    report.section("hostile-models");
    let models = tempfile::tempdir()?;
    write_model(models.path(), MODEL, &endless_above(0.9));
    let folder = models.path().to_str();
    let folder = folder.context("the path of the temporary folder is not UTF-8")?;
    let models = [
        ["--models", folder],
        ["--model", BUILT_IN],
        ["--model", MODEL],
    ];
    let flags = [&models[..], &[TIMEOUT, GRACE, ONE_WORKER, ONE_THREAD]].concat();
    let mut warm = WarmServer::start(plan, &flags.concat())?;
    let (server, target) = (&warm.server, warm.target());
    let endless = Request::post(PATH, "image/bmp", &images::plain(255));
    let usual = ordinary(&target, plan.load / 3)?;
    let probes = Probes::default();
    let (tally, attackers) = while_running(&target, plan.load, |stop| {
        attack(server, &endless, &probes, stop)
    })?;
    recover(server)?;
    let ready = server.metric("sightline_model_ready", MODEL)?;
    let stopped = server.metric("sightline_stopped_runs_total", MODEL)?;
    warm.server.check_alive()?;

    report.at_least("runs stopped at their time limit", stopped, 1.0);
    report.at_least("the hostile model is ready after a test run", ready, 1.0);
    report.statuses("statuses of the attack", &attackers?, &STATUSES);
    report_ordinary(report, &usual, &tally, 2.0);
    let [all, failed] = [&probes.all, &probes.failed].map(|count| count.load(Ordering::Relaxed));
    report.info("probes of readiness", all.to_string());
    report.exactly("failed probes, while the other model is ready", failed, 0);
    let (time, code) = stop(warm.server, &endless)?;
    let grace: f64 = GRACE[1].parse()?;
    let (time, limit) = (time.as_secs_f64(), grace / 1000.0 + 1.0);
    report.below("SIGTERM during an endless run: exit after, s", time, limit);
    let code = code.map_or_else(|| "a signal".to_owned(), |code| code.to_string());
    report.equal("exit code: every request has ended", &code, "0");
    Ok(())
}

/// Number of probes of readiness, and of those that failed.
#[derive(Default)]
struct Probes {
    all: AtomicU64,
    failed: AtomicU64,
}

impl Probes {
    /// Probes `/health/ready`. The server is ready although runs of the hostile model are stopped, because the built-in
    /// model is ready.
    fn probe(&self, server: &Server) -> Result<()> {
        let (status, _) = server.get("/health/ready")?;
        self.all.fetch_add(1, Ordering::Relaxed);
        self.failed
            .fetch_add(u64::from(status != 200), Ordering::Relaxed);
        Ok(())
    }
}

/// Sends `endless` over [`CLIENTS`] connections again and again, and probes readiness, until `stop`
/// is set. A probe without a response is lost in the tally.
fn attack(
    server: &Server,
    endless: &Request,
    probes: &Probes,
    stop: &AtomicBool,
) -> std::io::Result<Tally> {
    on_threads(CLIENTS + 1, |index, tally| {
        let mut connection = Connection::new(server.address);
        while !stop.load(Ordering::Relaxed) {
            if index == CLIENTS {
                tally.lost += u64::from(probes.probe(server).is_err());
                sleep(PROBE);
                continue;
            }
            let start = Instant::now();
            match connection.send(endless) {
                Ok(response) => tally.response(&response, start.elapsed(), true, true),
                Err(_) => tally.lost += 1,
            }
        }
    })
}

/// Waits until the hostile model processes an image for which its run ends.
fn recover(server: &Server) -> Result<()> {
    let harmless = Request::post(PATH, "image/bmp", &images::plain(0));
    let deadline = Instant::now() + RECOVERY;
    while Connection::new(server.address).send(&harmless)?.status != 200 {
        let late = Instant::now() > deadline;
        ensure!(!late, "the hostile model has not recovered in {RECOVERY:?}");
        sleep(PROBE);
    }
    Ok(())
}

/// Stops the server while it processes `endless`. Returns the time until it has exited, and its exit
/// code.
fn stop(server: Server, endless: &Request) -> Result<(Duration, Option<i32>)> {
    let address = server.address;
    scope(|scope| {
        spawn(scope, move || Connection::new(address).send(endless))?;
        // The request itself takes one second, so half of a second does not decide anything.
        sleep(Duration::from_millis(500));
        server.stop()
    })
}
