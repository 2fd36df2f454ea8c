//! `sightline quantize`.

mod measure;
mod pictures;
mod progress;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use clap::{Args, ValueEnum};
use onnx_export::manifest::{ModelManifest, Precision, Variant};
use onnx_export::quantize::{Network, Recipes, Target};
use sightline::engine::{Arithmetic, Engine, OnnxRuntime};
use sightline::networks::Networks;
use sightline::postprocess::detect::Detector;
use sightline::quantize::{Choice, Goal, Method, NetworkReport, Subject, calibrate, search};
use sightline::store::{FP32, Graphs, INT8, ModelRef, ModelSource, Origin};
use sightline::threads::usable_cores;

use super::output::{OutputPaths, file_name, write_all};
use super::say::say;
use super::target::TargetName;
use super::{RuntimeArgs, StoreArgs};
use pictures::Pictures;
use progress::Bars;

/// Pictures whose layers' noise is reported.
const NOISE_PICTURES: usize = 4;

/// The percentile where none is asked for.
const DEFAULT_PERCENTILE: f64 = 99.99;

#[derive(Debug, Args)]
pub(super) struct QuantizeArgs {
    /// Model, as NAME or a path; its float version
    model: ModelRef,
    /// Folder of photographs like those that the model will be asked about
    #[arg(long, env = "SIGHTLINE_CALIBRATION", value_name = "DIR")]
    calibration: PathBuf,
    /// Photographs to use [default: up to 100, fewer where the network takes large pictures]
    #[arg(long, env = "SIGHTLINE_IMAGES", value_name = "N")]
    images: Option<usize>,
    /// How ranges are chosen [default: by whichever comes nearest to the float network]
    #[arg(long, env = "SIGHTLINE_METHOD", value_name = "METHOD")]
    method: Option<MethodName>,
    /// The percentile of `--method percentile` [default: 99.99]
    #[arg(long, env = "SIGHTLINE_PERCENTILE", value_name = "P")]
    percentile: Option<f64>,
    /// Processors that will run it; auto: such as this one
    #[arg(
        long,
        env = "SIGHTLINE_TARGET",
        default_value = "auto",
        value_name = "TARGET"
    )]
    target: TargetName,
    /// Cosine similarity of the outputs with the float network's at which the search ends
    #[arg(
        long,
        env = "SIGHTLINE_MIN_COSINE",
        default_value_t = 0.9975,
        value_name = "C"
    )]
    min_cosine: f64,
    /// Most of the multiplications that the search may leave in float
    #[arg(
        long,
        env = "SIGHTLINE_MAX_FLOAT",
        default_value_t = 0.2,
        value_name = "SHARE"
    )]
    max_float: f64,
    /// Least agreement of answers with the float model's; below it nothing is written but the report
    #[arg(
        long,
        env = "SIGHTLINE_MIN_AGREEMENT",
        default_value_t = 0.97,
        value_name = "SHARE"
    )]
    min_agreement: f64,
    /// Write the model even if it agrees too little or is not faster
    #[arg(long, env = "SIGHTLINE_FORCE")]
    force: bool,
    /// Folder of the model in both precisions, or the path of its float .onnx file [default: where MODEL is]
    #[arg(short = 'o', long = "out", env = "SIGHTLINE_OUT", value_name = "OUT")]
    out: Option<PathBuf>,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    runtime: RuntimeArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum MethodName {
    /// Everything that was seen
    Minmax,
    /// Without the rarest numbers
    Percentile,
    /// Least relative entropy
    Entropy,
    /// Least mean squared error
    Mse,
}

impl QuantizeArgs {
    fn goal(&self) -> Result<Goal> {
        let shares = [
            ("--min-cosine", self.min_cosine),
            ("--max-float", self.max_float),
            ("--min-agreement", self.min_agreement),
        ];
        for (flag, share) in shares {
            if !(0.0..=1.0).contains(&share) {
                bail!("`{flag}`: expected 0 to 1, got {share}");
            }
        }
        let percentile = self.percentile.unwrap_or(DEFAULT_PERCENTILE);
        if !(50.0..=100.0).contains(&percentile) {
            bail!("`--percentile`: expected 50 to 100, got {percentile}");
        }
        let by_percentile = matches!(self.method, Some(MethodName::Percentile));
        if self.percentile.is_some() && !by_percentile {
            bail!("`--percentile` goes with `--method percentile` only");
        }
        let method = self.method.map(|name| match name {
            MethodName::Minmax => Method::Minmax,
            MethodName::Percentile => Method::Percentile(percentile),
            MethodName::Entropy => Method::Entropy,
            MethodName::Mse => Method::Mse,
        });
        Ok(Goal {
            cosine: self.min_cosine,
            max_float: self.max_float,
            method,
        })
    }

    /// The manifest of what is written: with `-o` it is named as its place, as `export` does, since two
    /// models of one name could not be told apart.
    fn named(&self, source: &ModelSource, paths: &OutputPaths) -> Result<ModelManifest> {
        let mut manifest = source.manifest.clone();
        if self.out.is_some() {
            manifest.name.clone_from(&paths.name);
            // Parsed again so that a name that `serve` would refuse is refused before the work.
            ModelManifest::parse(&manifest.to_toml()?).context("the quantised model (see -o)")?;
        }
        Ok(manifest)
    }

    /// Where the files go.
    fn paths(&self, source: &ModelSource) -> Result<OutputPaths> {
        let paths = match (&self.out, &source.path, &source.origin) {
            (Some(out), ..) => OutputPaths::new(out)?,
            (None, Some(manifest), Origin::Files(files)) => {
                OutputPaths::of(manifest, files, &source.manifest.labels)
            }
            _ => bail!("{} is built in: say with -o where its files go", self.model),
        };
        paths.check()?;
        Ok(paths)
    }
}

/// Calibrates, searches, compares, and writes the files if the model is good enough.
pub(super) fn run(args: &QuantizeArgs) -> Result<()> {
    let (goal, target) = (args.goal()?, args.target.target());
    let source = args.store.store().find(&args.model)?;
    if source.variant != FP32 {
        let name = &source.manifest.name;
        bail!(
            "{} is a variant: quantise {name} itself, whose int8 variant this makes",
            args.model
        );
    }
    let paths = args.paths(&source)?;
    let named = args.named(&source, &paths)?;
    let pictures = Pictures::read(&args.calibration, args.images, &source.manifest.preprocess)?;
    let runtime = args.runtime.load()?;
    let float = source.graphs()?;
    let work = Work {
        runtime: &runtime,
        pictures: &pictures,
        target,
        goal,
        bars: Bars::new(),
    };
    let detector = Detector::of(&source.manifest)?;
    let (recipes, networks) = work.choose(&source, detector.as_ref(), &float)?;
    let int8 = float.quantized(&recipes, target)?;
    let report = measure::report(&work, &source, detector.as_ref(), (&float, &int8), networks)?;
    let json = serde_json::to_string_pretty(&report)? + "\n";
    let text = report.to_string();
    // Whether anybody reads it must not decide over the files.
    let said = say!("{}", text.trim_end());
    let (json_path, text_path) = (
        paths.beside("int8.report.json"),
        paths.beside("int8.report.txt"),
    );
    let reports = [
        (json_path.as_path(), json.as_bytes()),
        (&text_path, text.as_bytes()),
    ];
    if !args.force
        && let Some(advice) = measure::objection(&report, args.min_agreement)
    {
        write_all(&reports)?;
        bail!(
            "{advice}\nnothing was written but the report, {}",
            text_path.display()
        );
    }
    write(
        (&source, named),
        &paths,
        (&float, &int8),
        &recipes,
        &reports,
    )?;
    said?;
    say!("{}: the report", text_path.display())?;
    say!(
        "try: sightline serve --model {0}@fp32 --model {0}@int8",
        paths.manifest.display()
    )
}

/// What all stages need.
pub(super) struct Work<'a> {
    runtime: &'a OnnxRuntime,
    pictures: &'a Pictures,
    target: Target,
    goal: Goal,
    bars: Bars,
}

impl Work<'_> {
    /// The recipes of the model's networks, and what is to be reported of each.
    fn choose(
        &self,
        source: &ModelSource,
        detector: Option<&Detector>,
        float: &Graphs<Bytes>,
    ) -> Result<(Recipes, Vec<NetworkReport>)> {
        let mut reports = Vec::new();
        let subject = |graph: &[u8]| -> Result<Subject<'_>> {
            let network = Network::read(graph);
            Ok(Subject {
                runtime: self.runtime,
                network: network
                    .with_context(|| format!("cannot quantise {}", source.manifest.name))?,
                first: None,
                threads: usable_cores(),
            })
        };
        let network = self.choose_one(&subject(&float.network)?, &mut reports)?;
        let propose = detector.and_then(Detector::proposer);
        let box_head = match (&float.box_head, propose) {
            (Some(graph), Some(propose)) => {
                let first = Some((&float.network[..], propose));
                let subject = Subject {
                    first,
                    ..subject(graph)?
                };
                Some(self.choose_one(&subject, &mut reports)?)
            }
            _ => None,
        };
        let recipes = Recipes::new(
            self.target,
            network.recipe,
            box_head.map(|head| head.recipe),
        );
        Ok((recipes, reports))
    }

    fn choose_one(
        &self,
        subject: &Subject<'_>,
        reports: &mut Vec<NetworkReport>,
    ) -> Result<Choice> {
        let statistics = calibrate(subject, self.pictures.tensors(), &self.bars)?;
        let few = self.pictures.few();
        let choice = search(
            subject,
            &statistics,
            few,
            self.target,
            self.goal,
            &self.bars,
        )?;
        let noise = &few[..few.len().min(NOISE_PICTURES)];
        reports.push(NetworkReport::new(subject, &choice, self.target, noise)?);
        self.bars.finish();
        Ok(choice)
    }

    /// An engine on one thread for a version of the model.
    fn engine(
        &self,
        source: &ModelSource,
        detector: Option<&Detector>,
        graphs: &Graphs<Bytes>,
        arithmetic: Arithmetic,
    ) -> Result<Box<dyn Engine>> {
        let runtime = self.runtime.with_arithmetic(arithmetic);
        let source = ModelSource {
            origin: Origin::Memory(graphs.clone()),
            requantize: None,
            ..source.clone()
        };
        Ok(Networks::prepare(&source, detector, &runtime)?.engine(1)?)
    }
}

/// Writes the model in both precisions: all of its files, or none.
fn write(
    (source, mut manifest): (&ModelSource, ModelManifest),
    paths: &OutputPaths,
    (float, int8): (&Graphs<Bytes>, &Graphs<Bytes>),
    recipes: &Recipes,
    reports: &[(&Path, &[u8])],
) -> Result<()> {
    let (int8_onnx, int8_head) = (paths.int8.clone(), paths.beside("int8.box_head.onnx"));
    let ranges = paths.ranges.clone();
    manifest.file = Some(file_name(&paths.onnx));
    manifest.box_head_file = float.box_head.as_ref().map(|_| file_name(&paths.box_head));
    manifest.labels = file_name(&paths.labels);
    manifest.weights = Vec::new();
    if source.path.as_ref() != Some(&paths.manifest) {
        // Other variants' files stay where they are.
        let variants = &mut manifest.variants;
        variants.retain(|_, variant| variant.file.is_none() && variant.ranges.is_none());
    }
    let variant = Variant {
        precision: Some(Precision::Int8),
        file: Some(file_name(&int8_onnx)),
        box_head_file: int8.box_head.as_ref().map(|_| file_name(&int8_head)),
        ranges: Some(file_name(&ranges)),
        resize: None,
    };
    manifest.variants.insert(INT8.to_owned(), variant);
    let manifest = manifest.to_toml()?;
    let labels = source.labels.join("\n") + "\n";
    let recipes = recipes.to_json()?;
    let mut files: Vec<(&Path, &[u8])> =
        vec![(&paths.onnx, &float.network), (&int8_onnx, &int8.network)];
    let heads = [
        (&paths.box_head, &float.box_head),
        (&int8_head, &int8.box_head),
    ];
    files.extend(
        heads
            .iter()
            .filter_map(|(path, bytes)| Some((path.as_path(), bytes.as_deref()?))),
    );
    files.extend([
        (ranges.as_path(), recipes.as_bytes()),
        (&paths.labels, labels.as_bytes()),
    ]);
    files.extend(reports);
    files.push((&paths.manifest, manifest.as_bytes()));
    write_all(&files)
}
