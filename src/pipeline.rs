//! One request's walk from compressed pictures to answers. Newcomers start here.
//!
//! ```text
//! bytes ─(picture pool)─> decode ─> preprocess ─> queue ─(worker)─> inference ─> postprocess
//! ```

use std::ops::{Add, Index, IndexMut};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use onnx_export::manifest::Task;
use tokio::sync::oneshot;

use crate::app::App;
use crate::batch::{BatchError, Inference, Reservation};
use crate::engine::Tensor;
use crate::error::ServeError;
use crate::image::{DecodeOptions, Orientation, decode};
use crate::metrics::Stage;
use crate::pool::joined;
use crate::postprocess::classify::{Prediction, classify};
use crate::registry::LoadedModel;

/// A validated request for classification.
#[derive(Debug)]
pub struct ClassifyRequest {
    /// The model, or the task's first.
    pub model: Option<String>,
    /// Classes to answer with, at least 1.
    pub top_k: usize,
    /// Whether EXIF orientation counts.
    pub orientation: Orientation,
    /// The compressed pictures.
    pub images: Vec<Bytes>,
}

/// One answer per picture, and where the time went.
pub struct Answer<T> {
    /// The model that answered.
    pub model: Arc<LoadedModel>,
    /// In the order of the pictures.
    pub results: Vec<T>,
    /// Summed over the pictures.
    pub timing: Timing,
}

/// Time spent in each stage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timing([Duration; 6]);

impl Index<Stage> for Timing {
    type Output = Duration;

    fn index(&self, stage: Stage) -> &Duration {
        &self.0[stage as usize]
    }
}

impl IndexMut<Stage> for Timing {
    fn index_mut(&mut self, stage: Stage) -> &mut Duration {
        &mut self.0[stage as usize]
    }
}

impl Add for Timing {
    type Output = Self;

    fn add(mut self, other: Self) -> Self {
        for (total, part) in self.0.iter_mut().zip(other.0) {
            *total += part;
        }
        self
    }
}

/// Classifies the pictures of a request.
///
/// # Errors
/// [`ServeError`] for the first picture that fails; the others are dropped from the queue.
pub async fn classify_pictures(
    app: &App,
    request: ClassifyRequest,
    deadline: Instant,
) -> Result<Answer<Vec<Prediction>>, ServeError> {
    let model = find_model(app, request.model.as_deref(), Task::Classification)?;
    let options = DecodeOptions {
        max_pixels: app.limits.max_pixels,
        orientation: request.orientation,
    };
    let inferences = infer(app, &model, request.images, options, deadline).await?;
    let mut timing = Timing::default();
    let mut results = Vec::with_capacity(inferences.len());
    for (outputs, stages) in inferences {
        let started = Instant::now();
        let logits = outputs
            .first()
            .map(|tensor| tensor.data.as_slice())
            .unwrap_or_default();
        results.push(classify(logits, &model.labels, request.top_k));
        let mut stages = stages;
        stages[Stage::postprocess] = started.elapsed();
        record(&model, stages);
        timing = timing + stages;
    }
    Ok(Answer {
        model,
        results,
        timing,
    })
}

/// The model that a request asks for, or the task's first.
fn find_model(app: &App, name: Option<&str>, task: Task) -> Result<Arc<LoadedModel>, ServeError> {
    let registry = app.models()?;
    let Some(name) = name else {
        return registry
            .first(task)
            .cloned()
            .ok_or(ServeError::NoModel { task });
    };
    match registry.find(name) {
        Some(model) if model.manifest.task == task => Ok(Arc::clone(model)),
        Some(model) => Err(ServeError::WrongTask {
            name: model.id(),
            task: model.manifest.task,
        }),
        None => {
            let loaded = registry.models().iter().map(|model| model.id()).collect();
            Err(ServeError::UnknownModel {
                name: name.to_owned(),
                loaded,
            })
        }
    }
}

/// Decodes, preprocesses, queues and runs every picture; they overlap, the answers keep their order.
///
/// Room in the queue is taken before anything is decoded, so that an overloaded server says so at
/// once and for little work.
async fn infer(
    app: &App,
    model: &Arc<LoadedModel>,
    images: Vec<Bytes>,
    options: DecodeOptions,
    deadline: Instant,
) -> Result<Vec<(Vec<Tensor>, Timing)>, ServeError> {
    let capacity = model.batcher.capacity();
    if images.len() > capacity {
        // Room for so many never comes, so trying again must not be the advice.
        return Err(ServeError::TooManyImages { limit: capacity });
    }
    let mut room = model.batcher.reserve(images.len())?;
    let mut jobs = Vec::with_capacity(images.len());
    for (index, bytes) in images.into_iter().enumerate() {
        let Some(room) = room.split_one() else {
            return Err(ServeError::Internal("a reservation was too small"));
        };
        let picture = Picture {
            index,
            bytes,
            options,
            deadline,
            room,
        };
        let model = Arc::clone(model);
        jobs.push(app.pool.start(move || picture.submit(&model)).await?);
    }
    let mut inferences = Vec::with_capacity(jobs.len());
    for job in jobs {
        let (receiver, mut timing) = joined(job).await??;
        let inference = receiver.await.map_err(|_| BatchError::Closed)??;
        timing[Stage::queue] = inference.queue;
        timing[Stage::inference] = inference.inference;
        inferences.push((inference.outputs, timing));
    }
    Ok(inferences)
}

type Reply = oneshot::Receiver<Result<Inference, BatchError>>;

/// One picture on its way to the queue.
struct Picture {
    index: usize,
    bytes: Bytes,
    options: DecodeOptions,
    deadline: Instant,
    room: Reservation,
}

impl Picture {
    /// Decodes and preprocesses the picture and puts it into the queue. Runs on the picture pool.
    fn submit(self, model: &LoadedModel) -> Result<(Reply, Timing), ServeError> {
        let Self {
            index,
            bytes,
            options,
            deadline,
            room,
        } = self;
        let mut timing = Timing::default();
        let started = Instant::now();
        if started >= deadline {
            return Err(BatchError::DeadlinePassed.into());
        }
        let failed = |source| ServeError::Image { index, source };
        let picture = decode(&bytes, &options).map_err(failed)?;
        drop(bytes);
        let decoded = Instant::now();
        timing[Stage::decode] = decoded - started;
        let tensor = model.preprocessor.run(&picture).map_err(failed)?;
        timing[Stage::preprocess] = decoded.elapsed();
        Ok((model.batcher.submit(room, tensor, deadline)?, timing))
    }
}

/// Encoding is measured later, for the answer as a whole.
fn record(model: &LoadedModel, timing: Timing) {
    for stage in Stage::ALL
        .into_iter()
        .filter(|stage| *stage != Stage::encode)
    {
        model.metrics.stage(stage, timing[stage]);
    }
    model.metrics.images.inc();
}
