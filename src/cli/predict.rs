//! `sightline predict`: runs a model on image files, without a server.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use clap::Args;
use onnx_export::text::{printable, shown};
use serde::Serialize;
use serde_json::json;
use sightline::admission::{Admission, Deadline};
use sightline::app::{App, Limits};
use sightline::draw::{Drawing, DrawnFormat};
use sightline::image::{DecodeMode, DecodeOptions, Orientation};
use sightline::manifest::Task;
use sightline::pipeline::{
    self, Classify, Detect, MaskSize, Postprocess, Request, Segment, decode_fast, encoded_images,
};
use sightline::postprocess::classify::Prediction;
use sightline::postprocess::detect::{BoxXyxy, DetectOptions, LabeledDetection};
use sightline::postprocess::segment::{ClassShare, EncodedMask, MaskEncoding};
use sightline::registry::{LoadedModel, ModelPlan};
use sightline::store::{ModelRef, read_bounded};
use sightline::threads::usable_cores;

use super::say::{complain, say};
use super::staging::{self, write_file};
use super::style::StyleArgs;
use super::{CacheArgs, LoadArgs, PrecisionArgs, RuntimeArgs, StoreArgs, trial};

#[derive(Debug, Args)]
pub(super) struct PredictArgs {
    /// Model, as NAME, NAME@VARIANT or a path; the first one of a list, such as `serve` accepts
    /// [default: the only model of the models directory, or the built-in model without one]
    #[arg(
        long,
        env = "SIGHTLINE_MODEL",
        value_name = "NAME[@VARIANT]",
        value_delimiter = ','
    )]
    model: Vec<ModelRef>,
    /// Image files
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,
    /// Number of classes to print, the most probable first (classification)
    #[arg(long, env = "SIGHTLINE_TOP_K", default_value_t = 5, value_name = "N")]
    top_k: usize,
    /// Print one JSON object per image, with the model and its variant
    #[arg(long, env = "SIGHTLINE_JSON")]
    json: bool,
    /// Minimum score of a box to be printed, 0 to 1 (detection)
    #[arg(
        long,
        env = "SIGHTLINE_SCORE_THRESHOLD",
        default_value_t = 0.5,
        value_name = "SCORE"
    )]
    score_threshold: f32,
    /// Folder for PNG copies of the images with boxes or masks drawn in; replaces files of the same
    /// names
    #[arg(long, env = "SIGHTLINE_ANNOTATE", value_name = "DIR")]
    annotate: Option<PathBuf>,
    #[command(flatten)]
    style: StyleArgs,
    /// Decode images exactly or, with `fast`, JPEGs at the scale that the network needs
    #[arg(
        long,
        env = "SIGHTLINE_DECODE",
        default_value = "exact",
        value_name = "exact|fast",
        hide_possible_values = true
    )]
    decode: DecodeMode,
    #[command(flatten)]
    precision: PrecisionArgs,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    runtime: RuntimeArgs,
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    cache: CacheArgs,
}

/// Prints the result for each image. If an image fails, prints its error and continues; returns an
/// error after the last image.
pub(super) fn run(args: &PredictArgs) -> Result<()> {
    if !(0.0..=1.0).contains(&args.score_threshold) {
        let got = args.score_threshold;
        bail!("`--score-threshold`: expected 0 to 1, got {got}");
    }
    if args.top_k == 0 {
        bail!("`--top-k`: expected at least 1, got 0");
    }
    let mut source = args
        .store
        .find(args.model.first(), args.precision.precision)?;
    if args.annotate.is_some() && source.manifest.task == Task::Classification {
        bail!(
            "`--annotate` draws boxes and masks, but {} is a classification model",
            source.manifest.name
        );
    }
    let limits = args.load.limits()?;
    reject_overwriting(args)?;
    let runtime = args.runtime.load()?;
    // Images are processed one after another, so a single session with all cores is fastest.
    source.manifest.batching.instances = Some(1);
    let plan = ModelPlan {
        decode: args.decode,
        ..ModelPlan::new(&source.manifest, usable_cores(), None)
    };
    let app = App::new(Limits::default(), 1);
    let loading = trial::Loading {
        runtime: &runtime,
        limits,
        free: None,
        metrics: &app.metrics,
        cache: &args.cache.cache(),
        caches_later: false,
    };
    let model = loading.load(source, plan)?;
    let model = Arc::new(model);
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut failed = 0;
    for path in &args.images {
        match tokio.block_on(predict(&app, &model, path, args)) {
            Ok(result) => result.print(&model, path, args.json)?,
            Err(error) => {
                let why = super::explain(&error);
                // The request has one image. Its index is removed, because the file name is
                // printed.
                let why = why.trim_start_matches("image 0: ");
                complain!("error: {}: {why}", path.display());
                failed += 1;
            }
        }
    }
    match failed {
        0 => Ok(()),
        failed => bail!(
            "{failed} of {} images failed: see the errors above",
            args.images.len()
        ),
    }
}

/// Checks that the drawings of `--annotate` will not overwrite an input image or each other, and
/// creates their folder. Does nothing if `--annotate` is not set.
///
/// # Errors
/// If two images would be drawn to the same file, if a drawing would replace an input image, or if
/// the folder cannot be created.
fn reject_overwriting(args: &PredictArgs) -> Result<()> {
    let Some(folder) = &args.annotate else {
        return Ok(());
    };
    let mut seen = BTreeSet::new();
    for path in args.images.iter().map(|image| drawn_path(folder, image)) {
        if !seen.insert(path.clone()) {
            bail!(
                "two images would both be drawn to {}: rename one of them",
                path.display()
            );
        }
        let is_input = |image: &PathBuf| same_file(image, &path);
        if args.images.iter().any(is_input) {
            bail!(
                "{} would be replaced by a drawing: choose another folder for `--annotate`",
                path.display()
            );
        }
    }
    std::fs::create_dir_all(folder)
        .with_context(|| format!("cannot create the folder {}", folder.display()))?;
    staging::clean(folder);
    Ok(())
}

/// Returns whether `one` and `other` are paths of the same existing file.
pub(super) fn same_file(one: &Path, other: &Path) -> bool {
    matches!((one.canonicalize(), other.canonicalize()), (Ok(one), Ok(other)) if one == other)
}

/// Returns the path of the drawing of `image`: a file in `folder` with the name of the image and
/// the extension `png`.
fn drawn_path(folder: &Path, image: &Path) -> PathBuf {
    let stem = image.file_stem().unwrap_or(image.as_os_str());
    folder.join(stem).with_added_extension("png")
}

/// The printed result for one image.
#[derive(Serialize)]
#[serde(untagged)]
enum Printed<'a> {
    Classes {
        predictions: Vec<Prediction>,
    },
    Boxes {
        width: u32,
        height: u32,
        detections: Vec<LabeledDetection<'a>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        annotated: Option<PathBuf>,
    },
    Mask {
        width: u32,
        height: u32,
        classes: Vec<ClassShare>,
        #[serde(skip_serializing_if = "Option::is_none")]
        annotated: Option<PathBuf>,
    },
}

/// Runs the model on the image file `path`. Writes the image with its boxes or mask drawn in if
/// `--annotate` is set.
async fn predict<'a>(
    app: &App,
    model: &'a Arc<LoadedModel>,
    path: &Path,
    args: &PredictArgs,
) -> Result<Printed<'a>> {
    let annotated = args.annotate.as_deref();
    let annotated = annotated.map(|folder| drawn_path(folder, path));
    let drawn = annotated.as_ref().map(|_| Drawing {
        format: DrawnFormat::Png,
        style: args.style.style(),
    });
    Ok(match model.manifest.task {
        Task::Classification => {
            let top_k = args.top_k;
            let predictions = run_one(app, model, path, Classify { top_k }).await?;
            Printed::Classes { predictions }
        }
        Task::Segmentation => {
            let encoding = drawn.map_or(MaskEncoding::None, MaskEncoding::Drawn);
            let size = MaskSize::Input;
            let result = run_one(app, model, path, Segment { size, encoding }).await?;
            let file = result.mask.and_then(EncodedMask::into_file);
            if let (Some(path), Some(bytes)) = (&annotated, &file) {
                write_file(path, bytes)?;
            }
            Printed::Mask {
                width: result.image.width,
                height: result.image.height,
                classes: result.classes,
                annotated,
            }
        }
        Task::Detection => {
            let options = DetectOptions {
                score_threshold: args.score_threshold,
                ..DetectOptions::default()
            };
            let result = run_one(app, model, path, Detect { options, drawn }).await?;
            if let (Some(path), Some(bytes)) = (&annotated, &result.drawn) {
                write_file(path, bytes)?;
            }
            let detections = result.detections.iter();
            Printed::Boxes {
                width: result.image.width,
                height: result.image.height,
                detections: detections.map(|d| d.labeled(&model.labels)).collect(),
                annotated,
            }
        }
    })
}

/// Runs the model on the image file `path`, and returns the result of `postprocess`.
async fn run_one<P: Postprocess>(
    app: &App,
    model: &Arc<LoadedModel>,
    path: &Path,
    postprocess: P,
) -> Result<P::Output> {
    let bytes = read_bounded(path, app.limits.max_body_bytes as u64)?;
    let options = DecodeOptions {
        max_pixels: app.limits.max_pixels,
        orientation: Orientation::Apply,
    };
    let mut inputs = encoded_images(vec![Bytes::from(bytes)], options)?;
    if model.plan.decode == DecodeMode::Fast {
        decode_fast(&mut inputs, &model.preprocessor);
    }
    let request = Request {
        inputs,
        postprocess,
    };
    let deadline = Deadline::after(app.limits.request_timeout);
    let admission = Admission::new(app, Arc::clone(model), deadline)?;
    let response = pipeline::run(app, admission, request).await?;
    response
        .results
        .into_iter()
        .next()
        .context("the pipeline returned no result for the image")
}

impl Printed<'_> {
    fn print(&self, model: &LoadedModel, path: &Path, as_json: bool) -> Result<()> {
        if as_json {
            let mut line = json!(self);
            line["model"] = model.manifest.name.as_str().into();
            line["variant"] = model.variant.as_str().into();
            line["image"] = path.display().to_string().into();
            return say!("{line}");
        }
        say!("{}", on_one_line(path))?;
        let line = |part: f32, label: &str, class_id: usize| {
            say!("  {:5.1} %  {} ({class_id})", part * 100.0, shown(label))
        };
        match self {
            Self::Classes { predictions } => {
                for Prediction {
                    class_id,
                    label,
                    score,
                } in predictions
                {
                    line(*score, label, *class_id)?;
                }
            }
            Self::Boxes {
                detections,
                annotated,
                ..
            } => {
                for object in detections {
                    let BoxXyxy { x1, y1, x2, y2 } = object.r#box;
                    let (score, label) = (object.score * 100.0, shown(object.label));
                    say!("  {score:5.1} %  {label} at {x1:.0}, {y1:.0} to {x2:.0}, {y2:.0}")?;
                }
                drawn_into(annotated.as_deref())?;
            }
            Self::Mask {
                classes, annotated, ..
            } => {
                let mut largest_first: Vec<&ClassShare> = classes.iter().collect();
                largest_first.sort_by_key(|share| std::cmp::Reverse(share.pixels));
                for share in largest_first {
                    line(share.fraction, &share.label, share.class_id)?;
                }
                drawn_into(annotated.as_deref())?;
            }
        }
        Ok(())
    }
}

/// Returns `path` for a line of the output. A file may have a line break in its name.
fn on_one_line(path: &Path) -> String {
    printable(&path.to_string_lossy(), &[]).into_owned()
}

fn drawn_into(path: Option<&Path>) -> Result<()> {
    match path {
        Some(path) => say!("  drawn to {}", on_one_line(path)),
        None => Ok(()),
    }
}
