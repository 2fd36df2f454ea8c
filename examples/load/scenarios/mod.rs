//! The scenarios of the load test, one file each, and the measurements that they share.

mod bombs;
mod connections;
mod drain;
mod held;
mod hostile_models;
mod keys;
mod keys_statistics;
mod open_loop;
mod overload;
mod reload;
mod retry_storm;
mod soak;
mod tensors;
mod traffic;

use std::time::{Duration, Instant};

use anyhow::Result;
use clap::ValueEnum;

use crate::Plan;
use crate::http::Request;
use crate::load::{Period, Target, closed};
use crate::photos::{COFFEE_LABEL, coffee};
use crate::report::Report;
use crate::server::{Server, cpu_seconds};

/// Number of client connections per core that keep the server busy all the time in a closed loop.
const CONNECTIONS_PER_CORE: usize = 8;
/// Time from the start of a closed loop until its responses are counted.
const WARM_UP: Duration = Duration::from_millis(500);

/// A scenario of the load test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scenario {
    /// Requests arrive at three times the rate that the server can process
    OpenLoop,
    /// 1,000 connections retry immediately when they are rejected
    RetryStorm,
    /// Small files that cost much to decode, while an ordinary client sends requests
    Bombs,
    /// Thousands of silent, trickling and never-reading connections
    Connections,
    /// Clients send images for which a hostile model runs endlessly, while an ordinary client uses
    /// another model
    HostileModels,
    /// Wrong API keys whose rejections are timed, and keys that rotate while clients classify images
    Keys,
    /// Servers are stopped while clients send requests
    Drain,
    /// A model is replaced again and again, while clients request it
    Reload,
    /// Raw fp32 tensors over REST and gRPC, whose time besides the run of the network is measured
    Tensors,
    /// Valid and hostile requests mixed, for minutes
    Soak,
}

impl Scenario {
    /// Returns the scenarios to run: those in `named`, or all if `named` is empty.
    pub(crate) fn selected(named: &[Self]) -> Vec<Self> {
        match named {
            [] => Self::value_variants().to_vec(),
            named => named.to_vec(),
        }
    }

    /// Returns the scenario's name on the command line.
    pub(crate) fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Runs the scenario and adds its figures to the report.
    ///
    /// # Errors
    /// If the server cannot be started, exits, or does not return what a scenario needs to measure
    /// it.
    pub(crate) fn run(self, plan: &Plan, report: &mut Report) -> Result<()> {
        match self {
            Self::OpenLoop => open_loop::run(plan, report),
            Self::RetryStorm => retry_storm::run(plan, report),
            Self::Bombs => bombs::run(plan, report),
            Self::Connections => connections::run(plan, report),
            Self::HostileModels => hostile_models::run(plan, report),
            Self::Keys => keys::run(plan, report),
            Self::Drain => drain::run(plan, report),
            Self::Reload => reload::run(plan, report),
            Self::Tensors => tensors::run(plan, report),
            Self::Soak => soak::run(plan, report),
        }
    }
}

/// A server that has processed its first requests, and the request of an ordinary client.
struct WarmServer {
    server: Server,
    request: Request,
    /// Limit on the server's peak memory, in MiB.
    allowed: f64,
}

impl WarmServer {
    /// Starts a server with `flags` and sends requests to it for half a second. They make the server
    /// allocate memory that it keeps, which is part of its idle memory.
    fn start(plan: &Plan, flags: &[&str]) -> Result<Self> {
        let mut warm = Self {
            server: Server::start(plan, flags)?,
            request: coffee()?,
            allowed: 0.0,
        };
        maximum(&warm.target(), WARM_UP)?;
        warm.allowed = warm.server.memory_plan()?;
        Ok(warm)
    }

    fn target(&self) -> Target<'_> {
        Target {
            address: self.server.address,
            request: &self.request,
            label: Some(COFFEE_LABEL),
        }
    }
}

/// Measures the largest goodput of the server, in responses per second, with a closed loop over as
/// many connections as keep the server busy.
fn maximum(target: &Target<'_>, counted: Duration) -> Result<f64> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let period = Period {
        warm_up: WARM_UP,
        counted,
    };
    let tally = closed(target, cores * CONNECTIONS_PER_CORE, period)?;
    anyhow::ensure!(
        tally.in_time > 0,
        "no result without load: {}",
        tally.describe()
    );
    Ok(tally.goodput(counted))
}

/// A measurement of the CPU time that the server and this process use from a start on.
struct CpuMeter {
    start: Instant,
    server: f64,
    client: f64,
}

impl CpuMeter {
    fn start(server: &Server) -> Result<Self> {
        Ok(Self {
            start: Instant::now(),
            server: server.cpu_seconds()?,
            client: cpu_seconds("self")?,
        })
    }

    /// Returns the average number of cores that the server and this process have used since the
    /// start.
    fn cores(&self, server: &Server) -> Result<(f64, f64)> {
        let seconds = self.start.elapsed().as_secs_f64();
        let used = server.cpu_seconds()? - self.server;
        Ok((
            used / seconds,
            (cpu_seconds("self")? - self.client) / seconds,
        ))
    }

    /// Adds the average number of cores that the server and this process have used to the report.
    fn report(&self, server: &Server, report: &mut Report) -> Result<()> {
        let (server, client) = self.cores(server)?;
        report.info(
            "cores used by the server, by the client",
            format!("{server:.2}, {client:.2}"),
        );
        Ok(())
    }
}
