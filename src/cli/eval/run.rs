//! Runs a model on the images of a data set, on all cores, through the pipeline of the server.

use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use futures_util::stream::{self, StreamExt as _};
use serde::{Deserialize, Serialize};
use sightline::app::{App, Limits};
use sightline::cpu::vector_features;
use sightline::engine::OnnxRuntime;
use sightline::image::DecodeMode;
use sightline::manifest::sha256;
use sightline::registry::{LoadedModel, ModelPlan};
use sightline::store::ModelSource;
use sightline::threads::usable_cores;

use super::args::{EvalArgs, MaskSizeName};
use super::dataset::Dataset;
use super::figures::{Figure, figures};
use super::record::{Record, Subject};
use crate::cli::journal::{Journal, Run};
use crate::cli::progress::{Spinner, Steps};
use crate::cli::say::complain;
use crate::cli::trial;

/// Number of images in the pipeline per core: one is decoded, one is in the network, and others wait, so
/// that no stage runs dry.
const IMAGES_PER_CORE: usize = 4;
/// Time in which one image must be decoded and run. It only ends what would never end.
const IMAGE_TIMEOUT: Duration = Duration::from_mins(10);
/// Maximum number of times that the running figures are computed.
const UPDATES: usize = 50;
/// Minimum time between two computations of the running figures, which take a third of a second for 5,000 images of
/// COCO.
const UPDATE_INTERVAL: Duration = Duration::from_secs(3);

/// How messages about files of results describe an evaluation.
const RUN: Run = Run {
    what: "evaluation",
    advice: "choose another folder with -o",
};

/// What the results depend on. Results are continued only if it is equal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Identity {
    version: String,
    model: String,
    weights_sha256: Vec<String>,
    /// SHA-256 of the manifest's settings, which results depend on, too.
    settings_sha256: String,
    annotations_sha256: String,
    decode: String,
    mask_size: String,
    /// Version, size and arithmetic of ONNX Runtime's library.
    runtime: String,
    /// Instruction sets for vectors that the CPU has, by which kernels are chosen. Empty if they are unknown.
    cpu: String,
}

/// The results of one model on a data set.
pub(super) struct Evaluated {
    pub(super) source: ModelSource,
    pub(super) decode: DecodeMode,
    pub(super) weights_sha256: Vec<String>,
    /// One result per image, in the order of the images.
    pub(super) records: Vec<Record>,
    /// The file with the results. `None` without `--out`.
    journal: Option<Journal>,
    app: App,
    model: Arc<LoadedModel>,
}

impl Evaluated {
    /// Returns the model's name and variant, and its decoding unless that is exact.
    pub(super) fn name(&self) -> String {
        title(&self.source, self.decode)
    }

    /// Returns the SHA-256 of the names, images and annotations.
    pub(super) fn dataset_sha256(&self) -> String {
        let digests = self.records.iter().map(|record| record.digest.as_str());
        sha256(digests.collect::<Vec<_>>().join("\n").as_bytes())
    }

    /// Deletes the results that an interrupted run would continue from.
    pub(super) fn finish(&mut self) {
        if let Some(journal) = self.journal.take() {
            journal.delete();
        }
    }

    /// Returns the limits on each image.
    pub(super) fn limits(&self) -> &Limits {
        &self.app.limits
    }

    /// Returns the loaded model, for drawings of single images.
    pub(super) fn subject<'a>(
        &'a self,
        dataset: &'a Dataset,
        mask_size: MaskSizeName,
    ) -> Subject<'a> {
        Subject {
            app: &self.app,
            model: &self.model,
            dataset,
            mask_size,
        }
    }
}

/// Returns the model's name and variant, and its decoding unless that is exact.
fn title(source: &ModelSource, decode: DecodeMode) -> String {
    let fast = if decode == DecodeMode::Fast {
        ", decode=fast"
    } else {
        ""
    };
    format!("{}@{}{fast}", source.manifest.name, source.variant)
}

pub(super) fn decode_name(decode: DecodeMode) -> &'static str {
    match decode {
        DecodeMode::Exact => "exact",
        DecodeMode::Fast => "fast",
    }
}

/// Loads the model `source` and runs it on all images of `dataset`. Continues an interrupted run if `args`
/// name a folder. `number` distinguishes the models of a comparison.
///
/// # Errors
/// If the model cannot be loaded, if an image cannot be evaluated, or if the folder's results belong to
/// another evaluation.
pub(super) fn evaluate(
    (source, decode): (ModelSource, DecodeMode),
    dataset: &Dataset,
    (args, runtime): (&EvalArgs, &OnnxRuntime),
    number: usize,
) -> Result<Evaluated> {
    let weights_sha256 = super::certify::weights_sha256(&source)?;
    let identity = identity((&source, decode), dataset, (args, runtime), &weights_sha256);
    let mut records = Vec::new();
    let opened = args.out.as_ref().map(|folder| {
        let path = folder.join(format!("eval-{number}.partial.jsonl"));
        Journal::open(path, &identity, RUN, |record: Record, _| {
            records.push(record.restored());
        })
    });
    let journal = opened.transpose()?;
    let plan = ModelPlan {
        decode,
        ..ModelPlan::new(&source.manifest, usable_cores(), None)
    };
    let limits = Limits {
        request_timeout: IMAGE_TIMEOUT,
        ..Limits::default()
    };
    let app = App::new(limits, usable_cores());
    let loading = trial::Loading {
        runtime,
        limits: args.load.limits()?,
        free: None,
        metrics: &app.metrics,
        cache: &args.cache.cache(),
        caches_later: false,
    };
    let spinner = Spinner::new(format!("loading {}", source.manifest.name));
    let model = loading.load(source.clone(), plan)?;
    model.batcher.use_all_tensor_memory();
    drop(spinner);
    let mut evaluated = Evaluated {
        source,
        decode,
        weights_sha256,
        records,
        journal,
        app,
        model: Arc::new(model),
    };
    evaluated.complete(dataset, args.mask_size)?;
    Ok(evaluated)
}

/// Returns what the results depend on.
fn identity(
    (source, decode): (&ModelSource, DecodeMode),
    dataset: &Dataset,
    (args, runtime): (&EvalArgs, &OnnxRuntime),
    weights_sha256: &[String],
) -> Identity {
    let manifest = &source.manifest;
    let settings = format!("{:?} {:?}", manifest.preprocess, manifest.detection);
    Identity {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        model: source.id(),
        weights_sha256: weights_sha256.to_vec(),
        settings_sha256: sha256(settings.as_bytes()),
        annotations_sha256: dataset.annotations_sha256(),
        decode: decode_name(decode).to_owned(),
        mask_size: args.mask_size.as_str().to_owned(),
        runtime: runtime.identity(),
        cpu: vector_features().unwrap_or_default(),
    }
}

impl Evaluated {
    /// Runs the model on the images that have no result yet, or whose files have changed since.
    fn complete(&mut self, dataset: &Dataset, mask_size: MaskSizeName) -> Result<()> {
        let count = dataset.samples.len();
        let mut is_done = vec![false; count];
        let classes = self.source.labels.len();
        let max_bytes = self.app.limits.max_body_bytes as u64;
        self.records.retain(|record| {
            let is_current =
                record.fits(dataset, classes) && record.is_of_files(dataset, max_bytes);
            let done = is_done.get_mut(record.image).filter(|_| is_current);
            done.is_some_and(|done| !mem::replace(done, true))
        });
        if !self.records.is_empty() {
            complain!(
                "continuing: {} of {count} images are done",
                self.records.len()
            );
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let steps = Steps::new(self.name(), count, self.records.len());
        let mut journal = self.journal.take();
        let run = self.run((dataset, mask_size), &is_done, &steps, &mut journal);
        let done = runtime.block_on(run);
        self.journal = journal;
        drop(steps);
        let records = done?;
        self.records.extend(records);
        self.records.sort_by_key(|record| record.image);
        Ok(())
    }

    /// Returns the results of the images that are not done.
    async fn run(
        &self,
        (dataset, mask_size): (&Dataset, MaskSizeName),
        is_done: &[bool],
        steps: &Steps,
        journal: &mut Option<Journal>,
    ) -> Result<Vec<Record>> {
        let subject = self.subject(dataset, mask_size);
        let subject = &subject;
        let missing = (0..is_done.len()).filter(|index| !is_done[*index]);
        let most = (usable_cores() * IMAGES_PER_CORE).min(self.model.plan.max_queue_size);
        let mut results = stream::iter(missing)
            .map(|index| subject.record(index))
            .buffer_unordered(most.max(1));
        let mut records = Vec::new();
        let interval = (is_done.len() / UPDATES).max(1);
        let mut updated = Instant::now();
        while let Some(record) = results.next().await {
            let record = record?;
            if let Some(journal) = journal {
                journal.add(&record)?;
            }
            records.push(record);
            steps.step();
            if records.len().is_multiple_of(interval) && updated.elapsed() >= UPDATE_INTERVAL {
                updated = Instant::now();
                steps.note(running(&figures(dataset, &records, &self.source.labels)));
            }
        }
        Ok(records)
    }
}

/// Returns the first two figures as the text behind the progress.
fn running(figures: &[Figure]) -> String {
    let shown = figures.iter().take(2).filter_map(|figure| {
        let percent = figure.percent?;
        Some(format!("{} {percent:.1} %", figure.name))
    });
    shown.collect::<Vec<_>>().join(", ")
}
