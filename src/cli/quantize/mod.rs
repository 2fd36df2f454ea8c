//! `sightline quantize`.

mod args;
mod measure;
mod pictures;
mod progress;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use onnx_export::quantize::{Network, Recipes, Target};
use onnx_export::{Role, Stages};
use sightline::engine::{Arithmetic, Engine, OnnxRuntime};
use sightline::manifest::{ModelManifest, Precision, Variant};
use sightline::networks::Networks;
use sightline::postprocess::detect::Detector;
use sightline::quantize::{Choice, Goal, NetworkReport, Subject, calibrate, search};
use sightline::store::{FP32, INT8, ModelSource, Origin, quantized};
use sightline::threads::usable_cores;

use super::output::{OutputPaths, file_name, stage_files, write_all};
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
    let int8 = quantized(&float, &recipes, target)?;
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
        (json_path, json.as_bytes()),
        (text_path.clone(), text.as_bytes()),
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
    let quantized = Quantized {
        source: &source,
        fp32: &float,
        int8: &int8,
        recipes: &recipes,
    };
    quantized.write(named, &paths, &reports)?;
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
        float: &Stages<Bytes>,
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
        let propose = detector.and_then(Detector::proposer);
        let stages = float.as_ref().try_map(|role, graph| {
            let first = match (role, &propose) {
                (Role::BoxHead, Some(propose)) => Some((&float.network()[..], Arc::clone(propose))),
                (Role::BoxHead, None) => {
                    bail!("cannot calibrate the stage {role}: the model is no two-stage detector")
                }
                (Role::Network, _) => None,
            };
            let subject = Subject {
                first,
                ..subject(graph)?
            };
            Ok(self.choose_one(&subject, &mut reports)?.recipe)
        })?;
        let recipes = Recipes {
            target: self.target,
            stages,
        };
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
        graphs: &Stages<Bytes>,
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

/// A quantized model, and the fp32 model that it was made from.
struct Quantized<'a> {
    source: &'a ModelSource,
    fp32: &'a Stages<Bytes>,
    int8: &'a Stages<Bytes>,
    recipes: &'a Recipes,
}

impl Quantized<'_> {
    /// Writes the model in both data types with `extra` files: all of them, or none.
    fn write(
        &self,
        mut manifest: ModelManifest,
        paths: &OutputPaths,
        extra: &[(PathBuf, &[u8])],
    ) -> Result<()> {
        let Self {
            source, fp32, int8, ..
        } = self;
        manifest.stages = stage_files(fp32.as_ref().map(|role, _| paths.stage(role)));
        manifest.labels = file_name(&paths.labels);
        manifest.weights = Vec::new();
        if source.path.as_ref() != Some(&paths.manifest) {
            // The files of other variants are not copied.
            let variants = &mut manifest.variants;
            variants.retain(|_, variant| variant.stages.is_empty() && variant.ranges.is_none());
        }
        let variant = Variant {
            precision: Some(Precision::Int8),
            stages: stage_files(int8.as_ref().map(|role, _| paths.int8_stage(role))),
            ranges: Some(file_name(&paths.ranges)),
            resize: None,
        };
        manifest.variants.insert(INT8.to_owned(), variant);
        let manifest = manifest.to_toml()?;
        let labels = source.labels.join("\n") + "\n";
        let recipes = self.recipes.to_json()?;
        let mut files: Vec<(PathBuf, &[u8])> = Vec::new();
        files.extend(fp32.iter().map(|s| (paths.stage(s.role), &s.content[..])));
        files.extend(
            int8.iter()
                .map(|s| (paths.int8_stage(s.role), &s.content[..])),
        );
        files.push((paths.ranges.clone(), recipes.as_bytes()));
        files.push((paths.labels.clone(), labels.as_bytes()));
        files.extend_from_slice(extra);
        files.push((paths.manifest.clone(), manifest.as_bytes()));
        write_all(&files)
    }
}
