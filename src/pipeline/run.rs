//! The path of one request from encoded images, or from tensors that the client has preprocessed,
//! to results.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use tokio::sync::oneshot;

use super::cpu::{Measured, cpu_time};
use super::input::check_prepared;
use super::{
    Cost, EncodedImage, Input, Postprocess, PostprocessInput, RawTensor, Request, RequestTiming,
    Response, Timing,
};
use crate::admission::{Admission, Deadline, LongImage};
use crate::app::App;
use crate::batch::{BatchError, Reply, Slot, Turn};
use crate::budget::Permit;
use crate::cancel::Cancel;
use crate::error::ServeError;
use crate::image::{DecodeTimes, ImageError, ImageSize, PreparedImage};
use crate::metrics::{ImageProgress, Stage};
use crate::pool::{ImagePool, JobCost};
use crate::registry::LoadedModel;
use crate::telemetry::{StageSpan, Trace};

/// Runs a request. Its images are processed concurrently; the results have the order of the images.
///
/// Places in the queue are reserved before anything is decoded, so that an overloaded server rejects
/// a request before it has spent CPU time on it.
///
/// # Errors
/// [`ServeError`] of the first image that fails; the work on the other images is cancelled.
pub async fn run<P: Postprocess>(
    app: &App,
    mut admission: Admission,
    request: Request<P>,
) -> Result<Response<P::Output>, ServeError> {
    let Request {
        inputs,
        postprocess,
    } = request;
    admission.reserve_images(inputs.len())?;
    let costs: Vec<JobCost> = inputs
        .iter()
        .map(|input| input.decode_cost(&app.decode_times))
        .collect();
    let mut long = admission.reserve_long(&app.pool, costs.iter().copied())?;
    let mut forecast = admission.take_forecast();
    if let Some(forecast) = &mut forecast
        && costs.iter().any(|cost| cost.long)
    {
        forecast.discard();
    }
    let body = Arc::new(admission.take_body(app));
    let results = Mutex::new(app.responses.empty());
    let postprocess = Arc::new(postprocess);
    let model = Arc::clone(&admission.model);
    let trace = admission.trace.clone();
    let walk = Walk {
        app,
        model: &model,
        trace: &trace,
        deadline: admission.deadline,
        results: &results,
    };
    let mut walks = Vec::with_capacity(inputs.len());
    for (index, (mut input, cost)) in inputs.into_iter().zip(costs).enumerate() {
        match &mut input {
            Input::Encoded(image) => image.memory = Some(Arc::clone(&body)),
            Input::Raw(tensor) => tensor.memory = Some(Arc::clone(&body)),
            Input::Prepared(_) => {}
        }
        let held = Held {
            place: admission.take_place()?,
            long: long.take(cost),
            progress: admission.progress.image(),
            embed: postprocess.reads_embedding(),
        };
        walks.push(walk.image(index, (input, cost), held, Arc::clone(&postprocess)));
    }
    // From here on, only the inputs keep the body's memory reserved.
    drop(body);
    // The next stage of the request as a whole; until then, its stage is that of its images.
    admission.progress.enter(Stage::encode);
    let (outputs, images) = try_join_all(walks).await?.into_iter().unzip();
    if let Some(forecast) = forecast {
        forecast.finish();
    }
    Ok(Response {
        model,
        results: outputs,
        timing: RequestTiming::new(admission.timing, images),
        memory: results.into_inner().unwrap_or_else(PoisonError::into_inner),
    })
}

/// The state that all images of a request share.
#[derive(Clone, Copy)]
struct Walk<'a> {
    app: &'a App,
    model: &'a Arc<LoadedModel>,
    /// The trace of the request.
    trace: &'a Trace,
    deadline: Deadline,
    /// Memory of the results, reserved in the budget for responses.
    results: &'a Mutex<Permit>,
}

/// What an image holds before it is decoded.
struct Held {
    /// The place in the queue.
    place: Permit,
    /// Reservation of an image that takes long to decode, released once it is decoded. `None` for other images.
    long: Option<LongImage>,
    /// The stage that the image is in, for metrics.
    progress: ImageProgress,
    /// Whether postprocessing reads the pooled features.
    embed: bool,
}

/// An image that waits in the queue.
struct Queued {
    reply: oneshot::Receiver<Result<Reply, BatchError>>,
    /// Size of the image after it is decoded and, unless the request disables it, rotated as its
    /// metadata state. For a tensor that the client has preprocessed, the size without padding.
    size: ImageSize,
    timing: Timing,
}

impl Walk<'_> {
    /// Processes one image from its input, which costs `cost` to decode, to its result. The time that no other stage
    /// takes is a wait for memory or for a thread: the stage [`Stage::admission`].
    async fn image<P: Postprocess>(
        self,
        index: usize,
        (input, cost): (Input, JobCost),
        held: Held,
        postprocess: Arc<P>,
    ) -> Result<(P::Output, Timing), ServeError> {
        let started = Instant::now();
        let progress = held.progress.clone();
        let kept = match &input {
            Input::Encoded(image) if postprocess.cost() >= Cost::Image => Some(image.clone()),
            _ => None,
        };
        let cancel = Cancel::at(self.deadline.at());
        // Dropping this future, as when the client disconnects, stops the work.
        let _cancel_on_drop = cancel.on_drop();
        let queued = match input {
            Input::Encoded(image) => self.prepare(index, (image, cost), held, &cancel).await?,
            Input::Prepared(tensor) => {
                check_prepared(index, &tensor)?;
                let size = tensor.size;
                self.enqueue((index, size), async { Ok(tensor) }, held)
                    .await?
            }
            Input::Raw(tensor) => {
                let size = tensor.size();
                self.enqueue((index, size), self.convert(tensor), held)
                    .await?
            }
        };
        let mut timing = queued.timing;
        let reply = queued.reply.await.map_err(|_| BatchError::NoReply)??;
        progress.enter(Stage::admission);
        timing[Stage::queue] += reply.queue;
        timing[Stage::inference] = reply.inference;
        let input = PostprocessInput {
            outputs: reply.outputs,
            size: queued.size,
            cancel,
            pool: self.app.pool.clone(),
            index,
            source: kept,
        };
        let after = (reply.memory, progress.clone());
        let (output, mut timing) = self.postprocess(postprocess, input, after, timing).await?;
        progress.enter(Stage::encode);
        timing[Stage::admission] = started.elapsed().saturating_sub(timing.sum());
        Ok((output, timing))
    }

    /// Waits for memory for image `index` of the request, whose tensor has `size`, then queues `tensor`.
    async fn enqueue(
        self,
        (index, size): (usize, ImageSize),
        tensor: impl Future<Output = Result<PreparedImage, ServeError>>,
        held: Held,
    ) -> Result<Queued, ServeError> {
        let trace = self.trace.of_image(index);
        let waiting = trace.begin(Stage::admission);
        let batcher = &self.model.batcher;
        let memory = batcher.reserve_tensor(size).await;
        waiting.end();
        let slot = Slot {
            place: held.place,
            turn: Turn::uncounted(),
            memory,
            trace,
            progress: held.progress,
            embed: held.embed,
        };
        let started = Instant::now();
        slot.progress.enter(Stage::preprocess);
        let tensor = tensor.await?;
        let mut timing = Timing::default();
        timing[Stage::preprocess] = started.elapsed();
        let size = tensor.content;
        Ok(Queued {
            reply: batcher.submit(tensor, slot, self.deadline.at())?,
            size,
            timing,
        })
    }

    /// Returns a client's tensor as the network's input, on the image pool if that takes long.
    async fn convert(self, tensor: RawTensor) -> Result<PreparedImage, ServeError> {
        match tensor.cost() {
            None => Ok(tensor.prepare()),
            Some(cost) => self.app.pool.run(cost, move || tensor.prepare()).await,
        }
    }

    /// Waits for its turn, memory and a thread, then decodes, preprocesses and queues an image.
    async fn prepare(
        self,
        index: usize,
        (image, cost): (EncodedImage, JobCost),
        held: Held,
        cancel: &Cancel,
    ) -> Result<Queued, ServeError> {
        let size = self.model.preprocessor.output_size(image.size());
        let size = size.map_err(|source| ServeError::Image { index, source })?;
        let trace = self.trace.of_image(index);
        let (turn, waited) = self.turn(cost, &trace, &held.progress).await;
        let waiting = trace.begin(Stage::admission);
        let memory = self.model.batcher.reserve_tensor(size).await;
        let slot = Slot {
            place: held.place,
            turn,
            memory,
            trace,
            progress: held.progress,
            embed: held.embed,
        };
        let job = Preparation {
            index,
            image,
            waiting,
            slot,
            long: held.long,
            cancel: cancel.clone(),
            deadline: self.deadline,
        };
        let (model, times) = (Arc::clone(self.model), Arc::clone(&self.app.decode_times));
        let pool = self.app.pool.clone();
        let job = move || job.run(&model, &times, &pool);
        let mut queued = self.app.pool.run(cost, job).await??;
        queued.timing[Stage::queue] = waited;
        if !cost.long {
            let timing = &queued.timing;
            let prepared = timing[Stage::decode] + timing[Stage::preprocess];
            let threads = self.app.pool.threads();
            self.model.batcher.record_preparation(prepared, threads);
        }
        Ok(queued)
    }

    /// Waits until an image that costs `cost` to decode may be decoded: a part of the stage [`Stage::queue`], because other
    /// images of the model are before it. Returns its turn and how long it waited.
    async fn turn(
        self,
        cost: JobCost,
        trace: &Trace,
        progress: &ImageProgress,
    ) -> (Turn, Duration) {
        let batcher = &self.model.batcher;
        if let Some(turn) = batcher.try_turn(cost, self.app.pool.threads()) {
            return (turn, Duration::ZERO);
        }
        let started = Instant::now();
        let waiting = trace.begin(Stage::queue);
        progress.enter(Stage::queue);
        let turn = batcher.turn(cost).await;
        progress.enter(Stage::admission);
        waiting.end();
        (turn, started.elapsed())
    }

    /// Turns the outputs of one image into its result, on the image pool unless the cost is negligible. `memory` is
    /// that of the tensors.
    async fn postprocess<P: Postprocess>(
        self,
        postprocess: Arc<P>,
        input: PostprocessInput,
        (memory, progress): (Permit, ImageProgress),
        mut timing: Timing,
    ) -> Result<(P::Output, Timing), ServeError> {
        let trace = self.trace.of_image(input.index);
        let cost = postprocess.cost();
        let (output, timing) = if cost == Cost::Negligible {
            progress.enter(Stage::postprocess);
            let output = traced(&*postprocess, self.model, input, &mut timing, &trace);
            drop(memory);
            (output, timing)
        } else {
            let model = Arc::clone(self.model);
            let job_cost = input.job_cost(cost, &self.app.decode_times);
            let waiting = trace.begin(Stage::admission);
            let job = move || {
                waiting.end();
                progress.enter(Stage::postprocess);
                let output = traced(&*postprocess, &model, input, &mut timing, &trace);
                drop(memory);
                (output, timing)
            };
            self.app.pool.run(job_cost, job).await?
        };
        let output = output?;
        let mut results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        let grown = results.grow_by(P::bytes(&output) as u64);
        grown.map_err(ServeError::response_memory)?;
        drop(results);
        Ok((output, timing))
    }
}

/// The job that turns one encoded image into a queue entry, on the image pool.
struct Preparation {
    index: usize,
    image: EncodedImage,
    /// Span of the stage `admission`.
    waiting: StageSpan,
    slot: Slot,
    long: Option<LongImage>,
    /// Stops the job.
    cancel: Cancel,
    deadline: Deadline,
}

impl Preparation {
    /// Decodes, preprocesses and queues the image on a thread of `pool`.
    fn run(
        self,
        model: &LoadedModel,
        times: &DecodeTimes,
        pool: &ImagePool,
    ) -> Result<Queued, ServeError> {
        let Self {
            index,
            image,
            waiting,
            slot,
            long,
            cancel,
            deadline,
        } = self;
        let started = Instant::now();
        waiting.end_at(started);
        let decoding = slot.trace.begin(Stage::decode);
        cancel.check()?;
        slot.progress.enter(Stage::decode);
        let failed = |error: ImageError| ServeError::image(index, error);
        let cpu = cpu_time();
        let helpers = Measured::new(pool);
        let decoded = image.decode(&cancel, &helpers).map_err(failed)?;
        let decoded_at = Instant::now();
        decoding.end_at(decoded_at);
        let preprocessing = slot.trace.begin(Stage::preprocess);
        let own = cpu_time().saturating_sub(cpu);
        image.record_decode(times, own + helpers.time());
        if let Some(long) = long {
            long.decoded();
        }
        slot.progress.enter(Stage::preprocess);
        let tensor = model.preprocessor.run_decoded(&decoded, &cancel);
        let tensor = tensor.map_err(failed)?;
        preprocessing.end();
        let mut timing = Timing::default();
        timing[Stage::decode] = decoded_at - started;
        timing[Stage::preprocess] = decoded_at.elapsed();
        let size = decoded.placement.size;
        drop((decoded, image));
        Ok(Queued {
            reply: model.batcher.submit(tensor, slot, deadline.at())?,
            size,
            timing,
        })
    }
}

/// Runs postprocessing, and records the spans of the stages `postprocess` and `encode`.
fn traced<P: Postprocess>(
    postprocess: &P,
    model: &LoadedModel,
    input: PostprocessInput,
    timing: &mut Timing,
    trace: &Trace,
) -> Result<P::Output, ServeError> {
    let running = trace.begin(Stage::postprocess);
    let started = Instant::now();
    let output = postprocess.run(model, input, timing)?;
    let encoding = started + timing[Stage::postprocess];
    running.end_at(encoding);
    if !timing[Stage::encode].is_zero() {
        trace.record(Stage::encode, encoding, encoding + timing[Stage::encode]);
    }
    Ok(output)
}
