//! From compressed pictures to the network's outputs, and through a task's last step.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use futures_util::future::try_join_all;
use image::RgbImage;
use tokio::sync::oneshot;

use super::{Answer, Images, Request, Timing, record};
use crate::app::App;
use crate::batch::{BatchError, Inference, Reservation};
use crate::budget::Permit;
use crate::engine::Tensor;
use crate::error::ServeError;
use crate::image::{
    DecodeOptions, ImageError, ImageFormat, ImageSize, check_pixels, decode, probe,
};
use crate::metrics::Stage;
use crate::pool::joined;
use crate::registry::LoadedModel;

/// What the network gave for one picture.
pub struct Inferred {
    /// Its outputs, without the batch axis.
    pub(super) outputs: Vec<Tensor>,
    /// The stages up to and with inference.
    pub(super) timing: Timing,
    /// Columns and rows of the picture as a viewer shows it.
    pub(super) size: ImageSize,
    /// The picture again, for a step that needs it.
    source: Option<Source>,
    /// The memory of the tensor that the outputs came from stands for theirs.
    _memory: Option<Permit>,
}

impl Inferred {
    /// The picture's pixels. It is decoded a second time: kept pixels would take the room of pictures
    /// that have their turn while this one waits for a worker.
    ///
    /// # Errors
    /// [`ServeError::Internal`] in a step that did not say [`Need::Picture`].
    pub(super) fn decode(&self) -> Result<RgbImage, ServeError> {
        match &self.source {
            Some(source) => source.decode(),
            None => Err(ServeError::Internal("the picture was not kept")),
        }
    }
}

/// A compressed picture.
#[derive(Clone)]
struct Source {
    index: usize,
    format: ImageFormat,
    bytes: Bytes,
    options: DecodeOptions,
    /// Its part of the memory for bodies.
    _memory: Option<Arc<Permit>>,
}

/// What a last step costs, each beside what the ones before it do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// Microseconds: it runs where the outputs arrive.
    Nothing,
    /// A thread of the picture pool.
    Thread,
    /// As many pixels as the picture has, in the memory for pixels.
    Pixels,
    /// The picture itself.
    Picture,
}

/// A task's last step: outputs to an answer.
pub trait Finish: Send + Sync + 'static {
    /// The answer for one picture.
    type Answer: Send + 'static;

    /// What the step costs.
    fn need(&self) -> Need;

    /// Does the step. The timing is that of all stages.
    ///
    /// # Errors
    /// [`ServeError`] if the outputs are not what they should be.
    fn finish(
        &self,
        model: &LoadedModel,
        inferred: Inferred,
    ) -> Result<(Self::Answer, Timing), ServeError>;

    /// Bytes of an answer that are worth counting.
    fn bytes(answer: &Self::Answer) -> usize;
}

/// Takes the pictures of a request all the way; they overlap and keep their order.
///
/// Room in the queue is taken before anything is decoded, so that an overloaded server says so at
/// once and for little work.
///
/// # Errors
/// [`ServeError`] for the first picture that fails; the others are dropped from the queue.
pub async fn answer<F: Finish>(
    app: &App,
    request: Request,
    finish: F,
    deadline: Instant,
) -> Result<Answer<F::Answer>, ServeError> {
    let Request {
        model,
        orientation,
        images: Images { pictures, memory },
    } = request;
    let capacity = model.batcher.capacity();
    if pictures.len() > capacity {
        // Room for so many never comes, so trying again must not be the advice.
        return Err(ServeError::TooManyImages { limit: capacity });
    }
    let mut room = model.batcher.reserve(pictures.len())?;
    let options = DecodeOptions {
        max_pixels: app.limits.max_pixels,
        orientation,
    };
    let (finish, answers) = (Arc::new(finish), Mutex::new(app.bodies.empty()));
    let walk = Walk {
        app,
        model: &model,
        deadline,
        answers: &answers,
    };
    let mut walks = Vec::with_capacity(pictures.len());
    for (index, bytes) in pictures.into_iter().enumerate() {
        let (source, size) = Source::new(index, bytes, options, memory.clone())?;
        let room = room.split_one();
        let room = room.ok_or(ServeError::Internal("a reservation was too small"))?;
        walks.push(walk.whole(source, size, room, Arc::clone(&finish)));
    }
    drop(memory);
    let (mut results, mut timing) = (Vec::with_capacity(walks.len()), Timing::default());
    for (result, stages) in try_join_all(walks).await? {
        results.push(result);
        timing = timing + stages;
    }
    let memory = answers.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(Answer {
        model,
        results,
        timing,
        memory,
    })
}

/// What all pictures of a request share on their way.
#[derive(Clone, Copy)]
struct Walk<'a> {
    app: &'a App,
    model: &'a Arc<LoadedModel>,
    deadline: Instant,
    /// What the answers take of the memory for bodies.
    answers: &'a Mutex<Permit>,
}

impl Walk<'_> {
    /// One picture from its bytes to its answer.
    async fn whole<F: Finish>(
        self,
        source: Source,
        size: ImageSize,
        room: Reservation,
        finish: Arc<F>,
    ) -> Result<(F::Answer, Timing), ServeError> {
        let need = finish.need();
        let kept = (need >= Need::Picture).then(|| source.clone());
        let mut inferred = self.infer(source, size, room).await?;
        inferred.source = kept;
        let pixels = match need {
            Need::Nothing | Need::Thread => None,
            Need::Pixels | Need::Picture => {
                Some(self.app.reserve_pixels(inferred.size.pixels()).await)
            }
        };
        let finished = if need == Need::Nothing {
            finish.finish(self.model, inferred)
        } else {
            let model = Arc::clone(self.model);
            let job = move || {
                let finished = finish.finish(&model, inferred);
                drop(pixels);
                finished
            };
            self.app.pool.run(job).await?
        };
        let (answer, timing) = finished?;
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.grow_by(F::bytes(&answer) as u64)?;
        drop(answers);
        record(self.model, timing);
        Ok((answer, timing))
    }

    /// Decodes, preprocesses and queues a picture, and waits for the network's outputs.
    async fn infer(
        self,
        source: Source,
        size: ImageSize,
        mut room: Reservation,
    ) -> Result<Inferred, ServeError> {
        let Self {
            app,
            model,
            deadline,
            ..
        } = self;
        let tensor = model.preprocessor.output_size(size);
        let tensor = tensor.map_err(|error| source.failed(error))?;
        room.hold(model.batcher.tensor_room(tensor).await);
        let picture = Picture {
            source,
            deadline,
            room,
            pixels: app.reserve_pixels(size.pixels()).await,
        };
        let job = {
            let model = Arc::clone(model);
            app.pool.start(move || picture.submit(&model)).await?
        };
        let Queued {
            reply,
            mut timing,
            size,
        } = joined(job).await??;
        let inference = reply.await.map_err(|_| BatchError::Closed)??;
        timing[Stage::queue] = inference.queue;
        timing[Stage::inference] = inference.inference;
        Ok(Inferred {
            outputs: inference.outputs,
            timing,
            size,
            source: None,
            _memory: inference.memory,
        })
    }
}

/// A picture that waits for a worker.
struct Queued {
    reply: oneshot::Receiver<Result<Inference, BatchError>>,
    timing: Timing,
    size: ImageSize,
}

/// One picture on its way to the queue.
struct Picture {
    source: Source,
    deadline: Instant,
    room: Reservation,
    /// Its part of the memory for pixels.
    pixels: Permit,
}

impl Picture {
    /// Decodes and preprocesses the picture and puts it into the queue. Runs on the picture pool.
    fn submit(self, model: &LoadedModel) -> Result<Queued, ServeError> {
        let Self {
            source,
            deadline,
            room,
            pixels,
        } = self;
        let started = Instant::now();
        if started >= deadline {
            return Err(BatchError::DeadlinePassed.into());
        }
        let image = source.decode()?;
        let decoded = Instant::now();
        let tensor = model.preprocessor.run(&image);
        let tensor = tensor.map_err(|error| source.failed(error))?;
        let mut timing = Timing::default();
        timing[Stage::decode] = decoded - started;
        timing[Stage::preprocess] = decoded.elapsed();
        let (width, height) = image.dimensions();
        drop((image, pixels, source));
        Ok(Queued {
            reply: model.batcher.submit(room, tensor, deadline)?,
            timing,
            size: ImageSize { width, height },
        })
    }
}

impl Source {
    /// A picture whose header says that it is within the limits, and its size by the header's word.
    fn new(
        index: usize,
        bytes: Bytes,
        options: DecodeOptions,
        memory: Option<Arc<Permit>>,
    ) -> Result<(Self, ImageSize), ServeError> {
        let failed = |source| ServeError::Image { index, source };
        let (format, size) = probe(&bytes).map_err(failed)?;
        check_pixels(size, options.max_pixels).map_err(failed)?;
        let source = Self {
            index,
            format,
            bytes,
            options,
            _memory: memory,
        };
        Ok((source, size))
    }

    /// The picture's pixels. A decoder that panics has met a file that is not what its format allows.
    ///
    /// # Errors
    /// [`ServeError::Image`].
    fn decode(&self) -> Result<RgbImage, ServeError> {
        let decoded = catch_unwind(AssertUnwindSafe(|| decode(&self.bytes, &self.options)));
        let decoded = decoded.unwrap_or_else(|_| {
            tracing::error!(format = %self.format, "a picture made its decoder panic");
            let reason = "the decoder gave up".to_owned();
            Err(ImageError::Damaged {
                format: self.format,
                reason,
            })
        });
        decoded.map_err(|error| self.failed(error))
    }

    fn failed(&self, source: ImageError) -> ServeError {
        ServeError::Image {
            index: self.index,
            source,
        }
    }
}
