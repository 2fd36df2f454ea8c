//! The loaded models: each a manifest, its labels, its preprocessing, and a queue with workers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use image::{Rgb, RgbImage};
use thiserror::Error;

use crate::batch::{Batcher, Policy};
use crate::engine::{Engine, EngineError, OnnxRuntime, Outputs};
use crate::error::ServeError;
use crate::image::{ImageError, ImageSize, PreparedImage, Preprocessor};
use crate::manifest::{ModelManifest, Precision, Task};
use crate::metrics::{Metrics, ModelLabel, ModelMetrics};
use crate::postprocess::detect::{DetectError, Detector};
use crate::postprocess::{OutputError, check_outputs};
use crate::store::{ModelSource, StoreError};
use crate::threads::ThreadPlan;
use networks::Networks;

pub mod networks;

/// Pictures in one run of the network per thread of its session, unless the manifest says
/// otherwise. Two fill the pauses between layers; more only make each other wait (docs/BENCHMARKS.md).
const BATCH_PER_THREAD: usize = 2;
/// Most pictures in one run that are planned without being asked for.
const MAX_BATCH_SIZE: usize = 8;
/// Pictures that wait, unless the manifest says otherwise.
const MAX_QUEUE_SIZE: usize = 256;

/// A model that cannot be served.
#[derive(Debug, Error)]
#[error("model `{model}`")]
pub struct LoadError {
    /// Its name and variant.
    pub model: String,
    /// What went wrong.
    #[source]
    pub reason: LoadReason,
}

/// Why a model cannot be served.
#[derive(Debug, Error)]
pub enum LoadReason {
    /// Its files cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// ONNX Runtime cannot load or run it.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Its outputs are not what its task answers with.
    #[error(transparent)]
    Outputs(#[from] OutputError),
    /// The stages of the model do not fit its architecture.
    #[error(
        "cannot combine the stages of the model: its architecture expects {} box_head stage, got {}; \
         check `architecture.head` and `stages`",
        if *.expected { "a" } else { "no" },
        if *.expected { "none" } else { "one" }
    )]
    Stages {
        /// Whether the architecture has a box head.
        expected: bool,
    },
    /// Its outputs are not what its anchors decode.
    #[error("the network's outputs do not fit its anchors")]
    Detect(#[from] DetectError),
    /// Its preprocessing makes no tensor of an ordinary picture.
    #[error(transparent)]
    Preprocess(#[from] ImageError),
    /// It was exported for a batch size that requests do not come in.
    #[error("the network takes batches of {got} only: export it with a dynamic batch axis, or 1")]
    FixedBatch {
        /// Its batch size.
        got: usize,
    },
    /// A worker thread could not be started.
    #[error("cannot start a worker")]
    Thread(#[from] std::io::Error),
}

/// A model that answers requests.
pub struct LoadedModel {
    /// What it is.
    pub manifest: ModelManifest,
    /// Which variant of it.
    pub variant: String,
    /// The number type of its weights.
    pub precision: Precision,
    /// Its class labels, by class number.
    pub labels: Vec<String>,
    /// From pictures to its input.
    pub preprocessor: Preprocessor,
    /// From a detector's outputs to boxes.
    pub detector: Option<Detector>,
    /// Its queue.
    pub batcher: Batcher,
    /// Its metrics.
    pub metrics: ModelMetrics,
    /// How its queue and workers were planned.
    pub plan: ModelPlan,
    /// How many nodes of its network run in kernels of Sightline's, those of int8.
    pub own_operators: usize,
    /// Time from reading its file to the last warm session.
    pub load_time: Duration,
}

/// The figures that a model's queue and workers run with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelPlan {
    /// Most pictures in one run.
    pub max_batch_size: usize,
    /// Longest wait for a fuller batch.
    pub max_queue_delay: Duration,
    /// Most pictures waiting.
    pub max_queue_size: usize,
    /// Workers.
    pub instances: usize,
    /// Threads of each worker's session.
    pub intra_op_threads: usize,
}

impl ModelPlan {
    /// The manifest's wishes, completed for this machine.
    pub fn new(manifest: &ModelManifest, cores: usize, threads: Option<usize>) -> Self {
        let batching = &manifest.batching;
        let plan = ThreadPlan::new(cores, batching.instances, threads);
        let delay = batching.max_queue_delay_us.unwrap_or_default();
        let batch = (BATCH_PER_THREAD * plan.intra_op_threads).min(MAX_BATCH_SIZE);
        Self {
            max_batch_size: batching.max_batch_size.unwrap_or(batch),
            max_queue_delay: Duration::from_micros(delay),
            max_queue_size: batching.max_queue_size.unwrap_or(MAX_QUEUE_SIZE),
            instances: plan.instances,
            intra_op_threads: plan.intra_op_threads,
        }
    }
}

impl ModelPlan {
    /// For a network that takes only batches of `fixed` pictures, if it is such a one.
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
    /// Loads `source`, runs each of its sessions once, and starts its workers.
    ///
    /// # Errors
    /// [`LoadError`] says which model and why.
    pub fn load(
        source: ModelSource,
        runtime: &OnnxRuntime,
        plan: ModelPlan,
        metrics: &Metrics,
    ) -> Result<Self, LoadError> {
        let model = source.id();
        Self::try_load(source, runtime, plan, metrics).map_err(|reason| LoadError { model, reason })
    }

    fn try_load(
        source: ModelSource,
        runtime: &OnnxRuntime,
        plan: ModelPlan,
        metrics: &Metrics,
    ) -> Result<Self, LoadReason> {
        let started = Instant::now();
        let detector = Detector::of(&source.manifest)?;
        let networks = Networks::prepare(&source, detector.as_ref(), runtime)?;
        let plan = plan.for_batch(networks.fixed_batch())?;
        let own_operators = networks.own_operators();
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
        let picture = grey_picture(&preprocessor)?;
        let mut engines = Vec::new();
        for _ in 0..plan.instances {
            let (engine, outputs) = warm_engine(&networks, plan, policy, &picture)?;
            match &detector {
                Some(detector) => detector.check(&outputs, USUAL_SIZE, labels.len())?,
                None => check_outputs(manifest.task, &outputs, labels.len())?,
            }
            engines.push(engine);
        }
        let batch_metrics = metrics.batch(&manifest.name, &variant);
        let name = &manifest.name;
        let batcher = Batcher::start(name, engines, policy, plan.max_queue_size, batch_metrics)?;
        let model_metrics = metrics.model(name, &variant);
        model_metrics.loaded.set(1);
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
            plan,
            own_operators,
            load_time,
        })
    }

    /// Returns the labels of the model's metrics.
    pub fn label(&self) -> ModelLabel<'_> {
        ModelLabel {
            model: &self.manifest.name,
            variant: &self.variant,
        }
    }

    /// `name@variant`.
    pub fn id(&self) -> String {
        format!("{}@{}", self.manifest.name, self.variant)
    }
}

/// A picture of a usual size.
const USUAL_SIZE: ImageSize = ImageSize {
    width: 640,
    height: 480,
};

/// A grey picture of a usual size as the network sees it.
fn grey_picture(preprocessor: &Preprocessor) -> Result<PreparedImage, ImageError> {
    preprocessor.run(&RgbImage::from_pixel(
        USUAL_SIZE.width,
        USUAL_SIZE.height,
        Rgb([128; 3]),
    ))
}

/// An engine that has run once, so that its memory is allocated, and what it gave for one picture.
fn warm_engine(
    networks: &Networks,
    plan: ModelPlan,
    policy: Policy,
    picture: &PreparedImage,
) -> Result<(Box<dyn Engine>, Outputs), EngineError> {
    let mut engine = networks.engine(plan.intra_op_threads)?;
    // As many as will ever come together: what cannot run such a batch must not be served.
    let batch = vec![picture.clone(); policy.batch_size(picture.size)];
    let outputs = engine.run(batch)?.pop().unwrap_or_default();
    Ok((engine, outputs))
}

/// The loaded models in the order of the configuration.
#[derive(Default)]
pub struct Registry {
    models: Vec<Arc<LoadedModel>>,
}

impl Registry {
    /// A registry of `models`.
    pub fn new(models: Vec<LoadedModel>) -> Self {
        Self {
            models: models.into_iter().map(Arc::new).collect(),
        }
    }

    /// Every model.
    pub fn models(&self) -> &[Arc<LoadedModel>] {
        &self.models
    }

    /// The model that `reference` (`name` or `name@variant`) names.
    fn find(&self, reference: &str) -> Option<&Arc<LoadedModel>> {
        self.models.iter().find(|model| {
            let rest = reference.strip_prefix(model.manifest.name.as_str());
            rest.is_some_and(|rest| {
                rest.is_empty() || rest.strip_prefix('@') == Some(model.variant.as_str())
            })
        })
    }

    /// The model of `task` that `name` asks for, or the task's first.
    ///
    /// # Errors
    /// [`ServeError::NoModel`], [`ServeError::UnknownModel`] and [`ServeError::WrongTask`].
    pub fn for_task(&self, task: Task, name: Option<&str>) -> Result<Arc<LoadedModel>, ServeError> {
        let Some(name) = name else {
            let first = self.models.iter().find(|model| model.manifest.task == task);
            return first.cloned().ok_or(ServeError::NoModel { task });
        };
        let model = self.named(name)?;
        if model.manifest.task == task {
            return Ok(Arc::clone(model));
        }
        Err(ServeError::WrongTask {
            name: model.id(),
            task: model.manifest.task,
        })
    }

    /// The model that `name` asks for.
    ///
    /// # Errors
    /// [`ServeError::UnknownModel`] lists those that are loaded.
    pub fn named(&self, name: &str) -> Result<&Arc<LoadedModel>, ServeError> {
        self.find(name).ok_or_else(|| ServeError::UnknownModel {
            name: name.to_owned(),
            loaded: self.models.iter().map(|model| model.id()).collect(),
        })
    }
}
