//! The served models. Each has a manifest, labels and preprocessing and, if it is loaded, a queue
//! with workers.
//!
//! [`Served`] says which variants are served at start. [`Registry`] owns them, and changes them while
//! the server runs; a request finds its [`Entry`] by name in a [`Snapshot`]. [`Loads`] loads networks.

use std::time::{Duration, Instant};

use image::{Rgb, RgbImage};
use thiserror::Error;

use crate::batch::{Batcher, Policy, Spare, TensorCost, Watchdog, WatchedEngine};
use crate::engine::{EMBEDDING, Engine, EngineError, MeasuredScaling, OnnxRuntime, Outputs};
use crate::image::{DecodeMode, ImageError, ImageSize, PreparedImage, Preprocessor};
use crate::inspect::Finding;
use crate::manifest::{Batching, ModelManifest, Precision};
use crate::metrics::{Metrics, ModelLabel, ModelMetrics};
use crate::postprocess::detect::{DetectError, Detector};
use crate::postprocess::{OutputError, check_outputs};
use crate::store::{ModelSource, StoreError};
use crate::threads::ThreadPlan;
pub use activation::{ActivationError, check_activation};
pub use change::Changes;
pub use entry::{Entry, LoadState};
pub use evict::{ModelMemory, OverModelMemory};
pub use find::{BrokenModel, Find, Found, Offer};
pub use forget::Instance;
pub use loads::{LoadFailure, LoadJob, Loads, MAX_WAITING};
pub use models::{DefaultRules, Registry};
use networks::Networks;
pub use outputs::OutputSpec;
pub use served::{Served, default_variant, find, select};
pub use snapshot::Snapshot;
pub use start::StartError;
pub use tensors::{TensorMemoryError, expected_tensor_demand, share_tensor_memory};

mod activation;
mod change;
mod entry;
mod evict;
mod find;
mod first_use;
mod forget;
mod loads;
mod models;
pub mod networks;
mod operations;
mod outputs;
mod replace;
mod served;
mod snapshot;
mod start;
mod step;
mod sync;
mod tensors;
mod threads;
mod watch;

/// Default number of images in a batch per thread of a session. The second image gives a thread
/// work while the layers of the first one wait for each other; more images only increase the
/// latency (docs/BENCHMARKS.md).
const BATCH_PER_THREAD: usize = 2;
/// Largest default batch size, in images.
const MAX_BATCH_SIZE: usize = 8;
/// Default maximum time to load a model.
pub const LOAD_TIMEOUT: Duration = Duration::from_mins(1);
/// Default number of images that can wait in the queue of a model.
const MAX_QUEUE_SIZE: usize = 256;

/// The failure to load one model.
#[derive(Debug, Error)]
#[error("cannot load model `{model}`")]
pub struct LoadError {
    /// The model, as `name@variant`.
    pub model: String,
    /// Why the model cannot be served.
    #[source]
    pub reason: LoadReason,
}

/// Why a model cannot be served.
#[derive(Debug, Error)]
pub enum LoadReason {
    /// The files of the model cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// ONNX Runtime cannot load or run the model.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The outputs for a test image do not fit the model's task or its label file, or are not
    /// finite.
    #[error(transparent)]
    Outputs(#[from] OutputError),
    /// The outputs for test images do not fit the activation that the manifest states.
    #[error(transparent)]
    Activation(#[from] ActivationError),
    /// The label file has another number of lines than the network has classes.
    #[error(transparent)]
    Labels(Finding),
    /// The model has a `box_head` stage that its architecture does not have, or lacks one that its
    /// architecture requires.
    #[error(
        "cannot combine the stages of the model: its architecture expects {} box_head stage, \
         got {}; check `architecture.head` and `stages` in model.toml",
        if *.expected { "a" } else { "no" },
        if *.expected { "none" } else { "one" }
    )]
    Stages {
        /// Whether the architecture requires a `box_head` stage.
        expected: bool,
    },
    /// The anchors, the label file or the outputs of a detector do not fit each other, or an output
    /// is not finite.
    #[error("the check of the detector's anchors, labels and outputs failed")]
    Detect(#[from] DetectError),
    /// The preprocessing fails for the test image of 640x480 pixels.
    #[error(transparent)]
    Preprocess(#[from] ImageError),
    /// The network was exported with a fixed batch size other than 1.
    #[error(
        "the network has a fixed batch size of {got}: export it with batch size 1 or a dynamic one"
    )]
    FixedBatch {
        /// The network's fixed batch size.
        got: usize,
    },
    /// A worker thread could not be started.
    #[error("cannot start a worker thread of the model")]
    Thread(#[from] std::io::Error),
}

impl LoadReason {
    /// Returns the reason for outputs that do not fit the task. A wrong number of labels names the
    /// label file.
    fn outputs(error: OutputError, manifest: &ModelManifest) -> Self {
        match error {
            OutputError::Labels { classes, labels } => Self::Labels(Finding::Labels {
                file: manifest.labels.clone(),
                classes: classes as u64,
                labels: labels as u64,
            }),
            error => Self::Outputs(error),
        }
    }
}

/// A model that is loaded and accepts requests.
pub struct LoadedModel {
    /// Manifest of the model.
    pub manifest: ModelManifest,
    /// Name of the variant, such as `fp32` or `int8`.
    pub variant: String,
    /// Data type of the weights.
    pub precision: Precision,
    /// Names of the classes, by class id.
    pub labels: Vec<String>,
    /// Converts images to the network's input.
    pub preprocessor: Preprocessor,
    /// Converts a detector's outputs to boxes. `None` for classification and segmentation models.
    pub detector: Option<Detector>,
    /// Queue and workers of the model.
    pub batcher: Batcher,
    /// Metrics of the model.
    pub metrics: ModelMetrics,
    /// The outputs of the network, in its order.
    pub outputs: Vec<OutputSpec>,
    /// Settings of the queue and the workers.
    pub plan: ModelPlan,
    /// What was measured about runs on more threads.
    pub scaling: MeasuredScaling,
    /// Number of the networks' nodes that run in custom int8 kernels; 0 for fp32 models.
    pub own_operators: usize,
    /// Time from reading the model's files until every session has run once and the workers have
    /// started.
    pub load_time: Duration,
    /// Number of values in the pooled features of a classification network. `None` if the features are not available.
    pub embedding: Option<usize>,
    /// Memory in bytes that the loaded model takes, as it was measured or estimated when it was
    /// loaded. `None` if it was not.
    pub memory_bytes: Option<u64>,
    /// Marks this instance as alive until it is dropped.
    pub instance: Instance,
}

/// Settings of a model's images, queue and workers, with defaults for those that the manifest does not set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelPlan {
    /// Maximum number of images in one run of the network.
    pub max_batch_size: usize,
    /// Longest time that an image waits in the queue for more images to join its batch.
    pub max_queue_delay: Duration,
    /// Maximum number of images that wait in the queue.
    pub max_queue_size: usize,
    /// Number of workers, each with its own session.
    pub instances: usize,
    /// Thread count of each worker's session.
    pub intra_op_threads: usize,
    /// Maximum time of the first run of each session, while the model is loaded.
    pub warm_up_limit: Duration,
    /// How images are decoded if a request does not choose.
    pub decode: DecodeMode,
}

impl ModelPlan {
    /// Returns the settings of the manifest, with defaults for a machine with `cores` cores where
    /// the manifest sets none. `threads` overrides the thread count of each session.
    pub fn new(manifest: &ModelManifest, cores: usize, threads: Option<usize>) -> Self {
        Self::tuned(&manifest.batching, cores, threads)
    }

    /// Returns the settings `batching`, with defaults for a machine with `cores` cores where it sets
    /// none. `threads` overrides the thread count of each session.
    pub fn tuned(batching: &Batching, cores: usize, threads: Option<usize>) -> Self {
        let plan = ThreadPlan::new(cores, batching.instances, threads);
        let delay = batching.max_queue_delay_us.unwrap_or_default();
        let batch = (BATCH_PER_THREAD * plan.intra_op_threads).min(MAX_BATCH_SIZE);
        Self {
            max_batch_size: batching.max_batch_size.unwrap_or(batch),
            max_queue_delay: Duration::from_micros(delay),
            max_queue_size: batching.max_queue_size.unwrap_or(MAX_QUEUE_SIZE),
            instances: plan.instances,
            intra_op_threads: plan.intra_op_threads,
            warm_up_limit: LOAD_TIMEOUT,
            decode: DecodeMode::default(),
        }
    }
}

impl ModelPlan {
    /// Returns the number of threads of all sessions together.
    pub fn session_threads(&self) -> usize {
        self.instances.saturating_mul(self.intra_op_threads)
    }

    /// Limits the batch size to the network's fixed batch size `fixed`; `None` for a network with a
    /// dynamic batch size.
    ///
    /// # Errors
    /// [`LoadReason::FixedBatch`] if the fixed batch size is not 1.
    fn for_batch(self, fixed: Option<usize>) -> Result<Self, LoadReason> {
        match fixed {
            None => Ok(self),
            Some(1) => Ok(Self {
                max_batch_size: 1,
                ..self
            }),
            Some(got) => Err(LoadReason::FixedBatch { got }),
        }
    }
}

impl LoadedModel {
    /// Loads the model `source`, runs each of its sessions once, and starts its workers.
    ///
    /// # Errors
    /// [`LoadError`] with the name of the model and the reason.
    pub fn load(
        source: ModelSource,
        runtime: &OnnxRuntime,
        plan: ModelPlan,
        metrics: &Metrics,
    ) -> Result<Self, LoadError> {
        let started = Instant::now();
        let runtime = runtime.with_threads(plan.intra_op_threads);
        let prepare = || {
            let detector = Detector::of(&source.manifest)?;
            Networks::prepare(&source, detector.as_ref(), &runtime)
        };
        let networks = prepare().map_err(|reason| LoadError {
            model: source.id(),
            reason,
        })?;
        Self::with_networks(source, &networks, plan, metrics, started)
    }

    /// Loads the model `source`, whose stages are `networks`, runs each of its sessions once, and
    /// starts its workers. `started` is when loading began, for [`LoadedModel::load_time`].
    ///
    /// # Errors
    /// [`LoadError`] with the name of the model and the reason.
    pub fn with_networks(
        source: ModelSource,
        networks: &Networks,
        plan: ModelPlan,
        metrics: &Metrics,
        started: Instant,
    ) -> Result<Self, LoadError> {
        let model = source.id();
        Self::start(source, networks, plan, metrics, started)
            .map_err(|reason| LoadError { model, reason })
    }

    fn start(
        source: ModelSource,
        networks: &Networks,
        plan: ModelPlan,
        metrics: &Metrics,
        started: Instant,
    ) -> Result<Self, LoadReason> {
        let detector = Detector::of(&source.manifest)?;
        let plan = plan.for_batch(networks.fixed_batch())?;
        let own_operators = networks.own_operators();
        let has_embedding = networks.has_embedding();
        let ModelSource {
            manifest,
            variant,
            precision,
            labels,
            ..
        } = source;
        let preprocessor = Preprocessor::new(&manifest.preprocess);
        let policy = Policy {
            max_batch_size: plan.max_batch_size,
            max_queue_delay: plan.max_queue_delay,
        };
        let image = gray_image(&preprocessor)?;
        let name = &manifest.name;
        let batch_metrics = metrics.batch(name, &variant);
        let spare = Box::new(SpareEngines {
            networks: networks.clone(),
            preprocessor: preprocessor.clone(),
        });
        let id = format!("{name}@{variant}");
        networks.set_name(&id);
        let watchdog = Watchdog::start(id, spare, batch_metrics.clone())?;
        let mut engines = Vec::new();
        let (mut warm, mut embedding) = (Outputs::default(), None);
        for _ in 0..plan.instances {
            let mut engine = watchdog.watch(networks.engine()?);
            let limit = Instant::now() + plan.warm_up_limit;
            let mut outputs = warm_up(&mut engine, policy, &image, limit)?;
            let features = has_embedding.then(|| outputs.take(EMBEDDING)).flatten();
            match &detector {
                Some(detector) => detector.check(&outputs, USUAL_SIZE, labels.len())?,
                None => check_outputs(manifest.task, &outputs, labels.len())
                    .map_err(|error| LoadReason::outputs(error, &manifest))?,
            }
            if engines.is_empty() {
                activation::check(&manifest, &preprocessor, &outputs, |image| {
                    let mut outputs = warm_up(&mut engine, policy, &image, limit)?;
                    let _ = has_embedding.then(|| outputs.take(EMBEDDING));
                    Ok(outputs)
                })?;
            }
            engines.push(engine);
            embedding = features
                .as_ref()
                .map(|output| output.shape().iter().product());
            if let Some(features) = features {
                outputs.push(features);
            }
            warm = outputs;
        }
        let regions = detector.as_ref().and_then(Detector::most_regions);
        let largest = preprocessor.largest_pixels();
        let outputs = outputs::specs(&warm, &manifest, &preprocessor, regions.is_some());
        let cost = TensorCost::measured(&warm, image.size, largest, regions);
        let capacity = plan.max_queue_size;
        let batcher = Batcher::start(
            name,
            watchdog,
            engines,
            policy,
            capacity,
            cost,
            batch_metrics,
        )?;
        let model_metrics = metrics.model(name, &variant);
        let load_time = started.elapsed();
        Ok(Self {
            manifest,
            variant,
            precision,
            labels,
            preprocessor,
            detector,
            batcher,
            metrics: model_metrics,
            outputs,
            plan,
            scaling: networks.scaling(),
            own_operators,
            load_time,
            embedding,
            memory_bytes: None,
            instance: Instance::default(),
        })
    }

    /// Returns the label values (model and variant) of this model's Prometheus metrics.
    pub fn label(&self) -> ModelLabel<'_> {
        ModelLabel {
            model: &self.manifest.name,
            variant: &self.variant,
        }
    }

    /// Returns the name of the model and its variant as `name@variant`.
    pub fn id(&self) -> String {
        format!("{}@{}", self.manifest.name, self.variant)
    }
}

/// Creates engines that replace failed ones. The networks share their graphs and weights with all engines.
struct SpareEngines {
    networks: Networks,
    preprocessor: Preprocessor,
}

impl Spare for SpareEngines {
    fn engine(&self) -> Result<Box<dyn Engine>, EngineError> {
        self.networks.engine()
    }

    fn image(&self) -> Result<PreparedImage, ImageError> {
        gray_image(&self.preprocessor)
    }
}

/// Returns the label values (model and variant) of the metrics of `source`.
fn label(source: &ModelSource) -> ModelLabel<'_> {
    ModelLabel {
        model: &source.manifest.name,
        variant: &source.variant,
    }
}

/// Size in pixels of the test image with which each session runs once while the model is loaded.
const USUAL_SIZE: ImageSize = ImageSize {
    width: 640,
    height: 480,
};

/// Returns a uniform gray image of [`USUAL_SIZE`], preprocessed for the network.
fn gray_image(preprocessor: &Preprocessor) -> Result<PreparedImage, ImageError> {
    preprocessor.run(&RgbImage::from_pixel(
        USUAL_SIZE.width,
        USUAL_SIZE.height,
        Rgb([128; 3]),
    ))
}

/// Runs `engine` once with a batch of copies of `image`, until `limit` at most, so that the engine's
/// memory is allocated. Returns the outputs for one of the images, with the embedding.
fn warm_up(
    engine: &mut WatchedEngine,
    policy: Policy,
    image: &PreparedImage,
    limit: Instant,
) -> Result<Outputs, EngineError> {
    // The batch is the largest one for images of this size: a model that cannot run it must not be
    // served.
    let batch = vec![image.clone(); policy.batch_size(image.size)];
    let embeds = vec![true; batch.len()];
    let outputs = engine.embed(batch, &embeds, limit)?.pop();
    Ok(outputs.unwrap_or_default())
}
