//! A `sightline serve` process, with its address, memory, CPU time, file descriptors and metrics.

use std::fs::{read_dir, read_to_string};
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::Plan;
use crate::http::{Connection, Request};

/// Maximum time from the server's printing of its address until it is ready, from the end of a load
/// until it is idle, and from SIGTERM until it exits.
const PATIENCE: Duration = Duration::from_mins(1);

/// A running server process. Dropping this value kills the process.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    /// Address of the server's public listener.
    pub(crate) address: SocketAddr,
    /// Address of the server's admin listener. `None` if the server has none.
    pub(crate) admin: Option<SocketAddr>,
    /// Address of the server's gRPC listener. `None` if the server has none.
    pub(crate) grpc: Option<SocketAddr>,
}

impl Server {
    /// Starts `sightline serve ARGS...` on a free port and waits until the server is ready. The
    /// server gets no environment variables `SIGHTLINE_*` and does not see installed models.
    pub(crate) fn start(plan: &Plan, args: &[&str]) -> Result<Self> {
        let mut command = Command::new(&plan.server);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("SIGHTLINE_") {
                command.env_remove(name);
            }
        }
        command.args(["serve", "--listen", "127.0.0.1:0", "--log", "warn"]);
        command.args(args).env("XDG_DATA_HOME", "/nonexistent");
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", plan.server.display()))?;
        let stdout = child.stdout.take().context("the server has no stdout")?;
        let mut stdout = BufReader::new(stdout);
        let mut line = String::new();
        stdout.read_line(&mut line)?;
        let address = line.trim().split_once("listening on http://");
        let address = address.and_then(|(_, address)| address.parse().ok());
        let Some(address) = address else {
            let _ = child.kill();
            bail!("the server printed {line:?} instead of its address");
        };
        let mut grpc = None;
        if args.contains(&"--grpc-listen") {
            line.clear();
            stdout.read_line(&mut line)?;
            let address = line.trim().strip_prefix("gRPC on ");
            grpc = address.and_then(|address| address.parse().ok());
        }
        let mut admin = None;
        if args.contains(&"--admin-listen") {
            line.clear();
            stdout.read_line(&mut line)?;
            let address = line.trim().rsplit_once("http://");
            admin = address.and_then(|(_, address)| address.parse().ok());
        }
        // Reads and discards whatever else the server prints, because a full pipe would block the
        // server.
        std::thread::spawn(move || stdout.read_to_end(&mut Vec::new()));
        let server = Self {
            child,
            address,
            admin,
            grpc,
        };
        server.wait_until_ready()?;
        Ok(server)
    }

    fn wait_until_ready(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while self.get("/health/ready")?.0 != 200 {
            ensure!(
                Instant::now() < deadline,
                "the server is not ready after {PATIENCE:?}"
            );
            sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Waits until the server has no image in a queue and no other request in flight.
    pub(crate) fn wait_until_idle(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while self.metric("sightline_queue_depth", "")? > 0.0
            || self.metric("sightline_in_flight", "")? > 1.0
        {
            ensure!(
                Instant::now() < deadline,
                "the server is not idle {PATIENCE:?} after a load"
            );
            sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Returns the status and body of `GET path`.
    pub(crate) fn get(&self, path: &str) -> Result<(u16, String)> {
        let response = Connection::new(self.address).send(&Request::get(path))?;
        Ok((response.status, String::from_utf8(response.body)?))
    }

    /// Returns the sum of the values of all lines in `/metrics` that start with `name` and contain
    /// `label`.
    pub(crate) fn metric(&self, name: &str, label: &str) -> Result<f64> {
        let (_, page) = self.get("/metrics")?;
        let lines = page.lines();
        let lines = lines.filter(|line| line.starts_with(name) && line.contains(label));
        let values = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        Ok(values.sum())
    }

    /// Returns a field of `/proc/PID/status` in MiB: `VmRSS` (resident memory) or `VmHWM` (its
    /// peak).
    pub(crate) fn memory(&self, field: &str) -> Result<f64> {
        let status = read_to_string(self.proc("status"))?;
        let line = status.lines().find(|line| line.starts_with(field));
        let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
        let kib =
            kib.with_context(|| format!("no field `{field}` in the status of the server process"))?;
        Ok(kib / 1024.0)
    }

    /// Returns samples of the resident memory in MiB, one in each `period`, until `stop` is set.
    pub(crate) fn resident_until(&self, stop: &AtomicBool, period: Duration) -> Vec<f64> {
        let mut samples = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            samples.extend(self.memory("VmRSS"));
            sleep(period);
        }
        samples
    }

    /// Resets the peak of the server's resident memory to the current value.
    pub(crate) fn reset_peak_memory(&self) -> Result<()> {
        Ok(std::fs::write(self.proc("clear_refs"), "5")?)
    }

    /// Returns the CPU time that the server has used, in seconds.
    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        cpu_seconds(&self.child.id().to_string())
    }

    /// Returns the number of the server's open file descriptors.
    pub(crate) fn descriptors(&self) -> Result<usize> {
        Ok(read_dir(self.proc("fd"))?.count())
    }

    /// Returns how much memory the server may use, in MiB: its current resident memory plus the
    /// totals of its memory budgets. Must be called while the server is idle.
    pub(crate) fn memory_plan(&self) -> Result<f64> {
        let budgets = self.metric("sightline_budget_bytes", "state=\"total\"")?;
        Ok(self.memory("VmRSS")? + budgets / f64::from(1 << 20))
    }

    /// Checks that the server process still runs; returns an error with its exit status if it has
    /// exited.
    pub(crate) fn check_alive(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("the server exited: {status}");
        }
        Ok(())
    }

    /// Sends SIGTERM to the server. Returns the time until the process has exited, and its exit code
    /// (`None` if a signal has ended it).
    pub(crate) fn stop(mut self) -> Result<(Duration, Option<i32>)> {
        let start = Instant::now();
        kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        while start.elapsed() < PATIENCE {
            if let Some(status) = self.child.try_wait()? {
                return Ok((start.elapsed(), status.code()));
            }
            sleep(Duration::from_millis(5));
        }
        bail!("the server runs {PATIENCE:?} after SIGTERM")
    }

    fn proc(&self, file: &str) -> String {
        format!("/proc/{}/{file}", self.child.id())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the sum of the user and system CPU time of a process, in seconds. `process` is the id of
/// the process, or `self`.
pub(crate) fn cpu_seconds(process: &str) -> Result<f64> {
    let stat = read_to_string(format!("/proc/{process}/stat"))?;
    // The command's name, in parentheses, may contain spaces, so fields are counted from its end.
    let (_, rest) = stat.rsplit_once(')').context("malformed /proc/PID/stat")?;
    let fields = rest.split_whitespace().skip(11).take(2);
    let ticks: u64 = fields.filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}
