//! `sightline plan`: computes how many replicas serve a rate of requests within a latency goal.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use clap::Args;
use serde::Serialize;
use sightline::app::Limits;
use sightline::config::SecretUrl;
use sightline::memory::ByteSize;
use sightline::plan::{Costs, Goal, Outcome, memory_limit, outcome, plan};
use sightline::store::{ModelRef, read_bounded};
use sightline::threads::usable_cores;

use super::bench::{IMAGE, measure_costs, measure_server, parse_rate, route};
use super::say::say;
use super::{PrecisionArgs, RuntimeArgs, StoreArgs};

/// Number of replicas above the plan that the table shows.
const MORE: u32 = 2;
/// Number of quantiles of the costs in `--json`.
const QUANTILES: u32 = 100;

#[derive(Debug, Args)]
pub(super) struct PlanArgs {
    /// Requests per second that all replicas together must serve, each with one image
    #[arg(long, env = "SIGHTLINE_RATE", value_name = "R", value_parser = parse_rate)]
    rate: f64,
    /// Latency that 99 % of the requests may take, in milliseconds
    #[arg(long, env = "SIGHTLINE_P99", value_name = "MILLISECONDS", value_parser = parse_milliseconds)]
    p99: f64,
    /// Model, as NAME, NAME@VARIANT or a path. A model of the catalogue that is not installed is measured with generated
    /// weights [default: the only model of the models directory, or the built-in model without one]
    #[arg(
        long,
        env = "SIGHTLINE_MODEL",
        value_name = "NAME[@VARIANT]",
        value_delimiter = ','
    )]
    model: Vec<ModelRef>,
    /// URL of a running server without other requests, whose costs are measured instead of a model's in this process; as
    /// for `bench`, also with a route such as `http://HOST:8080/v1/detect?model=ssdlite`
    #[arg(
        long,
        env = "SIGHTLINE_URL",
        value_name = "URL",
        conflicts_with = "cost_ms"
    )]
    url: Option<SecretUrl>,
    /// API key for the server at `--url`
    #[arg(
        long,
        env = "SIGHTLINE_API_KEY",
        value_name = "KEY",
        hide_env_values = true
    )]
    api_key: Option<String>,
    /// Image that is typical of the requests [default: a 500x375 JPEG]
    #[arg(long, env = "SIGHTLINE_IMAGE", value_name = "FILE")]
    image: Option<PathBuf>,
    /// Cores of each replica, also of the server at `--url` [default: the cores that this process may run on]
    #[arg(long, env = "SIGHTLINE_CORES", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    cores: Option<u32>,
    /// Duration of the measurement of the model's costs on this machine, in seconds
    #[arg(long, env = "SIGHTLINE_SECONDS", default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// Milliseconds that a request occupies a core, instead of a measurement on this machine; may be repeated, so that
    /// the values have the distribution of those measured elsewhere
    #[arg(long, env = "SIGHTLINE_COST_MS", value_name = "MILLISECONDS", value_delimiter = ',', value_parser = parse_milliseconds)]
    cost_ms: Vec<f64>,
    /// Print JSON instead of text
    #[arg(long, env = "SIGHTLINE_JSON")]
    json: bool,
    #[command(flatten)]
    precision: PrecisionArgs,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    runtime: RuntimeArgs,
}

/// Parses a duration in milliseconds.
fn parse_milliseconds(text: &str) -> Result<f64, String> {
    let time = text.parse().ok();
    let time = time.filter(|time| (0.001..=3.6e6).contains(time));
    time.ok_or_else(|| format!("expected a number from 0.001 to 3600000, got `{text}`"))
}

/// What the plan computes with.
struct Basis {
    /// The model's id. `None` if the costs are those of `--cost-ms` or `--url`.
    model: Option<String>,
    costs: Costs,
    /// Memory limit of a replica. `None` if it was not measured.
    memory: Option<u64>,
}

/// Measures the costs of the model unless `args` has them, and prints the plan.
///
/// # Errors
/// If the costs cannot be measured, or no number of replicas meets the goal.
pub(super) fn run(args: &PlanArgs) -> Result<()> {
    let basis = basis(args)?;
    let goal = Goal {
        rate: args.rate,
        p99: args.p99 / 1e3,
        cores: args.cores.unwrap_or_else(cores_of_this_machine),
    };
    let found = plan(&basis.costs, &goal)?;
    let report = Report::new(&basis, &goal, found);
    if args.json {
        return say!("{}", serde_json::to_string_pretty(&report)?);
    }
    report.print()
}

fn cores_of_this_machine() -> u32 {
    u32::try_from(usable_cores()).unwrap_or(u32::MAX)
}

fn basis(args: &PlanArgs) -> Result<Basis> {
    if !args.cost_ms.is_empty() {
        let costs = args.cost_ms.iter().map(|cost| cost / 1e3);
        return Ok(Basis {
            model: None,
            costs: Costs::new(costs.collect())?,
            memory: None,
        });
    }
    let image = match &args.image {
        Some(path) => Bytes::from(read_bounded(path, Limits::default().max_body_bytes as u64)?),
        None => Bytes::from_static(IMAGE),
    };
    let length = Duration::from_secs(args.seconds.into());
    if let Some(url) = &args.url {
        let cores = args.cores.map_or_else(usable_cores, |cores| cores as usize);
        let (url, key) = (route(url), args.api_key.as_deref());
        return Ok(Basis {
            model: None,
            costs: Costs::new(measure_server(url.expose(), key, &image, cores, length)?)?,
            memory: None,
        });
    }
    let store = args.store.store();
    let model = if let Some(model) = args.model.first() {
        model.clone()
    } else {
        let source = args.store.find(None, args.precision.precision)?;
        ModelRef {
            name: source.manifest.name,
            variant: Some(source.variant),
        }
    };
    let measured = measure_costs(
        &args.runtime.load()?,
        &store,
        &model,
        args.precision.precision,
        &image,
        length,
    )?;
    Ok(Basis {
        model: Some(measured.model),
        costs: Costs::new(measured.service_times)?,
        memory: Some(memory_limit(measured.resident_bytes)),
    })
}

/// The plan, in the form of `--json`.
#[derive(Debug, Serialize)]
struct Report {
    /// The model's id. `null` with `--cost-ms` and `--url`.
    model: Option<String>,
    rate: f64,
    p99_goal_ms: f64,
    /// Cores of each replica.
    cores_per_replica: u32,
    service_ms: Service,
    /// Requests per second at which all cores of a replica are busy.
    capacity_per_replica: f64,
    /// Memory limit for each replica, in bytes. `null` with `--cost-ms` and `--url`.
    memory_per_replica: Option<u64>,
    /// Number of replicas that meet the goal.
    replicas: u32,
    /// Cores of all these replicas.
    cores: u64,
    /// Memory limits of all these replicas together, in bytes. `null` with `--cost-ms` and `--url`.
    memory: Option<u64>,
    /// The plan, what one replica less does (as while one fails or is updated), and what more replicas do.
    outcomes: Vec<Row>,
}

/// The time that a request occupies a core.
#[derive(Debug, Serialize)]
struct Service {
    mean: f64,
    p50: f64,
    p99: f64,
    /// The standard deviation divided by the mean.
    variation: f64,
    /// 100 quantiles at equal distances, which `--cost-ms` accepts.
    quantiles: Vec<f64>,
}

#[derive(Debug, Serialize)]
struct Row {
    replicas: u32,
    utilization: f64,
    /// `null` if the replicas are overloaded.
    p50_ms: Option<f64>,
    p99_ms: Option<f64>,
}

impl From<Outcome> for Row {
    fn from(outcome: Outcome) -> Self {
        Self {
            replicas: outcome.replicas,
            utilization: outcome.utilization,
            p50_ms: outcome.latency.map(|latency| latency.p50 * 1e3),
            p99_ms: outcome.latency.map(|latency| latency.p99 * 1e3),
        }
    }
}

impl Report {
    fn new(basis: &Basis, goal: &Goal, found: Outcome) -> Self {
        let costs = &basis.costs;
        let first = found.replicas.saturating_sub(1).max(1);
        let rows =
            (first..=found.replicas + MORE).map(|replicas| outcome(costs, goal, replicas).into());
        Self {
            model: basis.model.clone(),
            rate: goal.rate,
            p99_goal_ms: goal.p99 * 1e3,
            cores_per_replica: goal.cores,
            service_ms: Service {
                mean: costs.mean() * 1e3,
                p50: costs.quantile(0.5) * 1e3,
                p99: costs.quantile(0.99) * 1e3,
                variation: costs.variation(),
                quantiles: (0..QUANTILES)
                    .map(|index| {
                        costs.quantile((f64::from(index) + 0.5) / f64::from(QUANTILES)) * 1e3
                    })
                    .collect(),
            },
            capacity_per_replica: f64::from(goal.cores) / costs.mean(),
            memory_per_replica: basis.memory,
            replicas: found.replicas,
            cores: u64::from(goal.cores) * u64::from(found.replicas),
            memory: basis
                .memory
                .map(|memory| memory * u64::from(found.replicas)),
            outcomes: rows.collect(),
        }
    }

    fn print(&self) -> Result<()> {
        let model = self.model.as_deref().unwrap_or("measured");
        say!(
            "{model}: a request occupies a core for {:.2} ms (p99 {:.2} ms)",
            self.service_ms.mean,
            self.service_ms.p99
        )?;
        let memory = |bytes: Option<u64>| {
            bytes.map_or_else(String::new, |bytes| {
                format!(", {} of memory", ByteSize(bytes))
            })
        };
        say!(
            "a replica of {} cores{} serves at most {:.1} requests/s",
            self.cores_per_replica,
            memory(self.memory_per_replica),
            self.capacity_per_replica
        )?;
        say!(
            "{} requests/s with a p99 of {} ms: {} replicas, {} cores{}",
            self.rate,
            self.p99_goal_ms,
            self.replicas,
            self.cores,
            memory(self.memory)
        )?;
        say!("\nreplicas  busy     p50 ms    p99 ms")?;
        for row in &self.outcomes {
            let busy = row.utilization * 100.0;
            match (row.p50_ms, row.p99_ms) {
                (Some(p50), Some(p99)) => {
                    say!("{:8} {busy:4.0} % {p50:10.1} {p99:9.1}", row.replicas)
                }
                _ => say!("{:8} {busy:4.0} %   overloaded", row.replicas),
            }?;
        }
        say!("\nOne replica less is what is left while one fails or is updated.")
    }
}
