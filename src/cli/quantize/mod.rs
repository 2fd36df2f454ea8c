//! `sightline quantize`: calibrates a model, searches for the recipe of its int8 variant, compares
//! the variant with the fp32 model, and writes it.

mod args;
mod gate;
mod measure;
mod photographs;
mod progress;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use onnx_export::quantize::{Network, Recipes};
use onnx_export::{Role, Stages};
use sightline::engine::{Arithmetic, Engine, FirstStage, OnnxRuntime};
use sightline::manifest::{ModelManifest, Precision, Variant};
use sightline::postprocess::detect::Detector;
use sightline::quantize::{Choice, Goal, HeldOut, NetworkReport, Subject, calibrate, search};
use sightline::registry::networks::Networks;
use sightline::store::{FP32, INT8, ModelSource, Origin, quantized};
use sightline::threads::usable_cores;

use super::output::{OutputPaths, file_name, stage_files, write_model, write_reports};
use super::say::say;
pub(super) use args::QuantizeArgs;
use photographs::Photographs;
use progress::Bars;

/// Maximum number of images on which the quantization noise of each layer is measured.
const NOISE_IMAGES: usize = 4;

/// Runs the command. Writes the model and the report if the int8 model's agreement, outputs and speed
/// are sufficient or `--force` is set. If they are not sufficient, writes only the report and returns
/// an error.
///
/// # Errors
/// If a flag has an invalid value, if the model cannot be quantized, if the agreement, the similarity of
/// the outputs or the speed of the int8 model is too low, if the outputs do not depend on the image, or if
/// a file cannot be written.
pub(super) fn run(args: &QuantizeArgs) -> Result<()> {
    let goal = args.goal()?;
    let source = args.store.store().find(&args.model)?;
    if source.variant != FP32 {
        let name = &source.manifest.name;
        bail!(
            "`{}` is a variant: quantize {name} itself, which then gets an int8 variant",
            args.model
        );
    }
    let paths = args.paths(&source)?;
    let named = args.named(&source, &paths)?;
    let photographs =
        Photographs::read(&args.calibration, args.images, &source.manifest.preprocess)?;
    let runtime = args.runtime.load()?;
    let float = source.graphs()?;
    let work = Work {
        runtime: &runtime,
        photographs: &photographs,
        goal,
        bars: Bars::new(),
    };
    let detector = Detector::of(&source.manifest)?;
    let (recipes, networks) = work.choose(&source, detector.as_ref(), &float)?;
    let int8 = quantized(&float, &recipes, goal.target)?;
    let graphs = Precisions {
        float: &float,
        int8: &int8,
    };
    let report = measure::report(&work, &source, detector.as_ref(), graphs, networks)?;
    let json = serde_json::to_string_pretty(&report)? + "\n";
    let text = report.to_string();
    // The result is checked later: a closed stdout must not prevent the files from being written.
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
        && let Some(advice) = gate::objection(&report, args.limits(source.manifest.task))
    {
        write_reports(&paths, &reports)?;
        bail!(
            "{advice}\nno int8 model was written, only the report: {}",
            text_path.display()
        );
    }
    let quantized = Quantized {
        source: &source,
        graphs,
        recipes: &recipes,
        is_default: args.is_default,
    };
    quantized.write(named, &paths, &reports)?;
    said?;
    say!("{}: report on accuracy and speed", text_path.display())?;
    say!(
        "try: sightline serve --model {0}@fp32 --model {0}@int8",
        paths.manifest.display()
    )
}

/// The contents of the model's fp32 and int8 ONNX files, one per stage.
#[derive(Clone, Copy)]
pub(super) struct Precisions<'a> {
    float: &'a Stages<Bytes>,
    int8: &'a Stages<Bytes>,
}

/// Data that calibration, search and comparison share.
pub(super) struct Work<'a> {
    runtime: &'a OnnxRuntime,
    photographs: &'a Photographs,
    goal: Goal,
    bars: Bars,
}

impl Work<'_> {
    /// Chooses a quantization recipe for each network of the model. Returns the recipes, and a
    /// report for each network.
    ///
    /// # Errors
    /// If a network cannot be quantized or run.
    fn choose(
        &self,
        source: &ModelSource,
        detector: Option<&Detector>,
        float: &Stages<Bytes>,
    ) -> Result<(Recipes, Vec<NetworkReport>)> {
        let mut reports = Vec::new();
        let propose = detector.and_then(Detector::proposer);
        let stages = float.as_ref().try_map(|role, graph| {
            let first = match (role, &propose) {
                (Role::BoxHead, Some(propose)) => Some(FirstStage {
                    network: &float.network()[..],
                    propose: Arc::clone(propose),
                }),
                (Role::BoxHead, None) => {
                    bail!(
                        "cannot calibrate the stage {role}: the model is not a two-stage detector"
                    )
                }
                (Role::Network, _) => None,
            };
            let subject = Subject {
                runtime: self.runtime.with_threads(usable_cores()),
                network: Network::read(graph).with_context(|| cannot_quantize(source, role))?,
                first,
            };
            Ok(self.choose_one(&subject, &mut reports)?.recipe)
        })?;
        let recipes = Recipes {
            target: self.goal.target,
            stages,
        };
        Ok((recipes, reports))
    }

    /// Calibrates one network, searches for its recipe, and returns the recipe. Adds a report on
    /// the network to `reports`.
    fn choose_one(
        &self,
        subject: &Subject<'_>,
        reports: &mut Vec<NetworkReport>,
    ) -> Result<Choice> {
        let photographs = self.photographs;
        let statistics = calibrate(subject, photographs.calibration(), &self.bars)?;
        let few = photographs.few();
        let choice = search(subject, &statistics, few, self.goal, &self.bars)?;
        let target = self.goal.target;
        let (compared, other) = (photographs.compared(), photographs.other());
        let held_out = HeldOut::measure(subject, &choice.recipe, target, compared, other)?;
        let noise = &few[..few.len().min(NOISE_IMAGES)];
        reports.push(NetworkReport::new(
            subject, &choice, target, noise, held_out,
        )?);
        self.bars.finish();
        Ok(choice)
    }

    /// Creates a single-threaded engine of the model `source` with the contents `graphs` of its
    /// fp32 or int8 ONNX files.
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
        Ok(Networks::prepare(&source, detector, &runtime)?.engine()?)
    }
}

/// Returns the beginning of an error about the stage `role` of a model, with the path of the stage's file.
fn cannot_quantize(source: &ModelSource, role: Role) -> String {
    let name = &source.manifest.name;
    let path = match &source.origin {
        Origin::Files { paths, .. } => paths.get(role),
        Origin::Embedded | Origin::Memory(_) => None,
    };
    match path {
        Some(path) => format!("cannot quantize {name}: {}", path.display()),
        None => format!("cannot quantize {name}"),
    }
}

/// A quantized model, and the fp32 model that was quantized.
struct Quantized<'a> {
    source: &'a ModelSource,
    graphs: Precisions<'a>,
    recipes: &'a Recipes,
    /// Whether int8 becomes the variant that the model's name selects.
    is_default: bool,
}

impl Quantized<'_> {
    /// Writes the fp32 and int8 ONNX files, the manifest, the labels, the ranges file, and the
    /// files `extra`. Writes either all of these files or none.
    fn write(
        &self,
        mut manifest: ModelManifest,
        paths: &OutputPaths,
        extra: &[(PathBuf, &[u8])],
    ) -> Result<()> {
        let source = self.source;
        if source.path.as_ref() == Some(&paths.manifest) {
            // The manifest and the labels that were read at the start are written back.
            source.check_unchanged()?;
        }
        let Precisions { float, int8 } = self.graphs;
        manifest.stages = stage_files(float.as_ref().map(|role, _| paths.stage(role)));
        manifest.labels = file_name(&paths.labels);
        manifest.weights = Vec::new();
        if source.path.as_ref() != Some(&paths.manifest) {
            // Variants with files of their own are removed from the manifest, because their files
            // are not copied to the new folder.
            let variants = &mut manifest.variants;
            variants.retain(|_, variant| variant.stages.is_empty() && variant.ranges.is_none());
        }
        let variant = Variant {
            precision: Some(Precision::Int8),
            stages: stage_files(int8.as_ref().map(|role, _| paths.int8_stage(role))),
            ranges: Some(file_name(&paths.ranges)),
            ..Variant::default()
        };
        manifest.variants.insert(INT8.to_owned(), variant);
        if self.is_default {
            manifest.default = Some(INT8.to_owned());
        }
        let exists = |name: &String| name == FP32 || manifest.variants.contains_key(name);
        // The default may be a variant that was removed above.
        manifest.default = manifest.default.take().filter(exists);
        let labels = source.labels.join("\n") + "\n";
        let recipes = self.recipes.to_json()?;
        let mut texts = extra.to_vec();
        texts.push((paths.ranges.clone(), recipes.as_bytes()));
        texts.push((paths.labels.clone(), labels.as_bytes()));
        let float = float.iter();
        let float = float.map(|s| (paths.stage(s.role), &s.content[..]));
        let int8 = int8.iter();
        let int8 = int8.map(|s| (paths.int8_stage(s.role), &s.content[..]));
        let graphs: Vec<(PathBuf, &[u8])> = float.chain(int8).collect();
        write_model(manifest, paths, &texts, &graphs)
    }
}
