//! One request's walk from compressed pictures to answers. Newcomers start here.
//!
//! ```text
//! bytes ─(picture pool)─> decode ─> preprocess ─> queue ─(worker)─> inference ─> postprocess
//! ```

use std::ops::{Add, Index, IndexMut};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use image::RgbImage;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::app::{App, BodyMemory};
use crate::batch::{BatchError, Inference, Reservation};
use crate::engine::Tensor;
use crate::error::ServeError;
use crate::image::{
    DecodeOptions, ImageError, ImageFormat, Orientation, check_pixels, decode, probe,
};
use crate::metrics::Stage;
use crate::pool::joined;
use crate::postprocess::classify::{Prediction, classify};
use crate::registry::LoadedModel;

/// A validated request for classification.
pub struct ClassifyRequest {
    /// The model.
    pub model: Arc<LoadedModel>,
    /// Classes to answer with, at least 1.
    pub top_k: usize,
    /// Whether EXIF orientation counts.
    pub orientation: Orientation,
    /// The pictures.
    pub images: Images,
}

/// The compressed pictures of a request, and the memory that was set aside for them.
#[derive(Debug)]
pub struct Images {
    /// The bytes of each file.
    pub pictures: Vec<Bytes>,
    /// Given back when the last picture is decoded; none for pictures that came by another way.
    pub memory: Option<Arc<BodyMemory>>,
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
    let ClassifyRequest {
        model,
        top_k,
        orientation,
        images,
    } = request;
    let options = DecodeOptions {
        max_pixels: app.limits.max_pixels,
        orientation,
    };
    let inferences = infer(app, &model, images, options, deadline).await?;
    let mut timing = Timing::default();
    let mut results = Vec::with_capacity(inferences.len());
    for (outputs, mut stages) in inferences {
        let started = Instant::now();
        let logits = outputs
            .first()
            .map(|tensor| tensor.data.as_slice())
            .unwrap_or_default();
        if logits.is_empty() || !logits.iter().all(|logit| logit.is_finite()) {
            return Err(ServeError::Internal(
                "the network answered with what is no number",
            ));
        }
        results.push(classify(logits, &model.labels, top_k));
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

/// Decodes, preprocesses, queues and runs every picture; they overlap, the answers keep their order.
///
/// Room in the queue is taken before anything is decoded, so that an overloaded server says so at
/// once and for little work.
async fn infer(
    app: &App,
    model: &Arc<LoadedModel>,
    images: Images,
    options: DecodeOptions,
    deadline: Instant,
) -> Result<Vec<(Vec<Tensor>, Timing)>, ServeError> {
    let Images { pictures, memory } = images;
    let capacity = model.batcher.capacity();
    if pictures.len() > capacity {
        // Room for so many never comes, so trying again must not be the advice.
        return Err(ServeError::TooManyImages { limit: capacity });
    }
    let mut room = model.batcher.reserve(pictures.len())?;
    let mut jobs = Vec::with_capacity(pictures.len());
    for (index, bytes) in pictures.into_iter().enumerate() {
        let failed = |source| ServeError::Image { index, source };
        let (format, size) = probe(&bytes).map_err(failed)?;
        check_pixels(size, options.max_pixels).map_err(failed)?;
        let pixels = app.pixel_room(size.pixels()).await?;
        let Some(room) = room.split_one() else {
            return Err(ServeError::Internal("a reservation was too small"));
        };
        let picture = Picture {
            index,
            format,
            bytes,
            options,
            deadline,
            room,
            _held: (pixels, memory.clone()),
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
    format: ImageFormat,
    bytes: Bytes,
    options: DecodeOptions,
    deadline: Instant,
    room: Reservation,
    /// Its part of the memory for pixels and for bodies.
    _held: (OwnedSemaphorePermit, Option<Arc<BodyMemory>>),
}

impl Picture {
    /// Decodes and preprocesses the picture and puts it into the queue. Runs on the picture pool.
    fn submit(self, model: &LoadedModel) -> Result<(Reply, Timing), ServeError> {
        let mut timing = Timing::default();
        let started = Instant::now();
        if started >= self.deadline {
            return Err(BatchError::DeadlinePassed.into());
        }
        let failed = |source| ServeError::Image {
            index: self.index,
            source,
        };
        let picture = self.decode().map_err(failed)?;
        let decoded = Instant::now();
        timing[Stage::decode] = decoded - started;
        let tensor = model.preprocessor.run(&picture).map_err(failed)?;
        timing[Stage::preprocess] = decoded.elapsed();
        Ok((
            model.batcher.submit(self.room, tensor, self.deadline)?,
            timing,
        ))
    }

    /// A decoder that panics has met a file that is not what its format allows.
    fn decode(&self) -> Result<RgbImage, ImageError> {
        let decoded = catch_unwind(AssertUnwindSafe(|| decode(&self.bytes, &self.options)));
        decoded.unwrap_or_else(|_| {
            tracing::error!(format = %self.format, "a picture made its decoder panic");
            let reason = "the decoder gave up".to_owned();
            Err(ImageError::Damaged {
                format: self.format,
                reason,
            })
        })
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
