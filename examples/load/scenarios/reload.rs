//! The scenario `reload`: a model with two variants is replaced again and again by one of two versions,
//! while clients request both variants. Then the same, with a damaged file in every third reload.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::scope;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};

use super::CpuMeter;
use crate::Plan;
use crate::http::{Connection, Request};
use crate::load::{on_threads, spawn};
use crate::photos::photo;
use crate::report::Report;
use crate::server::Server;
use crate::tally::{Tally, quantile};

/// Name of the model.
const MODEL: &str = "changing";
/// Number of client connections; every fourth requests the variant `int8`.
const CLIENTS: usize = 8;
/// Time between two samples of the server's resident memory.
const SAMPLE: Duration = Duration::from_millis(100);
/// Limit on the growth of the resident memory over the last half of the reloads, in percent.
const GROWTH: f64 = 5.0;
/// One version: a network with 100 classes and trained int8 weights.
const FIRST: [&str; 4] = [
    "mobilenet_v3_large",
    "quantized_mobilenet_v3_large-width_mult_0.5-num_classes_100.pth",
    "--width-mult=0.5",
    "--num-classes=100",
];
/// The other version: a smaller network with 10 classes.
const SECOND: [&str; 4] = [
    "mobilenet_v3_small",
    "mobilenet_v3_small-width_mult_0.25-num_classes_10.zip.pth",
    "--width-mult=0.25",
    "--num-classes=10",
];
/// The variant `int8` of the second version, whose file is a copy of its fp32 network.
const COPIED_VARIANT: &str = "\n[variants.int8]\nprecision = \"int8\"\n\n\
    [[variants.int8.stages]]\nrole = \"network\"\nfile = \"model.int8.onnx\"\n";

pub(super) fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    let models = Models::export(plan)?;
    phase(plan, report, &models, "reload", None)?;
    phase(plan, report, &models, "reload, broken files", Some(3))
}

/// Reloads the model as often as `plan` says. If `broken` is not `None`, each reload whose number is a
/// multiple of it finds a damaged file.
fn phase(
    plan: &Plan,
    report: &mut Report,
    models: &Models,
    section: &str,
    broken: Option<u64>,
) -> Result<()> {
    report.section(section);
    models.install(0)?;
    let path = models.served.path().to_str();
    let path = path.context("the path of the temporary folder is not UTF-8")?;
    let flags = ["--models", path, "--admin-listen", "127.0.0.1:0"];
    let mut server = Server::start(plan, &flags)?;
    let references = references(&server, models)?;
    let before = server.descriptors()?;
    let (start, meter) = (Instant::now(), CpuMeter::start(&server)?);
    let (tally, seen, resident) = drive(plan.reloads, &server, models, &references, broken)?;
    let seconds = start.elapsed().as_secs_f64();
    meter.report(&server, report)?;
    server.check_alive()?;
    server.wait_until_idle()?;

    let rate = plan.reloads as f64 / seconds;
    let reloads = format!("{}, {seconds:.0}, {rate:.2}", plan.reloads);
    report.info("reloads, seconds, reloads per second", reloads);
    report.statuses("statuses of the clients", &tally, &[200]);
    let [first, second] = seen;
    report.info("responses of each version", format!("{first}, {second}"));
    report.at_least(
        "responses of the rarer version",
        first.min(second) as f64,
        1.0,
    );
    let times = [0.5, 0.99].map(|q| format!("{:.1}", tally.latency(q)));
    report.info("p50 and p99 of the clients, ms", times.join(", "));
    let failed = server.metric("sightline_model_reloads_total", "result=\"failure\"")?;
    let damaged = broken.map_or(0, |every| plan.reloads / every);
    // A failure is counted for both variants.
    report.exactly("failed reloads", failed as u64, 2 * damaged);
    let after = server.descriptors()?;
    report.info("descriptors before and after", format!("{before}, {after}"));
    memory(report, resident);
    Ok(())
}

/// Two versions of the model, and the models directory in which one of them is installed.
struct Models {
    versions: tempfile::TempDir,
    served: tempfile::TempDir,
}

impl Models {
    /// Exports both versions. Each has labels of its own, which start with its number.
    fn export(plan: &Plan) -> Result<Self> {
        let models = Self {
            versions: tempfile::tempdir()?,
            served: tempfile::tempdir()?,
        };
        for (version, network) in [FIRST, SECOND].into_iter().enumerate() {
            models.export_one(plan, version, network)?;
        }
        let second = models.version(1);
        std::fs::copy(second.join("model.onnx"), second.join("model.int8.onnx"))?;
        let manifest = second.join("model.toml");
        let text = std::fs::read_to_string(&manifest)?;
        std::fs::write(manifest, text + COPIED_VARIANT)?;
        Ok(models)
    }

    fn export_one(&self, plan: &Plan, version: usize, network: [&str; 4]) -> Result<()> {
        let [name, checkpoint, width, classes] = network;
        let count: usize = classes.trim_start_matches("--num-classes=").parse()?;
        let labels = self.versions.path().join("labels.txt");
        let lines: Vec<String> = (0..count).map(|id| format!("{version}-{id}")).collect();
        std::fs::write(&labels, lines.join("\n"))?;
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
        let status = Command::new(&plan.server)
            .args(["export", name, width, classes, "--weights"])
            .arg(golden.join(checkpoint))
            .arg("--labels")
            .arg(&labels)
            .arg("-o")
            .arg(self.version(version))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()?;
        ensure!(status.success(), "cannot export {checkpoint}: {status}");
        Ok(())
    }

    fn version(&self, version: usize) -> PathBuf {
        self.versions
            .path()
            .join(format!("version-{version}"))
            .join(MODEL)
    }

    /// Puts a version into the models directory in the place of the other.
    fn install(&self, version: usize) -> Result<()> {
        let (new, place) = (
            self.served.path().join(".new"),
            self.served.path().join(MODEL),
        );
        std::fs::create_dir(&new)?;
        for file in std::fs::read_dir(self.version(version))? {
            let file = file?;
            std::fs::copy(file.path(), new.join(file.file_name()))?;
        }
        if place.exists() {
            std::fs::remove_dir_all(&place)?;
        }
        Ok(std::fs::rename(new, place)?)
    }

    /// Cuts the network of the installed version in half.
    fn damage(&self) -> Result<()> {
        let file = self.served.path().join(MODEL).join("model.onnx");
        let length = file.metadata()?.len();
        let file = std::fs::OpenOptions::new().write(true).open(file)?;
        Ok(file.set_len(length / 2)?)
    }
}

/// The expected labels of a response: for each version, those of its variants fp32 and int8.
type References = [[Vec<String>; 2]; 2];

/// Returns the request of a client for the variant `int8`, or for the model without a variant.
fn request(int8: bool) -> Result<Request> {
    let variant = if int8 { "@int8" } else { "" };
    let path = format!("/v1/classify?top_k=5&model={MODEL}{variant}");
    let photo = photo("coffee_500x375.jpg")?;
    Ok(Request::post(&path, "application/octet-stream", &photo))
}

/// Loads each version and returns the labels that its variants respond with. The first version is
/// installed at the end.
fn references(server: &Server, models: &Models) -> Result<References> {
    let mut references = References::default();
    for version in [1, 0] {
        models.install(version)?;
        reload(server, true)?;
        for int8 in [false, true] {
            let response = Connection::new(server.address).send(&request(int8)?)?;
            ensure!(response.status == 200, "no result of version {version}");
            let labels = response.labels();
            let own = format!("{version}-");
            ensure!(
                labels.iter().all(|label| label.starts_with(&own)),
                "{labels:?}"
            );
            references[version][usize::from(int8)] = labels;
        }
    }
    Ok(references)
}

/// Loads the model from its files, which succeeds if `succeeds` is set.
fn reload(server: &Server, succeeds: bool) -> Result<()> {
    let path = format!("/v1/models/{MODEL}/load");
    let admin = server.admin.context("the server has no admin listener")?;
    let response = Connection::new(admin).send(&Request::post(&path, "text/plain", b""))?;
    let expected = if succeeds { 200 } else { 503 };
    let body = String::from_utf8_lossy(&response.body);
    ensure!(
        response.status == expected,
        "load: {} {body}",
        response.status
    );
    Ok(())
}

/// Reloads the model `reloads` times while clients send requests. Returns the tally of the clients,
/// the number of responses of each version, and samples of the server's resident memory in MiB.
fn drive(
    reloads: u64,
    server: &Server,
    models: &Models,
    references: &References,
    broken: Option<u64>,
) -> Result<(Tally, [u64; 2], Vec<f64>)> {
    let stop = AtomicBool::new(false);
    let seen = [const { std::sync::atomic::AtomicU64::new(0) }; 2];
    let requests = [request(false)?, request(true)?];
    let (tally, resident) = scope(|scope| -> Result<_> {
        let changing = spawn(scope, || {
            let changed = change(reloads, server, models, broken);
            stop.store(true, Ordering::Relaxed);
            changed
        })?;
        let sampling = spawn(scope, || server.resident_until(&stop, SAMPLE))?;
        let tally = on_threads(CLIENTS, |index, tally| {
            let mut connection = Connection::new(server.address);
            let int8 = usize::from(index % 4 == 3);
            while !stop.load(Ordering::Relaxed) {
                let start = Instant::now();
                let Ok(response) = connection.send(&requests[int8]) else {
                    tally.lost += 1;
                    continue;
                };
                let labels = response.labels();
                let version = references.iter().position(|known| known[int8] == labels);
                if let Some(version) = version {
                    seen[version].fetch_add(1, Ordering::Relaxed);
                }
                tally.response(&response, start.elapsed(), version.is_some(), true);
            }
        });
        let panicked = |_| anyhow!("a client thread panicked");
        changing.join().map_err(panicked)??;
        Ok((tally?, sampling.join().map_err(panicked)?))
    })?;
    Ok((
        tally,
        seen.map(std::sync::atomic::AtomicU64::into_inner),
        resident,
    ))
}

/// Replaces the model `reloads` times. Two reloads in succession find the same version.
fn change(reloads: u64, server: &Server, models: &Models, broken: Option<u64>) -> Result<()> {
    for index in 1..=reloads {
        models.install(usize::from(index / 2 % 2 == 1))?;
        let damaged = broken.is_some_and(|every| index % every == 0);
        if damaged {
            models.damage()?;
        }
        reload(server, !damaged)?;
    }
    Ok(())
}

/// Adds the growth of the resident memory over the last half to the report: the median of the last
/// quarter compared with that of the third. `resident` has samples in MiB.
fn memory(report: &mut Report, mut resident: Vec<f64>) {
    let quarter = resident.len().div_ceil(4).max(1);
    let quarters = resident.chunks_mut(quarter);
    let medians: Vec<f64> = quarters.map(|samples| quantile(samples, 0.5)).collect();
    let text: Vec<String> = medians.iter().map(|mib| format!("{mib:.0}")).collect();
    report.info("median memory of each quarter, MiB", text.join(", "));
    if let [.., third, last] = medians[..] {
        let growth = (last / third - 1.0) * 100.0;
        report.below("growth over the last half, %", growth, GROWTH);
    }
}
