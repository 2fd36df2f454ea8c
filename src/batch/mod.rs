//! The batching queue of one model and the workers that empty it.
//!
//! A request passes [`Batcher::check`] before its body is read. Each image then passes through the
//! queue in four steps: [`Batcher::reserve_more`] reserves a place before the image is decoded,
//! [`Batcher::turn`] waits until it may be decoded, [`Batcher::submit`] puts the preprocessed image into the queue,
//! and a worker sends a [`Reply`] or a [`BatchError`] through a oneshot channel. A free worker immediately cuts a batch, that is,
//! removes images of one size from the queue to run them together. Batches therefore grow only while
//! every worker is busy, unless `max_queue_delay_us` makes workers wait for fuller batches.
//!
//! A failure harms its batch only. The engine of the worker is tested or replaced (`rebuild`), and a worker that does
//! not return is replaced by another one (`watchdog`).
//!
//! What is *not* here: decoding, the meaning of model outputs, and HTTP.

mod ahead;
mod drain;
mod error;
mod forecast;
mod margin;
mod queue;
mod rebuild;
mod seat;
mod seats;
mod shared;
mod spare;
mod tensors;
mod watchdog;
mod worker;

use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tracing::Span;

pub use ahead::Turn;
pub use error::BatchError;
pub(crate) use forecast::Forecast;
pub use queue::Policy;
pub use seat::WatchedEngine;
pub(crate) use seats::MAX_STUCK;
pub use seats::Unready;
pub use spare::Spare;
pub use tensors::TensorCost;
pub use watchdog::Watchdog;

use ahead::Ahead;
use drain::DrainRate;
use margin::Margin;

use crate::budget::{Budget, Exhausted, Permit};
use crate::engine::Outputs;
use crate::image::{ImageSize, PreparedImage};
use crate::memory::{self, Demand};
use crate::metrics::{BatchMetrics, ImageProgress, Stage};
use crate::pool::JobCost;
use crate::telemetry::{StageSpan, Trace};
use queue::Queue;
use shared::{Shared, State};
use worker::Worker;

/// The result of inference for one image.
#[derive(Debug)]
pub struct Reply {
    /// The model's outputs for this image, without the batch axis.
    pub outputs: Outputs,
    /// Time that the image waited in the queue, from [`Batcher::submit`] to the start of its
    /// batch's run.
    pub queue: Duration,
    /// Run time of the batch, the same for all images of the batch.
    pub inference: Duration,
    /// Memory permit of the image's input and output tensors, to be held until the outputs are
    /// dropped.
    pub memory: Permit,
}

/// What one image holds in the queue: its place, memory for its tensors, its trace and the record of its stage.
#[derive(Debug)]
pub struct Slot {
    /// Permit of one queue place, from [`Batcher::reserve_more`]; released when a worker takes the
    /// image.
    pub place: Permit,
    /// The image's turn to be decoded, from [`Batcher::turn`]; released when a worker takes the image.
    pub turn: Turn,
    /// Permit of the tensor memory, from [`Batcher::reserve_tensor`]; passed on in
    /// [`Reply::memory`].
    pub memory: Permit,
    /// Trace in which the stages `queue` and `inference` of the image record their spans.
    pub trace: Trace,
    /// The stage that the image is in, for metrics.
    pub progress: ImageProgress,
    /// Whether the outputs include the pooled features of a classification network.
    pub embed: bool,
}

/// An image that waits for a worker. Dropping the receiver of `reply` cancels the image.
#[derive(Debug)]
struct QueueEntry {
    image: PreparedImage,
    slot: Slot,
    enqueued: Instant,
    deadline: Instant,
    /// Tracing span of the request, to which the worker's log lines about this image belong.
    span: Span,
    /// Span of the stage `queue`.
    waiting: StageSpan,
    reply: oneshot::Sender<Result<Reply, BatchError>>,
}

/// The queue of one model and its workers.
pub struct Batcher {
    shared: Arc<Shared>,
    tensors: Budget,
    cost: TensorCost,
    capacity: usize,
    watchdog: Watchdog,
    /// Whether dropping the batcher leaves the joining of its threads to a thread of its own.
    finishes_in_background: bool,
}

impl Batcher {
    /// Starts one worker thread per engine and a queue of at most `capacity` images. `watchdog` stops the
    /// runs of `engines`, which have run a test image, and replaces workers. The memory budget for tensors has room for one image of the largest size, as `cost`
    /// predicts, until [`Batcher::raise_tensor_memory`] raises it.
    ///
    /// # Errors
    /// The operating system's error if a thread cannot be started.
    pub fn start(
        name: &str,
        watchdog: Watchdog,
        engines: Vec<WatchedEngine>,
        policy: Policy,
        capacity: usize,
        cost: TensorCost,
        metrics: BatchMetrics,
    ) -> std::io::Result<Self> {
        let tensors = Budget::new("tensors", memory::UNIT, cost.demand().floor);
        metrics.budgets.add(tensors.name(), &tensors);
        let places = Budget::new("queue", 1, capacity as u64);
        metrics.queue(&places);
        let state = State {
            queue: Queue::new(policy),
            closed: false,
        };
        let drain = DrainRate::new(engines.len(), policy.max_batch_size);
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            changed: Condvar::new(),
            closing: Condvar::new(),
            policy,
            metrics,
            places,
            ahead: Ahead::new(engines.len(), policy.max_batch_size),
            long_places: Budget::new("long_images", 1, capacity.div_ceil(2) as u64),
            drain: Mutex::new(drain),
            margin: Mutex::new(Margin::new()),
        });
        let batcher = Self {
            shared,
            tensors,
            cost,
            capacity,
            watchdog,
            finishes_in_background: false,
        };
        for engine in engines {
            engine.prove();
            let worker = engine.seat().worker();
            start_worker(&batcher.shared, name, worker, Worker::Sound(engine))?;
        }
        let (shared, name) = (Arc::clone(&batcher.shared), name.to_owned());
        batcher.watchdog.replace_workers(move |seat| {
            let worker = seat.worker();
            start_worker(&shared, &name, worker, Worker::Broken(seat))
        });
        Ok(batcher)
    }

    /// Returns why the model is not ready; `None` if it is. A model that is not ready may still process images.
    pub fn unready(&self) -> Option<Unready> {
        self.watchdog.unready()
    }

    /// Exports the readiness of the model, because this instance serves it from now on.
    pub fn report_ready(&self) {
        self.watchdog.report_ready();
    }

    /// Ends the export of the readiness, because this instance serves only the requests that it has.
    pub fn retire(&self) {
        self.watchdog.retire();
    }

    /// Makes all workers appear to be stuck, or idle.
    #[cfg(test)]
    pub(crate) fn pretend_stuck(&self, stuck: bool) {
        self.watchdog.pretend_stuck(stuck);
    }

    /// Returns the number of images in the queue that are cancelled.
    #[cfg(test)]
    pub(crate) fn cancelled_images(&self) -> usize {
        self.shared.lock().queue.cancelled()
    }

    /// Returns the maximum number of images in the queue.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Checks that one more image could be queued now and would run before `deadline`. Reserves nothing, so
    /// that a request whose body arrives slowly keeps no place from others.
    ///
    /// An empty queue admits every deadline, so that a prediction which is too long is corrected by new
    /// measurements.
    ///
    /// # Errors
    /// [`BatchError::NoWorker`] if no worker is left, [`BatchError::QueueFull`] if no place is free,
    /// [`BatchError::DeadlineUnreachable`] if the images ahead are predicted to take too long.
    pub fn check(&self, deadline: Instant) -> Result<(), BatchError> {
        if let Some(reason) = self.watchdog.down() {
            return Err(BatchError::NoWorker { reason });
        }
        let places = &self.shared.places;
        let (used, capacity) = (places.used(), places.total());
        if used >= capacity {
            return Err(self.full(self.shared.drain().time(self.ahead())));
        }
        self.reachable(deadline, Instant::now()).map(drop)
    }

    /// Returns the number of images that run before an image which is queued now. Images that take long to decode
    /// do not delay others: they are overtaken.
    fn ahead(&self) -> u64 {
        let places = &self.shared.places;
        places.used().saturating_sub(self.shared.long_places.used())
    }

    /// Returns how long an image that is queued at `now` is predicted to wait, if it very likely runs before
    /// `deadline`.
    fn reachable(&self, deadline: Instant, now: Instant) -> Result<Duration, BatchError> {
        let ahead = self.ahead();
        let wait = self.shared.drain().time(ahead);
        let left = deadline.saturating_duration_since(now);
        let predicted = self.shared.margin().latest(wait);
        if ahead > 0 && predicted > left {
            return Err(BatchError::DeadlineUnreachable {
                predicted,
                left,
                wait,
            });
        }
        Ok(wait)
    }

    fn full(&self, retry_after: Duration) -> BatchError {
        BatchError::QueueFull {
            capacity: self.capacity,
            retry_after,
        }
    }

    /// Returns a permit for places in the queue that holds none yet.
    pub fn no_places(&self) -> Permit {
        self.shared.places.empty()
    }

    /// Grows the permit `places` to a total of `images` places in the queue.
    ///
    /// # Errors
    /// [`BatchError::QueueFull`] if too few places are free. `places` is unchanged in this case.
    pub fn reserve_more(&self, places: &mut Permit, images: usize) -> Result<(), BatchError> {
        let grown = places.grow_to(images as u64);
        grown.map_err(|exhausted| self.full(self.shared.drain().time(exhausted.used)))
    }

    /// Grows the permit `places` as [`Batcher::reserve_more`] does, if the images very likely run before `deadline`:
    /// other requests may have been queued since [`Batcher::check`]. The images of a request that holds places
    /// already are not checked. Returns the forecast for the request.
    ///
    /// # Errors
    /// Those of [`Batcher::reserve_more`], and [`BatchError::DeadlineUnreachable`].
    pub(crate) fn reserve_before(
        &self,
        places: &mut Permit,
        images: usize,
        deadline: Instant,
    ) -> Result<Forecast, BatchError> {
        let now = Instant::now();
        let wait = self.reachable(deadline, now)?;
        self.reserve_more(places, images)?;
        Ok(Forecast::new(&self.shared, wait, now, deadline))
    }

    /// Reserves places for the `images` images of a request that take long to decode, in addition to the places
    /// of [`Batcher::reserve_more`]. `retry_after` is the predicted time until the waiting images that take long
    /// have been decoded. A request with more of these images than places exist gets all places if none is taken.
    ///
    /// # Errors
    /// [`BatchError::LongQueueFull`] if too few places are free.
    pub fn reserve_long(&self, images: usize, retry_after: Duration) -> Result<Permit, BatchError> {
        let places = &self.shared.long_places;
        let capacity = places.total();
        let reserved = places.try_acquire((images as u64).min(capacity));
        reserved.map_err(|_| BatchError::LongQueueFull {
            capacity: capacity as usize,
            retry_after,
        })
    }

    /// Returns how much memory the tensors of this model need, in bytes.
    pub fn tensor_demand(&self) -> Demand {
        self.cost.demand()
    }

    /// Raises the memory budget for tensors to `bytes` bytes. Does nothing if the budget already
    /// has at least this size.
    pub fn raise_tensor_memory(&self, bytes: u64) {
        self.tensors.raise_to(bytes);
    }

    /// Raises the memory budget for tensors to what the model can use at most. Without that, only one image is in work at a
    /// time, unless a plan divides the memory among several models.
    pub fn use_all_tensor_memory(&self) {
        self.raise_tensor_memory(self.tensor_demand().want);
    }

    /// Lowers the memory budget for tensors to `bytes` bytes. Waits until the images in work hold no
    /// more, but not longer than until `end`.
    ///
    /// # Errors
    /// [`Exhausted`] if images in work still hold too much at `end`. The budget is unchanged in this
    /// case.
    pub async fn lower_tensor_memory(&self, bytes: u64, end: Instant) -> Result<(), Exhausted> {
        self.tensors.lower_to(bytes, end).await
    }

    /// Returns the turn of an image that costs `cost` to decode, on one of `threads` threads. `None` if it has to wait for
    /// it with [`Batcher::turn`]: only as many images as workers will soon need are decoded.
    pub fn try_turn(&self, cost: JobCost, threads: usize) -> Option<Turn> {
        self.shared.ahead.try_turn(cost, threads)
    }

    /// Waits for the turn of an image for which [`Batcher::try_turn`] has none.
    pub async fn turn(&self, cost: JobCost) -> Turn {
        self.shared.ahead.turn(cost).await
    }

    /// Reserves the memory of an input tensor `[3, H, W] f32` of `size` and of the output tensors
    /// that belong to it. Waits until other images of this model have released enough memory.
    /// Dropping the permit, after the outputs are postprocessed, releases the memory.
    ///
    /// The budget is in bytes, so that a queue of large images uses no more memory than a queue of
    /// small images.
    pub async fn reserve_tensor(&self, size: ImageSize) -> Permit {
        self.tensors.acquire(self.cost.bytes(size)).await
    }

    /// Queues `image` and returns the receiver of its reply. Dropping the receiver cancels the
    /// image: the next worker that accesses the queue removes the image and releases its slot.
    ///
    /// # Errors
    /// [`BatchError::Closed`] after [`Batcher::close`].
    pub fn submit(
        &self,
        image: PreparedImage,
        slot: Slot,
        deadline: Instant,
    ) -> Result<oneshot::Receiver<Result<Reply, BatchError>>, BatchError> {
        let (reply, receiver) = oneshot::channel();
        slot.progress.enter(Stage::queue);
        let entry = QueueEntry {
            image,
            waiting: slot.trace.begin(Stage::queue),
            slot,
            enqueued: Instant::now(),
            deadline,
            span: Span::current(),
            reply,
        };
        let mut state = self.shared.lock();
        if state.closed {
            return Err(BatchError::Closed);
        }
        state.queue.push(entry);
        drop(state);
        self.shared.changed.notify_one();
        Ok(receiver)
    }

    /// Records, for [`Batcher::check`], that one of `threads` image threads decoded and preprocessed an image in
    /// `time`. Images that take long to decode are not recorded, because they do not delay others.
    pub fn record_preparation(&self, time: Duration, threads: usize) {
        self.shared.drain().prepared(time, threads);
    }

    /// Rejects new images, and waits until the workers have finished the queued images and have ended. Does not wait for
    /// workers that are stuck. Images that no worker is left for fail with [`BatchError::Closed`].
    pub fn close(&mut self) {
        self.reject();
        finish(&self.shared, &self.watchdog);
    }

    fn reject(&self) {
        self.watchdog.retire();
        self.shared.lock().closed = true;
        self.shared.changed.notify_all();
        self.shared.closing.notify_all();
    }

    /// Makes the drop of this batcher return immediately: a thread of its own then waits until the workers have
    /// finished the queued images. A worker that is stuck is not waited for, and ends when its run returns.
    pub fn finish_in_background(&mut self) {
        self.finishes_in_background = true;
    }

    /// Moves the watchdog to a thread that waits for the workers.
    fn finish_on_a_thread(&mut self) {
        let (shared, watchdog) = (Arc::clone(&self.shared), self.watchdog.hand_over());
        let finishing = std::thread::Builder::new().name("retired-model".to_owned());
        let started = finishing.spawn(move || finish(&shared, &watchdog));
        if let Err(error) = started {
            // The workers still end when they have emptied the queue, but without a watchdog.
            tracing::error!(%error, "cannot start the thread that waits for the workers of a model");
        }
    }
}

/// Waits until all workers have left or are stuck, and fails the images that no worker has taken. The queue must be
/// closed.
fn finish(shared: &Shared, watchdog: &Watchdog) {
    watchdog.wait_for_workers();
    let left = shared.lock().queue.remove(|_| true);
    for entry in left {
        let _ = entry.reply.send(Err(BatchError::Closed));
    }
}

/// Starts the thread of the worker with the number `number` of the model `name`.
fn start_worker(
    shared: &Arc<Shared>,
    name: &str,
    number: usize,
    worker: Worker,
) -> std::io::Result<()> {
    let shared = Arc::clone(shared);
    let thread = std::thread::Builder::new().name(format!("{name}-{number}"));
    // The thread is not joined: `close` waits until its worker has left.
    thread.spawn(move || worker::run(&shared, worker)).map(drop)
}

impl Drop for Batcher {
    fn drop(&mut self) {
        if self.finishes_in_background {
            self.reject();
            self.finish_on_a_thread();
        } else {
            self.close();
        }
    }
}

#[cfg(test)]
pub(crate) use spare::Stock;

#[cfg(test)]
mod fault_tests;
#[cfg(test)]
mod tests;
