//! `sightline bench`: measures the latency and throughput of models, without and with the server.
//!
//! Each line of the output is for one model and has medians over several rounds. In a round, the
//! measurements with and without the server alternate. On a shared machine, their ratios are
//! therefore reliable, while absolute times are not.
//!
//! With `--url`, [`running`] measures a running server instead, also with requests at fixed times, and with `--compare`,
//! [`compare`] measures several. [`tables`] measures the published tables, and [`plot`] writes charts.

mod alone;
mod compare;
mod costs;
mod curves;
mod generated;
mod images;
mod load;
mod plot;
mod record;
mod remote;
mod running;
mod schedule;
mod served;
mod table;
mod tables;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use clap::Args;
use sightline::app::Limits;
use sightline::config::SecretUrl;
use sightline::engine::OnnxRuntime;
use sightline::process::ProcessUsage;
use sightline::store::{ModelRef, ModelSource, read_bounded};
use sightline::threads::usable_cores;

use super::say::say;
use super::{PrecisionArgs, RuntimeArgs, StoreArgs};
use alone::{Alone, Stages};
pub(super) use costs::{measure as measure_costs, measure_server};
use curves::Subject;
use images::Image;
use load::{Client, median};
pub(super) use running::route;
use served::Server;
use table::{Line, Round};

/// The image that is sent if `--image` is not set: a JPEG of 500x375 pixels, a common size in
/// datasets.
pub(super) const IMAGE: &[u8] = include_bytes!("../../../tests/photos/coffee_500x375.jpg");
/// Default number of connections of a closed loop.
const CONNECTIONS: u16 = 8;
/// Time during which the CPU usage of the idle server is measured.
const IDLE: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
pub(super) struct BenchArgs {
    /// Model to measure, as NAME, NAME@VARIANT or a path; may be repeated. A model of the catalogue that is not installed is measured with
    /// generated weights [default: every model of the models directory, or the built-in model without one]
    #[arg(
        long,
        env = "SIGHTLINE_MODEL",
        value_name = "NAME[@VARIANT]",
        value_delimiter = ','
    )]
    model: Vec<ModelRef>,
    /// URL of a running server to measure instead of models in this process
    #[arg(long, env = "SIGHTLINE_URL", value_name = "URL")]
    url: Option<SecretUrl>,
    /// Measure several running servers with the same images in turns, and print one table. A URL is that of a server, of
    /// a task under /v1 or of a model under /v2/models; the protocol (/v1 or Open Inference Protocol) is found out
    #[arg(
        long,
        env = "SIGHTLINE_COMPARE",
        value_name = "URL",
        value_delimiter = ',',
        num_args = 1..,
        conflicts_with_all = ["url", "tables"]
    )]
    compare: Vec<SecretUrl>,
    /// Measure the published tables of networks in this process: classification, detection, segmentation, or all.
    /// Networks that are not installed have generated weights; `--model` selects rows
    #[arg(
        long,
        env = "SIGHTLINE_TABLES",
        value_name = "all|classification|detection|segmentation",
        hide_possible_values = true,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "all",
        conflicts_with = "url"
    )]
    tables: Option<tables::Selection>,
    /// Write charts as SVG files into this folder: of accuracy and latency with `--tables`, with their data in
    /// tables.json, else of throughput and latency over 1 to `--connections` connections [default of `--connections`:
    /// 32]
    #[arg(long, env = "SIGHTLINE_PLOT", value_name = "DIR", conflicts_with_all = ["rate", "seconds", "requests"])]
    plot: Option<PathBuf>,
    /// API key for the server at `--url`, or for all servers of `--compare`
    #[arg(
        long,
        env = "SIGHTLINE_API_KEY",
        value_name = "KEY",
        hide_env_values = true
    )]
    api_key: Option<String>,
    /// Image to send [default: a 500x375 JPEG]
    #[arg(long, env = "SIGHTLINE_IMAGE", value_name = "FILE")]
    image: Option<PathBuf>,
    /// Folder with images to send to `--url` or `--compare`, one after the other; without `--rate`, `--seconds`, `--plot`
    /// or `--compare`, each is sent once
    #[arg(
        long,
        env = "SIGHTLINE_BENCH_IMAGES",
        value_name = "DIR",
        conflicts_with = "image"
    )]
    images: Option<PathBuf>,
    /// Send this many requests per second to `--url` at fixed times, whether or not the server keeps up (open loop), and
    /// measure latencies from these times [default: each connection sends its next request after a response]
    #[arg(long, env = "SIGHTLINE_RATE", value_name = "R", requires = "url", value_parser = parse_rate)]
    rate: Option<f64>,
    /// Send the requests of `--rate` at random times (a Poisson process), as from many independent clients, instead of
    /// at equal intervals
    #[arg(long, env = "SIGHTLINE_POISSON", requires = "rate")]
    poisson: bool,
    /// Duration of a load test of `--url` with `--rate`, `--images` or `--requests` [default: 10, or until the last
    /// request of `--requests` or `--images`]
    #[arg(long, env = "SIGHTLINE_SECONDS", value_name = "N", requires = "url", value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: Option<u32>,
    /// Most requests of a load test of `--url` [default: no limit; with `--images` alone, one for each image]
    #[arg(long, env = "SIGHTLINE_REQUESTS", value_name = "N", requires = "url", value_parser = clap::value_parser!(u64).range(1..))]
    requests: Option<u64>,
    /// Number of connections in the load test [default: 8; with `--rate` 128]
    #[arg(long, env = "SIGHTLINE_CONNECTIONS", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=512))]
    connections: Option<u16>,
    /// Number of rounds; each value in the output is a median over the rounds
    #[arg(long, env = "SIGHTLINE_ROUNDS", default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
    /// Duration of each measurement in a round (one connection, `--connections` connections), in
    /// milliseconds
    #[arg(long, env = "SIGHTLINE_ROUND_MS", default_value_t = 1000, value_name = "MILLISECONDS", value_parser = clap::value_parser!(u64).range(50..=60_000))]
    round_ms: u64,
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

/// Parses a value of `--rate`.
pub(super) fn parse_rate(text: &str) -> Result<f64, String> {
    let rate = text
        .parse()
        .ok()
        .filter(|rate| (0.001..=1e6).contains(rate));
    rate.ok_or_else(|| format!("expected a number from 0.001 to 1000000, got `{text}`"))
}

/// Prints one table line per model, or the results for the running server at `--url`.
pub(super) fn run(args: &BenchArgs) -> Result<()> {
    let image = match &args.image {
        Some(path) => Bytes::from(read_bounded(path, Limits::default().max_body_bytes as u64)?),
        None => Bytes::from_static(IMAGE),
    };
    if args.images.is_some() && args.url.is_none() && args.compare.is_empty() {
        bail!("`--images` applies to `--url` and `--compare`");
    }
    if let Some(folder) = &args.plot {
        let create = || format!("cannot create the folder {}", folder.display());
        std::fs::create_dir_all(folder).with_context(create)?;
    }
    if !args.compare.is_empty() {
        return compare::run(args, image);
    }
    if let Some(url) = &args.url {
        return running::run(args, url, image);
    }
    let runtime = args.runtime.load()?;
    if let Some(selection) = args.tables {
        return tables::run(args, selection, &runtime, &image);
    }
    let store = args.store.store();
    let mut models = args.model.clone();
    if models.is_empty() {
        let served = store.served()?.into_iter();
        models.extend(served.map(|model| ModelRef {
            name: model.manifest.name,
            variant: None,
        }));
    }
    let find = |model: &ModelRef| {
        let choice = args.precision.precision;
        let found = generated::find_or_make(&store, model, choice, (&runtime, &image))?;
        Ok::<_, anyhow::Error>(found.source)
    };
    if let Some(folder) = &args.plot {
        let sent = [Image::new("image", image.clone())];
        let curves = models.iter().map(|model| {
            let server = Server::start(&runtime, find(model)?)?;
            let subject = Subject {
                name: model.to_string(),
                target: server.target(),
                images: &sent,
            };
            let curve = curves::measure(&subject, args)?;
            server.stop()?;
            Ok(curve)
        });
        let curves = curves.collect::<Result<Vec<_>>>()?;
        return curves::finish(&curves, folder, args);
    }
    if args.json {
        let measured = models
            .iter()
            .map(|model| measure(args, &runtime, find(model)?, &image));
        let lines = measured.collect::<Result<Vec<_>>>()?;
        return say!("{}", serde_json::to_string_pretty(&lines)?);
    }
    say!(
        "{} cores; times are medians in milliseconds; decode, preprocess, inference and \
         postprocessing (boxes, masks): CPU time of one thread without a server; wall: elapsed \
         time of these four stages",
        usable_cores()
    )?;
    say!("{}", Line::HEAD)?;
    for model in &models {
        let line = measure(args, &runtime, find(model)?, &image)?;
        say!("{line}")?;
    }
    let peak = ProcessUsage::now().peak_resident_bytes as f64 / 1e6;
    say!("peak memory of this process: {peak:.0} MB")
}

/// Measures one model without a server, through the server with one connection, and under load.
fn measure(
    args: &BenchArgs,
    runtime: &OnnxRuntime,
    source: ModelSource,
    image: &Bytes,
) -> Result<Line> {
    let name = source.id();
    let mut alone = Alone::new(runtime, &source)?;
    let server = Server::start(runtime, source)?;
    let idle = served::idle_cpu(IDLE);
    let length = Duration::from_millis(args.round_ms);
    let target = server.target();
    let client = Client::new(target);
    let connections = usize::from(args.connections.unwrap_or(CONNECTIONS));
    let mut rounds = Vec::new();
    for _ in 0..args.rounds {
        // Runs without the server and requests to it alternate, so that a slow moment of the
        // machine affects the times of both.
        let (mut runs, mut single) = (Vec::new(), Vec::new());
        let end = Instant::now() + length;
        while runs.is_empty() || Instant::now() < end {
            runs.push(alone.once(image)?);
            single.push(client.send(image)?);
        }
        let many = load::run(target, image, connections, length)?;
        let stages = Stages::median(&runs);
        rounds.push(Round {
            stages,
            single: median(single),
            many,
        });
    }
    server.stop()?;
    Ok(Line::new(name, idle, &rounds))
}
