//! The batching queue of one model: admission, a bounded queue, and the workers that empty it.
//!
//! Work-conserving: a batch is cut the moment a worker is free, so batches grow only while every
//! worker is busy. `max_queue_delay_us` is the exception that a deployment may ask for. What is
//! *not* here: pictures (the payload is opaque) and HTTP.

mod queue;
mod worker;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::sync::oneshot;

pub use queue::Policy;

use crate::budget::{Budget, Permit};
use crate::engine::{Engine, EngineError, Tensor};
use crate::image::{ImageSize, PreparedImage};
use crate::metrics::BatchMetrics;
use queue::{Pending, Queue};

/// What a worker answers for one picture.
#[derive(Debug)]
pub struct Inference {
    /// The network's outputs, without the batch axis.
    pub outputs: Vec<Tensor>,
    /// Time between submission and the start of the run.
    pub queue: Duration,
    /// Time of the run, which the whole batch shared.
    pub inference: Duration,
    /// The memory that was kept for the picture's tensor; it stands for the outputs' from now on.
    pub memory: Option<Permit>,
}

/// A picture that was not run.
#[derive(Debug, Error)]
pub enum BatchError {
    /// The queue has no room.
    #[error("the queue is full ({capacity} pictures)")]
    QueueFull {
        /// Pictures that it holds.
        capacity: usize,
        /// When room is likely, from the measured speed.
        retry_after: Duration,
    },
    /// The deadline passed before a worker was free.
    #[error("the deadline passed while the picture was waiting")]
    DeadlinePassed,
    /// The model is being unloaded.
    #[error("the model is shutting down")]
    Closed,
    /// The network failed.
    #[error(transparent)]
    Engine(#[from] Arc<EngineError>),
    /// The network panicked; the worker goes on.
    #[error("the worker panicked")]
    Panicked,
}

/// Unit of the budget for tensors, in bytes.
const TENSOR_UNIT: u64 = 64 << 10;
/// Memory for the tensors of one model that are being prepared, wait, or hold outputs, in bytes.
const TENSOR_BYTES: u64 = 256 << 20;

/// Room in the queue for some pictures, taken before they are decoded.
#[derive(Debug)]
pub struct Reservation {
    places: Permit,
    memory: Option<Permit>,
}

impl Reservation {
    /// Splits off the room of one picture; none is left after as many as were reserved.
    pub fn split_one(&mut self) -> Option<Self> {
        let places = self.places.split(1)?;
        Some(Self {
            places,
            memory: None,
        })
    }

    /// Keeps the memory of a picture's tensor, until the outputs that come of it are dropped.
    pub fn hold(&mut self, memory: Permit) {
        self.memory = Some(memory);
    }
}

/// A picture and where its answer goes. The receiver is dropped when the client has gone.
struct Job {
    picture: PreparedImage,
    reply: oneshot::Sender<Result<Inference, BatchError>>,
    /// Its place in the queue is given back when a worker takes the picture.
    room: Reservation,
}

struct State {
    queue: Queue<Job>,
    closed: bool,
}

/// What submitters and workers share.
struct Shared {
    state: Mutex<State>,
    /// Signalled when a picture arrives and when the queue closes.
    changed: Condvar,
    metrics: BatchMetrics,
    /// Moving average of the run time per picture, in nanoseconds; 0 before the first run.
    nanos_per_picture: AtomicU64,
}

impl Shared {
    /// A worker panics outside the lock only, so a poisoned state is still consistent.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The queue of one model and its workers.
pub struct Batcher {
    shared: Arc<Shared>,
    /// Places in the queue, those of images that are still being decoded included.
    places: Budget,
    /// Memory of tensors. A permit is taken for the input of an image and returned with its outputs.
    tensors: Budget,
    capacity: usize,
    workers: Vec<JoinHandle<()>>,
}

impl Batcher {
    /// Starts one worker thread per engine; at most `capacity` pictures wait.
    ///
    /// # Errors
    /// The operating system's, if a thread cannot be started.
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
            nanos_per_picture: AtomicU64::new(0),
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

    /// Pictures that may wait at once.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Takes room for `pictures` pictures, or says when to come back.
    ///
    /// # Errors
    /// [`BatchError::QueueFull`].
    pub fn reserve(&self, pictures: usize) -> Result<Reservation, BatchError> {
        match self.places.try_acquire(pictures as u64) {
            Ok(places) => Ok(Reservation {
                places,
                memory: None,
            }),
            Err(_) => Err(BatchError::QueueFull {
                capacity: self.capacity,
                retry_after: self.expected_wait(),
            }),
        }
    }

    /// Waits for the memory of a tensor `[3, H, W] f32` of `size`, so that a queue of large images takes no
    /// more memory than one of small images. Memory returns as workers run and responses are made.
    pub async fn tensor_room(&self, size: ImageSize) -> Permit {
        let bytes = size.pixels().saturating_mul(3 * size_of::<f32>() as u64);
        self.tensors.acquire(bytes).await
    }

    /// Queues one picture, whose room was reserved; its answer comes through the receiver.
    ///
    /// # Errors
    /// [`BatchError::Closed`] after [`Batcher::close`].
    pub fn submit(
        &self,
        room: Reservation,
        picture: PreparedImage,
        deadline: Instant,
    ) -> Result<oneshot::Receiver<Result<Inference, BatchError>>, BatchError> {
        let (reply, receiver) = oneshot::channel();
        let size: ImageSize = picture.size;
        let job = Job {
            picture,
            reply,
            room,
        };
        let pending = Pending {
            payload: job,
            size,
            enqueued: Instant::now(),
            deadline,
        };
        let mut state = self.shared.lock();
        if state.closed {
            return Err(BatchError::Closed);
        }
        state.queue.push(pending);
        self.shared.metrics.queue_depth.inc();
        drop(state);
        self.shared.changed.notify_one();
        Ok(receiver)
    }

    /// Time that a full queue takes to empty, at the speed measured so far.
    fn expected_wait(&self) -> Duration {
        let nanos = self.shared.nanos_per_picture.load(Ordering::Relaxed);
        let workers = self.workers.len().max(1) as u64;
        Duration::from_nanos(nanos.saturating_mul(self.capacity as u64) / workers)
    }

    /// Refuses new pictures, lets the workers finish what waits, and joins them.
    pub fn close(&mut self) {
        self.shared.lock().closed = true;
        self.shared.changed.notify_all();
        for worker in self.workers.drain(..) {
            // A worker catches its engine's panics; a failed join has nothing left to tell.
            let _ = worker.join();
        }
    }
}

impl Drop for Batcher {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
mod tests;
