//! The batching queue of one model and the workers that empty it.
//!
//! An image passes through in three steps: [`Batcher::reserve`] takes a place in the queue before anything
//! is read, [`Batcher::submit`] puts the prepared image into it, and a worker sends a [`Reply`] or a
//! [`BatchError`] through a oneshot channel. A batch is cut the moment a worker is free, so batches grow
//! only while every worker is busy; `max_queue_delay_us` makes workers wait for fuller batches.
//!
//! What is *not* here: decoding, what outputs mean, and HTTP.

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

/// Unit of the budget for tensors, in bytes.
const TENSOR_UNIT: u64 = 64 << 10;
/// Memory for the tensors of one model that are being prepared, wait, or hold outputs, in bytes.
const TENSOR_BYTES: u64 = 256 << 20;

/// The result of inference for one image.
#[derive(Debug)]
pub struct Reply {
    /// The network's outputs, without the batch axis.
    pub outputs: Outputs,
    /// Time from submission to the start of the run.
    pub queue: Duration,
    /// Time of the run, which all images of the batch share.
    pub inference: Duration,
    /// Memory reserved for the input tensor; it covers the outputs until they are dropped.
    pub memory: Permit,
}

/// Why inference of an image failed.
#[derive(Debug, Clone, Error)]
pub enum BatchError {
    /// The queue is full.
    #[error("the queue is full ({capacity} images); retry after {} ms", .retry_after.as_millis())]
    QueueFull {
        /// Images that the queue holds.
        capacity: usize,
        /// Time in which a full queue empties, at the speed measured so far.
        retry_after: Duration,
    },
    /// The deadline passed before a worker was free.
    #[error("the deadline passed while the image was waiting for a worker")]
    DeadlinePassed,
    /// The queue was closed before the image was submitted.
    #[error("the queue is closed: the server is shutting down")]
    Closed,
    /// The engine returned an error for the batch.
    #[error(transparent)]
    Engine(#[from] Arc<EngineError>),
    /// The engine returned outputs for fewer or more images than the batch has.
    #[error(
        "wrong number of outputs from the engine: expected {expected}, one per image, got {got}"
    )]
    OutputCount {
        /// Images in the batch.
        expected: usize,
        /// Images that the engine returned outputs for.
        got: usize,
    },
    /// The engine panicked on the batch; its worker continues.
    #[error("inference panicked; see the server's log")]
    Panicked,
    /// The worker dropped the image without a result, which is a bug.
    #[error("the inference worker stopped without a result; see the server's log")]
    NoReply,
}

/// What one image reserves: a place in the queue, and memory for its tensors.
#[derive(Debug)]
pub struct Slot {
    /// One place, from [`Batcher::reserve`]; returned when a worker takes the image.
    pub place: Permit,
    /// Memory, from [`Batcher::reserve_tensor`]; returned when the outputs are dropped.
    pub memory: Permit,
}

/// An image that waits for a worker. Dropping the receiver of `reply` cancels it.
#[derive(Debug)]
struct QueueEntry {
    image: PreparedImage,
    slot: Slot,
    enqueued: Instant,
    deadline: Instant,
    /// Span of the request, which the worker's log lines belong to.
    span: Span,
    reply: oneshot::Sender<Result<Reply, BatchError>>,
}

struct State {
    queue: Queue,
    closed: bool,
}

/// State that submitters and workers share.
struct Shared {
    state: Mutex<State>,
    /// Signalled when an image arrives and when the queue closes.
    changed: Condvar,
    metrics: BatchMetrics,
    /// Moving average of the run time per image, in nanoseconds; 0 before the first successful run.
    nanos_per_image: AtomicU64,
    /// Moving average of the time from one prepared image to the next if all threads prepare images, in
    /// nanoseconds; 0 before the first image.
    preparation_nanos: AtomicU64,
}

impl Shared {
    /// Workers run engines outside the lock, so a poisoned state is still consistent.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The queue of one model and its workers.
pub struct Batcher {
    shared: Arc<Shared>,
    /// Places in the queue, including those of images that are still being received and decoded.
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

    /// Returns the largest number of images in the queue.
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

    /// Grows `places` to `images` places in all.
    ///
    /// # Errors
    /// [`BatchError::QueueFull`] if too few places are free; `places` is unchanged then.
    pub fn reserve_more(&self, places: &mut Permit, images: usize) -> Result<(), BatchError> {
        places
            .grow_to(images as u64)
            .map_err(|_| BatchError::QueueFull {
                capacity: self.capacity,
                retry_after: self.expected_wait(),
            })
    }

    /// Waits for the memory of a tensor `[3, H, W] f32` of `size`, so that a queue of large images takes no
    /// more memory than one of small images. Memory returns as workers run and responses are made.
    pub async fn reserve_tensor(&self, size: ImageSize) -> Permit {
        let bytes = size.pixels().saturating_mul(3 * size_of::<f32>() as u64);
        self.tensors.acquire(bytes).await
    }

    /// Queues `image` and returns the receiver of its reply. Dropping the receiver cancels the image: it
    /// leaves the queue, and its slot is returned, when a worker next looks at the queue.
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

    /// Records that one of `threads` threads decoded and preprocessed an image in `time`.
    pub fn record_preparation(&self, time: Duration, threads: usize) {
        let threads = u32::try_from(threads.max(1)).unwrap_or(u32::MAX);
        average(&self.shared.preparation_nanos, time / threads);
    }

    /// Returns the time in which a full queue empties, at the speed measured so far. Preparation and inference
    /// share the cores, so their times add up.
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
            // A worker catches its engine's panics, so a failed join carries no information.
            let _ = worker.join();
        }
    }
}

/// Updates a moving average, in nanoseconds, over about the last eight values. 0 stands for no value yet.
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
