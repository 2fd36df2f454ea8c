//! The batching queue of one model and the workers that empty it.
//!
//! An image passes through the queue in three steps: [`Batcher::reserve`] reserves a place in the
//! queue before the request's body is read, [`Batcher::submit`] puts the preprocessed image into
//! the queue, and a worker sends a [`Reply`] or a [`BatchError`] through a oneshot channel. A free
//! worker immediately cuts a batch, that is, removes images of one size from the queue to run them
//! together. Batches therefore grow only while every worker is busy, unless `max_queue_delay_us`
//! makes workers wait for fuller batches.
//!
//! What is *not* here: decoding, the meaning of model outputs, and HTTP.

mod queue;
mod worker;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::sync::oneshot;
use tracing::Span;

pub use queue::Policy;

use crate::budget::{Budget, Permit};
use crate::engine::{Engine, EngineError, Outputs};
use crate::image::{ImageSize, PreparedImage};
use crate::metrics::BatchMetrics;
use queue::Queue;

/// Unit of the memory budget for tensors, in bytes: reservations are rounded up to a multiple of
/// it.
const TENSOR_UNIT: u64 = 64 << 10;
/// Memory for the tensors of one model, in bytes: of images that are preprocessed, wait in the
/// queue or run, and of outputs that are not yet postprocessed.
const TENSOR_BYTES: u64 = 256 << 20;

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
    /// Memory permit of the image's tensor, to be held until the outputs are dropped.
    pub memory: Permit,
}

/// Why inference of an image failed.
#[derive(Debug, Clone, Error)]
pub enum BatchError {
    /// The queue has too few free places.
    #[error("the queue is full ({capacity} images); retry after {} ms", .retry_after.as_millis())]
    QueueFull {
        /// Maximum number of images in the queue.
        capacity: usize,
        /// Expected time until a full queue is empty, at the speed measured so far.
        retry_after: Duration,
    },
    /// The request's deadline passed before a worker ran the image.
    #[error("the deadline passed while the image was waiting for a worker")]
    DeadlinePassed,
    /// The queue was closed before the image was submitted.
    #[error("the queue is closed: the server is shutting down")]
    Closed,
    /// The engine returned an error for the batch.
    #[error(transparent)]
    Engine(#[from] Arc<EngineError>),
    /// The engine returned outputs for fewer or more images than there are in the batch.
    #[error("the engine returned outputs for {got} images, but the batch has {expected} images")]
    OutputCount {
        /// Number of images in the batch.
        expected: usize,
        /// Number of images that the engine returned outputs for.
        got: usize,
    },
    /// The engine panicked while it ran the batch. The worker thread continues with the next batch.
    #[error("inference panicked; see the server's log")]
    Panicked,
    /// The worker dropped the image without a result, which is a bug.
    #[error("the inference worker stopped without a result; see the server's log")]
    NoReply,
}

/// The permits that one image holds: a place in the queue, and memory for its tensors.
#[derive(Debug)]
pub struct Slot {
    /// Permit of one queue place, from [`Batcher::reserve`]; released when a worker takes the
    /// image.
    pub place: Permit,
    /// Permit of the tensor memory, from [`Batcher::reserve_tensor`]; passed on in
    /// [`Reply::memory`].
    pub memory: Permit,
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
    reply: oneshot::Sender<Result<Reply, BatchError>>,
}

struct State {
    queue: Queue,
    closed: bool,
}

/// State that is shared by the worker threads and by the requests that submit images.
struct Shared {
    state: Mutex<State>,
    /// Signalled when an image arrives and when the queue closes.
    changed: Condvar,
    metrics: BatchMetrics,
    /// Moving average of a batch's run time divided by its number of images, in nanoseconds; 0
    /// before the first successful run.
    nanos_per_image: AtomicU64,
    /// Moving average of an image's preparation time (decoding and preprocessing) divided by the
    /// number of threads that prepare images, in nanoseconds; 0 before the first prepared image.
    preparation_nanos: AtomicU64,
}

impl Shared {
    /// Locks the state, even if a thread panicked while it held the lock. The state is consistent
    /// then, because engines run outside the lock.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The queue of one model and its workers.
pub struct Batcher {
    shared: Arc<Shared>,
    /// Budget of queue places. A place is reserved before its image is received and decoded.
    places: Budget,
    tensors: Budget,
    capacity: usize,
    workers: Vec<JoinHandle<()>>,
}

impl Batcher {
    /// Starts one worker thread per engine and a queue of at most `capacity` images.
    ///
    /// # Errors
    /// The operating system's error if a thread cannot be started.
    pub fn start(
        name: &str,
        engines: Vec<Box<dyn Engine>>,
        policy: Policy,
        capacity: usize,
        metrics: BatchMetrics,
    ) -> std::io::Result<Self> {
        let tensors = Budget::new("tensors", TENSOR_UNIT, TENSOR_BYTES);
        metrics.budgets.add(&tensors);
        let state = State {
            queue: Queue::new(policy),
            closed: false,
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            changed: Condvar::new(),
            metrics,
            nanos_per_image: AtomicU64::new(0),
            preparation_nanos: AtomicU64::new(0),
        });
        let mut workers = Vec::new();
        for (index, engine) in engines.into_iter().enumerate() {
            let shared = Arc::clone(&shared);
            let thread = std::thread::Builder::new().name(format!("{name}-{index}"));
            workers.push(thread.spawn(move || worker::run(&shared, engine))?);
        }
        Ok(Self {
            shared,
            places: Budget::new("queue", 1, capacity as u64),
            tensors,
            capacity,
            workers,
        })
    }

    /// Returns the maximum number of images in the queue.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Reserves places in the queue for `images` images.
    ///
    /// # Errors
    /// [`BatchError::QueueFull`] if fewer than `images` places are free.
    pub fn reserve(&self, images: usize) -> Result<Permit, BatchError> {
        let mut places = self.places.empty();
        self.reserve_more(&mut places, images)?;
        Ok(places)
    }

    /// Grows the permit `places` to a total of `images` places in the queue.
    ///
    /// # Errors
    /// [`BatchError::QueueFull`] if too few places are free. `places` is unchanged in this case.
    pub fn reserve_more(&self, places: &mut Permit, images: usize) -> Result<(), BatchError> {
        places
            .grow_to(images as u64)
            .map_err(|_| BatchError::QueueFull {
                capacity: self.capacity,
                retry_after: self.expected_wait(),
            })
    }

    /// Reserves the memory of a tensor `[3, H, W] f32` for an image of `size`. Waits until other
    /// images of this model have released enough memory.
    ///
    /// The budget is in bytes, so that a queue of large images uses no more memory than a queue of
    /// small images.
    pub async fn reserve_tensor(&self, size: ImageSize) -> Permit {
        let bytes = size.pixels().saturating_mul(3 * size_of::<f32>() as u64);
        self.tensors.acquire(bytes).await
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
        let entry = QueueEntry {
            image,
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
        self.shared.metrics.queue_depth.inc();
        drop(state);
        self.shared.changed.notify_one();
        Ok(receiver)
    }

    /// Records, for [`BatchError::QueueFull`], that one of `threads` image threads decoded and
    /// preprocessed an image in `time`.
    pub fn record_preparation(&self, time: Duration, threads: usize) {
        let threads = u32::try_from(threads.max(1)).unwrap_or(u32::MAX);
        average(&self.shared.preparation_nanos, time / threads);
    }

    /// Returns the expected time until a full queue is empty, at the speed measured so far.
    /// Preparation and inference share the CPU cores, so their times per image are added.
    fn expected_wait(&self) -> Duration {
        let run = self.shared.nanos_per_image.load(Ordering::Relaxed);
        let workers = self.workers.len().max(1) as u64;
        let preparation = self.shared.preparation_nanos.load(Ordering::Relaxed);
        let per_image = (run / workers).saturating_add(preparation);
        Duration::from_nanos(per_image.saturating_mul(self.capacity as u64))
    }

    /// Rejects new images, waits until the workers have finished the queued images, and joins the workers.
    pub fn close(&mut self) {
        self.shared.lock().closed = true;
        self.shared.changed.notify_all();
        for worker in self.workers.drain(..) {
            // The error of `join` is ignored: a worker catches and reports the panics of its engine
            // itself.
            let _ = worker.join();
        }
    }
}

/// Adds `new` to `average`, a moving average in nanoseconds over about the last eight values. An
/// `average` of 0 has no values yet and is set to `new`.
fn average(average: &AtomicU64, new: Duration) {
    let new = u64::try_from(new.as_nanos()).unwrap_or(u64::MAX);
    let old = average.load(Ordering::Relaxed);
    let updated = if old == 0 {
        new
    } else {
        old - old / 8 + new / 8
    };
    average.store(updated, Ordering::Relaxed);
}

impl Drop for Batcher {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
mod tests;
