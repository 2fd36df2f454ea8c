//! `sightline quantize`.

mod args;
mod measure;
mod pictures;
mod progress;

use std::path::Path;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use onnx_export::quantize::{Network, Recipes, Target};
use sightline::engine::{Arithmetic, Engine, OnnxRuntime};
use sightline::manifest::{ModelManifest, Precision, Variant};
use sightline::networks::Networks;
use sightline::postprocess::detect::Detector;
use sightline::quantize::{Choice, Goal, NetworkReport, Subject, calibrate, search};
use sightline::store::{FP32, Graphs, INT8, ModelSource, Origin};
use sightline::threads::usable_cores;

use super::output::{OutputPaths, file_name, write_all};
use super::say::say;
pub(super) use args::QuantizeArgs;
use pictures::Pictures;
use progress::Bars;

/// Pictures whose layers' noise is reported.
const NOISE_PICTURES: usize = 4;

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
