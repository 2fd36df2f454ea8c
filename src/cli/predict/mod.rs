//! `sightline predict`: runs a model on image files, without a server.

mod bulk;
mod format;
mod inputs;
mod result;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use clap::Args;
use futures_util::stream::{self, StreamExt as _};
use sightline::admission::{Admission, Deadline};
use sightline::app::{App, Limits};
use sightline::draw::{Drawing, DrawnFormat};
use sightline::engine::OnnxRuntime;
use sightline::image::{DecodeMode, DecodeOptions, Orientation};
use sightline::manifest::Task;
use sightline::pipeline::{
    self, Classify, Detect, MaskSize, Postprocess, Request, Segment, decode_fast, encoded_images,
};
use sightline::postprocess::detect::DetectOptions;
use sightline::postprocess::segment::{EncodedMask, MaskEncoding};
use sightline::registry::{LoadedModel, ModelPlan};
use sightline::store::{ModelRef, ModelSource, read_bounded};
use sightline::threads::usable_cores;

use super::say::complain;
use super::staging::write_file;
use super::style::StyleArgs;
use super::{CacheArgs, LoadArgs, PrecisionArgs, RuntimeArgs, StoreArgs, trial};
use format::Format;
use inputs::{Image, images};
use result::Printed;

/// Number of images in the pipeline per core: one is decoded, one is in the network, and others wait, so
/// that no stage runs dry.
const IMAGES_PER_CORE: usize = 4;
/// Time in which one image must be decoded and run. It only ends what would never end.
const IMAGE_TIMEOUT: Duration = Duration::from_mins(10);

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
    /// Image files, and folders whose images are used, also those in subfolders
    #[arg(required_unless_present = "files_from", value_name = "IMAGE|DIR")]
    images: Vec<PathBuf>,
    /// File with more paths of images, one per line or each with a zero byte behind it (`find -print0`); `-` for standard
    /// input
    #[arg(long, env = "SIGHTLINE_FILES_FROM", value_name = "FILE")]
    files_from: Option<PathBuf>,
    /// Write the results into this file instead of printing them. The same command continues an interrupted run, whose
    /// results are in FILE.partial
    #[arg(long, env = "SIGHTLINE_OUTPUT", value_name = "FILE")]
    output: Option<PathBuf>,
    /// Format of `--output`: JSON Lines, CSV with one line per class or box, or COCO's results of detectors [default: by
    /// the extension: .jsonl, .csv or .json]
    #[arg(
        long,
        env = "SIGHTLINE_FORMAT",
        value_name = "jsonl|csv|coco",
        hide_possible_values = true,
        requires = "output"
    )]
    format: Option<Format>,
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
    /// names. Images of folders keep their subfolders
    #[arg(long, env = "SIGHTLINE_ANNOTATE", value_name = "DIR")]
    annotate: Option<PathBuf>,
    #[command(flatten)]
    style: StyleArgs,
    /// Folder for masks as PNG files with a palette, whose values are the classes (segmentation); replaces files of the
    /// same names
    #[arg(
        long,
        env = "SIGHTLINE_MASKS",
        value_name = "DIR",
        conflicts_with = "annotate"
    )]
    masks: Option<PathBuf>,
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

/// Prints the result for each image, or writes it into `--output`. If an image fails, prints or writes its error and
/// continues; returns an error after the last image.
pub(super) fn run(args: &PredictArgs) -> Result<()> {
    if !(0.0..=1.0).contains(&args.score_threshold) {
        let got = args.score_threshold;
        bail!("`--score-threshold`: expected 0 to 1, got {got}");
    }
    if args.top_k == 0 {
        bail!("`--top-k`: expected at least 1, got 0");
    }
    let source = args
        .store
        .find(args.model.first(), args.precision.precision)?;
    check_task(args, &source)?;
    let output = args.output.as_deref();
    let output = output.map(|path| bulk::Output::new(path, args.format, source.manifest.task));
    let output = output.transpose()?;
    let images = images(args)?;
    if let Some(output) = &output {
        output.check(&images)?;
    }
    let runtime = args.runtime.load()?;
    let errors = match &output {
        Some(output) if output.has_errors() => format!("in {}", output.path().display()),
        _ => "above".to_owned(),
    };
    let failed = match output {
        Some(output) => {
            let opened = output.open((&source, &runtime), args, &images)?;
            let predictor = Predictor::load(args, source, &runtime, images.len())?;
            opened.run(&predictor, &images)?
        }
        None => Predictor::load(args, source, &runtime, images.len())?.print(&images)?,
    };
    match failed {
        0 => Ok(()),
        failed => bail!(
            "{failed} of {} images failed: see the errors {errors}",
            images.len()
        ),
    }
}

/// Checks that the flags apply to the task of the model.
fn check_task(args: &PredictArgs, source: &ModelSource) -> Result<()> {
    let (name, task) = (&source.manifest.name, source.manifest.task);
    if args.annotate.is_some() && task == Task::Classification {
        bail!("`--annotate` draws boxes and masks, but {name} is a classification model");
    }
    if args.masks.is_some() && task != Task::Segmentation {
        bail!(
            "`--masks` writes masks, but {name} is a {} model",
            task.as_str()
        );
    }
    Ok(())
}

/// A loaded model that is run on images.
struct Predictor<'a> {
    args: &'a PredictArgs,
    app: App,
    model: Arc<LoadedModel>,
}

impl<'a> Predictor<'a> {
    /// Loads the model `source` for `count` images.
    fn load(
        args: &'a PredictArgs,
        mut source: ModelSource,
        runtime: &OnnxRuntime,
        count: usize,
    ) -> Result<Self> {
        let cores = usable_cores();
        if count <= cores {
            // A single session with all cores has the shortest time for one image.
            source.manifest.batching.instances = Some(1);
        }
        let plan = ModelPlan {
            decode: args.decode,
            ..ModelPlan::new(&source.manifest, cores, None)
        };
        let limits = Limits {
            request_timeout: IMAGE_TIMEOUT,
            ..Limits::default()
        };
        let app = App::new(limits, cores);
        let loading = trial::Loading {
            runtime,
            limits: args.load.limits()?,
            free: None,
            metrics: &app.metrics,
            cache: &args.cache.cache(),
            caches_later: false,
        };
        let model = Arc::new(loading.load(source, plan)?);
        model.batcher.use_all_tensor_memory();
        Ok(Self { args, app, model })
    }

    /// Returns the number of images that are in the pipeline at a time.
    fn at_a_time(&self) -> usize {
        let most = usable_cores() * IMAGES_PER_CORE;
        most.min(self.model.plan.max_queue_size).max(1)
    }

    /// Prints the results in the order of the images, and returns the number of images that failed.
    fn print(&self, images: &[Image]) -> Result<usize> {
        let mut failed = 0;
        runtime()?.block_on(async {
            let results =
                stream::iter(images).map(|image| async move { (image, self.predict(image).await) });
            let mut results = std::pin::pin!(results.buffered(self.at_a_time()));
            while let Some((image, result)) = results.next().await {
                match result {
                    Ok(result) => result.print(&self.model, &image.path, self.args.json)?,
                    Err(error) => {
                        let (why, path) = (why(&error), image.path.display().to_string());
                        // An error of reading the file names it already.
                        if why.contains(&path) {
                            complain!("error: {why}");
                        } else {
                            complain!("error: {path}: {why}");
                        }
                        failed += 1;
                    }
                }
            }
            Ok(failed)
        })
    }

    /// Runs the model on `image`. Writes the image with its boxes or mask drawn in, or the mask, if flags say so.
    async fn predict(&self, image: &Image) -> Result<Printed<'_>> {
        let (args, model) = (self.args, &self.model);
        let at = |folder: &Option<PathBuf>| folder.as_deref().map(|folder| image.drawn_in(folder));
        let (annotated, mask) = (at(&args.annotate), at(&args.masks));
        let drawn = annotated.as_ref().map(|_| Drawing {
            format: DrawnFormat::Png,
            style: args.style.style(),
        });
        Ok(match model.manifest.task {
            Task::Classification => {
                let top_k = args.top_k;
                let predictions = self.run_one(&image.path, Classify { top_k }).await?;
                Printed::Classes { predictions }
            }
            Task::Segmentation => {
                let encoding = match (drawn, &mask) {
                    (Some(format), _) => MaskEncoding::Drawn(format),
                    (None, Some(_)) => MaskEncoding::Png,
                    (None, None) => MaskEncoding::None,
                };
                let size = MaskSize::Input;
                let segment = Segment { size, encoding };
                let result = self.run_one(&image.path, segment).await?;
                let file = result.mask.and_then(EncodedMask::into_file);
                if let (Some(path), Some(bytes)) = (annotated.as_ref().or(mask.as_ref()), file) {
                    write(path, bytes).await?;
                }
                Printed::Mask {
                    width: result.image.width,
                    height: result.image.height,
                    classes: result.classes,
                    annotated,
                    mask,
                }
            }
            Task::Detection => {
                let options = DetectOptions {
                    score_threshold: args.score_threshold,
                    ..DetectOptions::default()
                };
                let detect = Detect { options, drawn };
                let result = self.run_one(&image.path, detect).await?;
                if let (Some(path), Some(bytes)) = (&annotated, result.drawn) {
                    write(path, bytes).await?;
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
    async fn run_one<P: Postprocess>(&self, path: &Path, postprocess: P) -> Result<P::Output> {
        let limits = &self.app.limits;
        let (path, most) = (path.to_path_buf(), limits.max_body_bytes as u64);
        let bytes = tokio::task::spawn_blocking(move || read_bounded(&path, most)).await??;
        let options = DecodeOptions {
            max_pixels: limits.max_pixels,
            orientation: Orientation::Apply,
        };
        let mut inputs = encoded_images(vec![Bytes::from(bytes)], options)?;
        if self.model.plan.decode == DecodeMode::Fast {
            decode_fast(&mut inputs, &self.model.preprocessor);
        }
        let request = Request {
            inputs,
            postprocess,
        };
        let deadline = Deadline::after(limits.request_timeout);
        let admission = Admission::new(&self.app, Arc::clone(&self.model), deadline)?;
        let response = pipeline::run(&self.app, admission, request).await?;
        response
            .results
            .into_iter()
            .next()
            .context("the pipeline returned no result for the image")
    }
}

/// Returns the runtime that waits for the threads of the pipeline.
fn runtime() -> Result<tokio::runtime::Runtime> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    Ok(runtime?)
}

/// Returns the text of the error of an image. Its request has one image, whose index is left out because the file is
/// named.
fn why(error: &anyhow::Error) -> String {
    let why = super::explain(error);
    why.trim_start_matches("image 0: ").to_owned()
}

/// Writes a drawing or a mask, and the folder that it is in. Several are written at a time: each waits for the disk.
async fn write(path: &Path, content: Vec<u8>) -> Result<()> {
    let path = path.to_path_buf();
    let write = move || {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)
                .with_context(|| format!("cannot create the folder {}", folder.display()))?;
        }
        write_file(&path, &content)
    };
    tokio::task::spawn_blocking(write).await?
}

/// Returns whether `one` and `other` are paths of the same existing file.
pub(super) fn same_file(one: &Path, other: &Path) -> bool {
    matches!((one.canonicalize(), other.canonicalize()), (Ok(one), Ok(other)) if one == other)
}
