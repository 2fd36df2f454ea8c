//! Load and soak tests of a release server: `make load-test` and `make soak-test`.
//!
//! Each scenario starts `sightline serve` as a process of its own, sends requests to it over
//! loopback, and compares what it measures with limits. All scenarios print one table. The exit
//! code is 1 if a limit does not hold.
//!
//! Every connection has a thread that blocks, because the client shares its cores with the server:
//! a request costs a few system calls and no bookkeeping.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test prints its progress and its figures"
)]

mod http;
mod images;
mod load;
mod machine;
mod photos;
mod report;
mod scenarios;
mod server;
mod tally;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;

use report::Report;
use scenarios::Scenario;

/// Runs load scenarios against a server and compares the figures with limits.
#[derive(Debug, Parser)]
struct Args {
    /// Scenarios to run [default: all]
    #[arg(value_enum)]
    scenarios: Vec<Scenario>,
    /// Server binary
    #[arg(
        long,
        env = "SIGHTLINE_BIN",
        default_value = "target/release/sightline"
    )]
    server: PathBuf,
    /// Duration of each load, in seconds; unloaded measurements take a sixth to a third of it
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(3..=3600))]
    seconds: u64,
    /// Number of requests of the soak
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(100..))]
    requests: u64,
    /// Number of connections that are held without being used
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u64).range(4..=50_000))]
    held: u64,
    /// Factor by which limits on speed and memory are relaxed, for a busy machine; limits on
    /// statuses, labels and lost requests are not
    #[arg(long, default_value_t = 1.0)]
    slack: f64,
}

/// What every scenario needs to know.
#[derive(Debug)]
struct Plan {
    /// Server binary.
    server: PathBuf,
    /// Duration of a load.
    load: Duration,
    /// Duration of an unloaded measurement.
    unloaded: Duration,
    /// Number of requests of the soak.
    requests: u64,
    /// Number of connections that are held without being used.
    held: usize,
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let load = Duration::from_secs(args.seconds);
    let plan = Plan {
        server: args.server,
        load,
        unloaded: (load / 6).max(Duration::from_secs(2)),
        requests: args.requests,
        held: args.held as usize,
    };
    let mut report = Report::new(args.slack);
    for scenario in Scenario::selected(&args.scenarios) {
        eprintln!("{} ({})", scenario.name(), machine::load());
        scenario.run(&plan, &mut report)?;
    }
    println!("{}\n\n{report}", machine::describe());
    Ok(if report.passed() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
