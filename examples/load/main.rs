//! Load and soak tests of a release server: `make load-test` and `make soak-test`.
//!
//! Each scenario starts its own `sightline serve` process, sends requests to it over loopback, and
//! compares the measured figures with limits. The figures of all scenarios are printed as one
//! table. The exit code is 1 if a limit does not hold.
//!
//! The client shares the cores with the server, so a request must cost the client little: each
//! connection that waits for responses has its own thread with blocking reads and writes, which
//! takes a few system calls per request.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test prints its progress and its figures"
)]

mod clients;
mod grpc;
#[path = "../../tests/suite/common/hostile.rs"]
#[allow(unreachable_pub, reason = "the process tests share this module")]
mod hostile;
mod http;
mod images;
mod load;
mod machine;
#[path = "../../tests/suite/common/onnx.rs"]
#[allow(
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    reason = "the process tests share this module"
)]
mod onnx;
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
    /// Duration of each load, in seconds; a scenario also measures without load: a third as long, or
    /// as long if it compares goodputs
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(3..=3600))]
    seconds: u64,
    /// Number of requests of the soak
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(100..))]
    requests: u64,
    /// Number of reloads of a model
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(8..=1_000_000))]
    reloads: u64,
    /// Number of connections that are held without being used
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u64).range(4..=50_000))]
    held: u64,
    /// Number of servers that are stopped under load, with and without a drain delay
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=1000))]
    stops: u64,
    /// Factor by which limits on speed and memory are relaxed, for a busy machine; limits on
    /// statuses, labels and lost requests are not
    #[arg(long, default_value_t = 1.0)]
    slack: f64,
}

/// The settings of a run, from the command line.
#[derive(Debug)]
struct Plan {
    /// Path of the server binary.
    server: PathBuf,
    /// How long a scenario loads the server.
    load: Duration,
    /// Number of requests that the soak sends.
    requests: u64,
    /// Number of reloads of a model.
    reloads: u64,
    /// Number of connections that are held without being used.
    held: usize,
    /// Number of servers that are stopped under load, with and without a drain delay.
    stops: u64,
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let plan = Plan {
        server: args.server,
        load: Duration::from_secs(args.seconds),
        requests: args.requests,
        reloads: args.reloads,
        held: args.held as usize,
        stops: args.stops,
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
