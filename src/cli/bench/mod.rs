//! `sightline bench`: measures the latency and throughput of models, without and with the server.
//!
//! Each line of the output is for one model and has medians over several rounds. In a round, the
//! measurements with and without the server alternate. On a shared machine, their ratios are
//! therefore reliable, while absolute times are not.

mod alone;
mod load;
mod served;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use clap::Args;
use onnx_export::formula;
use onnx_export::{BuildError, DEFAULT_OPSET};
use sightline::app::Limits;
use sightline::catalogue;
use sightline::config::{PrecisionChoice, SecretUrl};
use sightline::engine::OnnxRuntime;
use sightline::manifest::Precision;
use sightline::process::ProcessUsage;
use sightline::registry;
use sightline::store::{
    FP32, ModelRef, ModelSource, ModelStore, Origin, StoreError, lines, read_bounded,
};
use sightline::threads::usable_cores;

use super::say::say;
use super::{PrecisionArgs, RuntimeArgs, StoreArgs};
use alone::{Alone, Stages};
use load::{Client, Load, Target, median};
use served::Server;

/// The image that is sent if `--image` is not set: a JPEG of 500x375 pixels, a common size in
/// datasets.
const IMAGE: &[u8] = include_bytes!("../../../tests/photos/coffee_500x375.jpg");
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
    /// API key for the server at `--url`
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
    /// Number of connections in the load test
    #[arg(long, env = "SIGHTLINE_CONNECTIONS", default_value_t = 8, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=512))]
    connections: u16,
    /// Number of rounds; each value in the output is a median over the rounds
    #[arg(long, env = "SIGHTLINE_ROUNDS", default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
    /// Duration of each measurement in a round (one connection, `--connections` connections), in
    /// milliseconds
    #[arg(long, env = "SIGHTLINE_ROUND_MS", default_value_t = 1000, value_name = "MILLISECONDS", value_parser = clap::value_parser!(u64).range(50..=60_000))]
    round_ms: u64,
    #[command(flatten)]
    precision: PrecisionArgs,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    runtime: RuntimeArgs,
}

/// Prints one table line per model. With `--url`, prints two lines for the running server: for one
/// connection, and for `--connections` connections.
pub(super) fn run(args: &BenchArgs) -> Result<()> {
    let image = match &args.image {
        Some(path) => Bytes::from(read_bounded(path, Limits::default().max_body_bytes as u64)?),
        None => Bytes::from_static(IMAGE),
    };
    if let Some(url) = &args.url {
        return running_server(args, url, &image);
    }
    let runtime = args.runtime.load()?;
    let store = args.store.store();
    let mut models = args.model.clone();
    if models.is_empty() {
        let served = store.served()?.into_iter();
        models.extend(served.map(|model| ModelRef {
            name: model.manifest.name,
            variant: None,
        }));
    }
    say!(
        "{} cores; times are medians in milliseconds; decode, preprocess, inference and \
         postprocessing (boxes, masks): CPU time of one thread without a server; wall: elapsed \
         time of these four stages",
        usable_cores()
    )?;
    say!("{}", Line::HEAD)?;
    for model in &models {
        let source = find_or_make(&store, model, args.precision.precision)?;
        let line = measure(args, &runtime, source, &image)?;
        say!("{line}")?;
    }
    let peak = ProcessUsage::now().peak_resident_bytes as f64 / 1e6;
    say!("peak memory of this process: {peak:.0} MB")
}

/// Returns the model from the store. If the store does not have the model, builds the network of
/// that name in the catalogue, with generated weights.
///
/// # Errors
/// If the model is neither in the store nor in the catalogue, or cannot be read or built.
fn find_or_make(
    store: &ModelStore,
    model: &ModelRef,
    precision: Option<PrecisionChoice>,
) -> Result<ModelSource> {
    let error = match registry::find(store, model, precision) {
        Ok(source) => return Ok(source),
        Err(error @ StoreError::NotFound { .. }) => error,
        Err(error) => return Err(error.into()),
    };
    let Some(manifest) = catalogue::manifest(&model.name)? else {
        return Err(error.into());
    };
    let Some(architecture) = &manifest.architecture else {
        return Err(error.into());
    };
    let shapes = onnx_export::tensor_shapes(architecture)?;
    let state = formula::state_dict(&shapes, &[]).map_err(BuildError::from)?;
    let built = onnx_export::build(&model.name, architecture, &state, DEFAULT_OPSET)?;
    let labels = catalogue::labels(&manifest.labels)
        .map(lines)
        .unwrap_or_default();
    let origin = Origin::Memory(built.to_files().map(|_, file| file.into()));
    let source = ModelSource {
        manifest,
        variant: FP32.to_owned(),
        precision: Precision::Fp32,
        path: None,
        manifest_text: None,
        labels,
        origin,
        requantize: None,
    };
    Ok(source.with_variant(model)?)
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
    let target = Target {
        url: &server.url,
        api_key: None,
    };
    let client = Client::new(target);
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
        let many = load::run(target, image, usize::from(args.connections), length)?;
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

/// The results of one round of measurements of a model.
struct Round {
    stages: Stages,
    /// Median latency over one connection, in milliseconds.
    single: f64,
    /// Latency and throughput over `--connections` connections.
    many: Load,
}

/// One line of the table: the results of a model.
struct Line {
    model: String,
    stages: Stages,
    /// Median latency over one connection, in milliseconds.
    single_p50: f64,
    /// Median latency over one connection minus the elapsed time of the stages without a server, in
    /// milliseconds.
    added: f64,
    /// Median latency over `--connections` connections, in milliseconds.
    many_p50: f64,
    /// 99th percentile of the latency over `--connections` connections, in milliseconds.
    many_p99: f64,
    /// Throughput over `--connections` connections, in images per second.
    per_second: f64,
    /// `per_second` as a fraction of the throughput that the CPU cores would reach if they ran only
    /// the stages of requests.
    of_ideal: f64,
    /// CPU usage while the server is idle, as a fraction of one core.
    idle: f64,
}

impl Line {
    /// Header line of the table, with the names of the columns.
    const HEAD: &str = "model                                    decode prepr. infer. postpr.  wall |  1 conn: p50  added | \
         load: p50    p99  images/s  of ideal | idle CPU";

    fn new(model: String, idle: f64, rounds: &[Round]) -> Self {
        let over = |figure: &dyn Fn(&Round) -> f64| median(rounds.iter().map(figure).collect());
        let cores = usable_cores() as f64;
        Self {
            model,
            stages: Stages {
                decode: over(&|round| round.stages.decode),
                preprocess: over(&|round| round.stages.preprocess),
                inference: over(&|round| round.stages.inference),
                postprocess: over(&|round| round.stages.postprocess),
                wall: over(&|round| round.stages.wall),
            },
            single_p50: over(&|round| round.single),
            added: over(&|round| round.single - round.stages.wall),
            many_p50: over(&|round| round.many.p50),
            many_p99: over(&|round| round.many.p99),
            per_second: over(&|round| round.many.per_second),
            of_ideal: over(&|r| r.many.per_second * r.stages.cpu() / 1000.0 / cores),
            idle,
        }
    }
}

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Stages {
            decode,
            preprocess,
            inference,
            postprocess,
            wall,
        } = self.stages;
        write!(
            f,
            "{:40} {decode:6.2} {preprocess:6.2} {inference:6.2} {postprocess:6.2} {wall:6.2} | ",
            self.model
        )?;
        write!(f, "{:12.2} {:6.2} | ", self.single_p50, self.added)?;
        write!(
            f,
            "{:9.2} {:6.2} {:9.1} ",
            self.many_p50, self.many_p99, self.per_second
        )?;
        write!(
            f,
            "{:8.1}% | {:7.2}%",
            self.of_ideal * 100.0,
            self.idle * 100.0
        )
    }
}

/// Measures the running server at `url`. Prints a line with the results for one connection, and a
/// line for `--connections` connections.
fn running_server(args: &BenchArgs, url: &SecretUrl, image: &Bytes) -> Result<()> {
    let given = url.expose();
    let url = if given.contains("/v1/") {
        url.clone()
    } else {
        format!("{}/v1/classify", given.trim_end_matches('/')).into()
    };
    let target = Target {
        url: url.expose(),
        api_key: args.api_key.as_deref(),
    };
    let length = Duration::from_millis(args.round_ms);
    say!("connections       p50 ms    p99 ms  images/s")?;
    for connections in [1, usize::from(args.connections)] {
        let loads = (0..args.rounds)
            .map(|_| load::run(target, image, connections, length))
            .collect::<Result<Vec<_>>>()
            .with_context(|| format!("cannot measure {url}"))?;
        if loads.is_empty() {
            bail!("cannot measure {url}: no rounds were run");
        }
        let over = |figure: fn(&Load) -> f64| median(loads.iter().map(figure).collect());
        let (p50, p99) = (over(|load| load.p50), over(|load| load.p99));
        say!(
            "{connections:11} {p50:12.2} {p99:9.2} {:9.1}",
            over(|load| load.per_second)
        )?;
    }
    Ok(())
}
