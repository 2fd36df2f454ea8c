//! `sightline quantize`: calibrates a model, searches for the recipe of its int8 variant, compares
//! the variant with the fp32 model, and writes it.

mod args;
mod gate;
mod measure;
mod photographs;
mod progress;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use onnx_export::quantize::{Network, Recipes};
use onnx_export::{Role, Stages};
use sightline::engine::{Arithmetic, Engine, FirstStage, OnnxRuntime};
use sightline::manifest::{ManifestText, ModelManifest, Precision, Variant};
use sightline::postprocess::detect::Detector;
use sightline::quantize::{Choice, Goal, HeldOut, NetworkReport, Subject, calibrate, search};
use sightline::registry::check_activation;
use sightline::registry::networks::Networks;
use sightline::store::{FP32, INT8, ModelSource, Origin, quantized};
use sightline::threads::usable_cores;

use super::keep::Existing;
use super::output::{OutputPaths, file_name, stage_files, write_reports};
use super::progress::Spinner;
use super::publish::{expect, file_set, record_sha256, record_source, write_set};
use super::say::say;
pub(super) use args::QuantizeArgs;
use photographs::Photographs;
use progress::Bars;

/// Field of the manifest with the variant that the bare name selects.
const DEFAULT: &str = "default";
/// Fields of the manifest that change if a model is quantized in its own folder.
const IN_PLACE: [&[&str]; 3] = [&[DEFAULT], &["stages"], &["variants", INT8]];
/// Fields of the manifest that change if the quantized model is written over a model in another
/// folder, whose other fields and comments are kept.
const REPLACED: [&[&str]; 8] = [
    &["architecture"],
    &["code_license"],
    &["labels"],
    &["provenance"],
    &["stages"],
    &["task"],
    &["variants", INT8],
    &["weights"],
];
/// Fields of the manifest that change if the quantized model is written into another folder.
const COPIED: [&[&str]; 6] = [
    &[DEFAULT],
    &["labels"],
    &["name"],
    &["stages"],
    &["variants"],
    &["weights"],
];

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
    let replaced = replaced(args, &source, &paths)?;
    let photographs =
        Photographs::read(&args.calibration, args.images, &source.manifest.preprocess)?;
    let runtime = args.runtime.load()?;
    let spinner = Spinner::new(format!("loading {}", source.manifest.name));
    let float = source.graphs()?;
    let work = Work {
        runtime: &runtime,
        photographs: &photographs,
        goal,
        bars: Bars::new(&source.manifest.name),
    };
    let detector = Detector::of(&source.manifest)?;
    let engine = work.engine(&source, detector.as_ref(), &float, Arithmetic::Kernels);
    let mut engine = engine.with_context(|| cannot_quantize(&source, Role::Network))?;
    check_activation(&source.manifest, &mut *engine)?;
    drop(engine);
    drop(spinner);
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
    let said = say!("{}", if args.json { &json } else { &text }.trim_end());
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
        replaced: replaced.as_ref(),
        force: args.force,
    };
    let notes = quantized.write(named, &paths, &reports)?;
    said?;
    if args.json {
        return Ok(());
    }
    for note in notes {
        say!("{note}")?;
    }
    say!("{}: report on accuracy and speed", text_path.display())?;
    say!(
        "try: sightline serve --model {0}@fp32 --model {0}@int8",
        paths.manifest.display()
    )
}

/// Returns the model in the folder of `-o` that will be replaced. `None` if the model is quantized in
/// its own folder, if no model is there, or with `--force`.
///
/// # Errors
/// If the settings or labels of the model there differ from those of the model to quantize: the user
/// may have edited them.
fn replaced(
    args: &QuantizeArgs,
    source: &ModelSource,
    paths: &OutputPaths,
) -> Result<Option<Existing>> {
    if args.force || source.path.as_ref() == Some(&paths.manifest) {
        return Ok(None);
    }
    let existing = Existing::read(paths)?;
    if let Some(existing) = &existing {
        existing.check_copy(&source.manifest, &source.labels)?;
    }
    Ok(existing)
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
        self.bars.finish();
        let _spinner = Spinner::new("comparing the layers in int8 with fp32");
        let target = self.goal.target;
        let (compared, other) = (photographs.compared(), photographs.other());
        let held_out = HeldOut::measure(subject, &choice.recipe, target, compared, other)?;
        let noise = &few[..few.len().min(NOISE_IMAGES)];
        reports.push(NetworkReport::new(
            subject, &choice, target, noise, held_out,
        )?);
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
    /// The model in another folder that is replaced.
    replaced: Option<&'a Existing>,
    /// Whether a model in another folder is replaced whatever it is.
    force: bool,
}

impl Quantized<'_> {
    /// Writes the int8 ONNX files, the manifest, the ranges file and the files `extra`, and, into
    /// another folder than the model's, the fp32 ONNX files and the labels. Writes either all of these
    /// files or none. In the model's own folder, only the fields [`IN_PLACE`] of the manifest change.
    /// Returns messages about the variants that were kept of a model in another folder.
    fn write(
        &self,
        mut manifest: ModelManifest,
        paths: &OutputPaths,
        extra: &[(PathBuf, &[u8])],
    ) -> Result<Vec<String>> {
        let source = self.source;
        let in_place = source.path.as_ref() == Some(&paths.manifest);
        let Precisions { float, int8 } = self.graphs;
        self.complete(&mut manifest, paths, in_place);
        let labels = source.labels.join("\n") + "\n";
        let recipes = self.recipes.to_json()?;
        let mut texts = extra.to_vec();
        texts.push((paths.ranges.clone(), recipes.as_bytes()));
        let float = float.iter();
        let float: Vec<(PathBuf, &[u8])> = float
            .map(|s| (paths.stage(s.role), &s.content[..]))
            .collect();
        let int8 = int8.iter();
        let int8: Vec<(PathBuf, &[u8])> = int8
            .map(|s| (paths.int8_stage(s.role), &s.content[..]))
            .collect();
        record_sha256(&mut manifest, texts.iter().chain(&float).chain(&int8));
        record_source(&mut manifest, INT8);
        let mut graphs = int8;
        if !in_place {
            texts.push((paths.labels.clone(), labels.as_bytes()));
            graphs.splice(0..0, float);
        }
        let (text, notes) = self.text(&manifest, in_place)?;
        let mut files = file_set(&text, paths, &texts, &graphs);
        match &source.manifest_text {
            Some(text) if in_place => files.expect(&paths.manifest, Some(text.as_bytes())),
            _ if self.force => {}
            _ => expect(&mut files, paths, self.replaced),
        }
        write_set(&files, paths)?;
        Ok(notes)
    }

    /// Sets the files, the variants and the other fields in `manifest` that belong to the quantized
    /// model at `paths`.
    fn complete(&self, manifest: &mut ModelManifest, paths: &OutputPaths, in_place: bool) {
        let Precisions { float, int8 } = self.graphs;
        let earlier = self.replaced.map_or(&*manifest, |there| &there.manifest);
        let earlier = earlier.variants.get(INT8);
        let resize = earlier.and_then(|variant| variant.resize.clone());
        manifest.stages = stage_files(float.as_ref().map(|role, _| paths.stage(role)));
        if !in_place {
            manifest.labels = file_name(&paths.labels);
            manifest.weights = Vec::new();
            // Variants with files of their own are removed from the manifest, because their files
            // are not copied to the new folder.
            let variants = &mut manifest.variants;
            variants.retain(|_, variant| variant.stages.is_empty() && variant.ranges.is_none());
        }
        let variant = Variant {
            resize,
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
    }

    /// Returns the text of the quantized model's `manifest`: that of the model that it replaces, or of
    /// the fp32 model, with the fields changed that differ. Also returns messages about the variants
    /// that are kept of the replaced model.
    ///
    /// # Errors
    /// If the text cannot be loaded as a manifest.
    fn text(&self, manifest: &ModelManifest, in_place: bool) -> Result<(String, Vec<String>)> {
        let (text, notes) = match (self.replaced, &self.source.manifest_text) {
            (Some(replaced), _) => self.text_over(replaced, manifest)?,
            (None, None) => (manifest.to_toml()?, Vec::new()),
            (None, Some(text)) => {
                let new = ManifestText::parse(&manifest.to_toml()?)?;
                let paths: &[&[&str]] = if in_place { &IN_PLACE } else { &COPIED };
                (copied(ManifestText::parse(text)?, paths, &new), Vec::new())
            }
        };
        ModelManifest::parse(&text)
            .context("cannot write the manifest of the quantized model: correct that of the model, or use --force")?;
        Ok((text, notes))
    }

    /// Returns the text of the manifest of `replaced` with the fields changed that describe the
    /// quantized model, and messages about its other variants.
    fn text_over(
        &self,
        replaced: &Existing,
        manifest: &ModelManifest,
    ) -> Result<(String, Vec<String>)> {
        let mut manifest = manifest.clone();
        let notes = replaced.judge_variants(&mut manifest, &BTreeSet::from([INT8]));
        let judged = replaced.manifest.variants.iter();
        let judged = judged.filter(|(name, variant)| *name != INT8 && !variant.stages.is_empty());
        let judged: Vec<[&str; 3]> = judged
            .map(|(name, _)| ["variants", name.as_str(), "source_sha256"])
            .collect();
        let mut paths = REPLACED.to_vec();
        paths.extend(judged.iter().map(|path| &path[..]));
        if self.is_default {
            paths.push(&[DEFAULT]);
        }
        let new = ManifestText::parse(&manifest.to_toml()?)?;
        Ok((copied(replaced.text.clone(), &paths, &new), notes))
    }
}

/// Returns `text` with the fields `paths` of `new`.
fn copied(mut text: ManifestText, paths: &[&[&str]], new: &ManifestText) -> String {
    for path in paths {
        text.copy(path, new);
    }
    text.to_string()
}
