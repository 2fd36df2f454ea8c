//! A worker: a thread that owns one engine, takes batches from the queue and runs each with a time limit.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tracing::Span;

use super::seat::{Seat, WatchedEngines};
use super::seats::Standing;
use super::{BatchError, QueueEntry, Reply, Shared, rebuild};
use crate::budget::Permit;
use crate::cores::Lease;
use crate::engine::{EngineError, Outputs};
use crate::image::PreparedImage;
use crate::metrics::{Cut, Stage, WorkerFailure};
use crate::telemetry::StageSpan;

/// Time from the latest deadline of a batch's images until the run is stopped. All requests have failed by then. The
/// margin lets slightly late runs finish, so that only runaway runs are stopped.
const STOP_MARGIN: Duration = Duration::from_secs(1);

/// What a worker does next.
pub(super) enum Worker {
    /// It takes batches.
    Sound(WatchedEngines),
    /// A run of its engine was stopped or failed: a test run decides whether the engine is used again.
    Suspect(WatchedEngines),
    /// It has no engine: a new one is created.
    Broken(Seat),
}

/// Runs batches until the queue is closed and empty, or until another worker has taken the place of this one because a
/// run did not return.
pub(super) fn run(shared: &Shared, worker: Worker) {
    let mut next = Some(worker);
    while let Some(worker) = next {
        next = match worker {
            Worker::Sound(engine) => serve(shared, engine),
            Worker::Suspect(engine) => rebuild::test(shared, engine),
            Worker::Broken(seat) => rebuild::rebuild(shared, seat),
        };
    }
}

/// Runs batches on `engines` until one of them fails. Returns `None` if the thread has nothing more to do.
fn serve(shared: &Shared, mut engines: WatchedEngines) -> Option<Worker> {
    let widths = engines.seat().widths();
    let mut last = None;
    loop {
        let (lease, batch, cut) = next_batch(shared, &widths, last)?;
        shared.metrics.batch(batch.len(), cut);
        let failure = process(shared, &mut engines, batch, lease.width());
        match (engines.seat().standing(), failure) {
            (Standing::Abandoned, _) => return None,
            // An engine that panicked is not used again, whatever else happened to its run.
            (_, Some(WorkerFailure::panic)) => return Some(Worker::Broken(engines.dismantle())),
            (Standing::Sound, _) => {}
            (Standing::Broken | Standing::Withdrawn, _) => return Some(Worker::Suspect(engines)),
        }
        last = Some(lease);
    }
}

/// Waits until it is the turn of a worker with engines of the thread counts `widths`. Returns the lease on its cores,
/// the images of its batch and the reason why the batch was cut. Returns `None` once the queue is closed and empty.
/// `last` is the lease of the worker's last batch.
fn next_batch(
    shared: &Shared,
    widths: &[usize],
    mut last: Option<Lease>,
) -> Option<(Lease, Vec<QueueEntry>, Cut)> {
    loop {
        let state = shared.lock();
        if state.closed && state.queue.is_empty() {
            return None;
        }
        // Under the lock, so that the end of the queue, which recalls the idle workers, does not miss this one.
        let turn = shared.lane.offer(widths);
        drop(state);
        // The cores are freed after the offer, so that this worker can get them again without another thread.
        match last.take() {
            Some(lease) => drop(lease),
            None => shared.lane.dispatch(),
        }
        let Ok(mut lease) = turn.recv() else {
            continue;
        };
        if let Some((batch, cut)) = cut(shared, &mut lease) {
            return Some((lease, batch, cut));
        }
    }
}

/// Removes the images of the next batch from the queue. `None` if no batch is due any more.
fn cut(shared: &Shared, lease: &mut Lease) -> Option<(Vec<QueueEntry>, Cut)> {
    let now = Instant::now();
    let mut state = shared.lock();
    let dead = |entry: &QueueEntry| entry.deadline <= now || entry.reply.is_closed();
    let dead = state.queue.remove(dead);
    let batch = state.queue.next(now);
    // Under the lock, so that demands are stated in the order of the changes of the queue.
    let demand = shared.demand(&state, now);
    lease.claim(demand);
    if state.closed && state.queue.is_empty() {
        shared.lane.recall();
    }
    drop(state);
    expire(dead);
    if demand.is_some() {
        shared.lane.dispatch();
    }
    batch
}

/// Sends [`BatchError::DeadlinePassed`] to the requests of expired entries. Cancelled entries have
/// no receiver any more, so sending to them has no effect.
fn expire(dead: Vec<QueueEntry>) {
    for entry in dead {
        let _ = entry.reply.send(Err(BatchError::DeadlinePassed));
    }
}

/// The request that waits for the result of one image of a running batch.
struct Client {
    reply: oneshot::Sender<Result<Reply, BatchError>>,
    span: Span,
    /// Span of the stage `inference`.
    running: StageSpan,
    queue: Duration,
    memory: Permit,
}

impl Client {
    fn send(self, outputs: Result<Outputs, BatchError>, inference: Duration) {
        let Self {
            reply,
            span,
            running,
            queue,
            memory,
        } = self;
        if outputs.is_ok() {
            running.end();
        } else {
            drop(running);
        }
        tracing::debug!(
            parent: &span,
            queue_us = queue.as_micros() as u64,
            inference_us = inference.as_micros() as u64,
            failed = outputs.is_err(),
            "inference finished"
        );
        // Sending fails if the client disconnected while the batch ran. Then the result is not
        // needed.
        let _ = reply.send(outputs.map(|outputs| Reply {
            outputs,
            queue,
            inference,
            memory,
        }));
    }
}

/// Runs one batch on `width` cores and sends each image's result to its client. Returns how the engine failed; `None` if it succeeded or
/// was stopped.
fn process(
    shared: &Shared,
    engines: &mut WatchedEngines,
    batch: Vec<QueueEntry>,
    width: usize,
) -> Option<WorkerFailure> {
    let started = Instant::now();
    let latest = batch.iter().map(|entry| entry.deadline).max();
    let limit = engines.limit(latest.unwrap_or(started) + STOP_MARGIN);
    let (images, clients) = separate(shared, batch, started);
    let count = clients.len();
    // A log line has one span, so the engine's log lines get the span of the oldest request of the
    // batch.
    let span = clients.first().map_or_else(Span::none, |c| c.span.clone());
    let result = span.in_scope(|| engines.run(width, images, limit));
    let inference = started.elapsed();
    let (error, failure) = match result {
        Ok(outputs) if outputs.len() == count => {
            let waiting = shared.places.used();
            // Under load, batches run on one core each, and predictions are about load.
            let alone = inference.mul_f64(shared.scaling.speedup(width));
            shared.drain().ran(count, alone, Instant::now(), waiting);
            for (client, outputs) in clients.into_iter().zip(outputs) {
                client.send(Ok(outputs), inference);
            }
            return None;
        }
        Ok(outputs) => failed(BatchError::OutputCount {
            expected: count,
            got: outputs.len(),
        }),
        Err(EngineError::Stopped) => (BatchError::DeadlinePassed, None),
        Err(EngineError::Panicked) => (BatchError::Panicked, Some(WorkerFailure::panic)),
        Err(error) => failed(BatchError::Engine(Arc::new(error))),
    };
    // Failed runs may end early, and would make the predicted wait too short.
    shared.drain().interrupted();
    // Before the clients know, so that they find it in the metrics.
    if let Some(failure) = failure {
        shared.metrics.failed(failure);
        engines.seat().fail(false);
    }
    for client in clients {
        client.send(Err(error.clone()), inference);
    }
    failure
}

/// Returns `error`, with the kind of the failure for the metric.
fn failed(error: BatchError) -> (BatchError, Option<WorkerFailure>) {
    (error, Some(WorkerFailure::error))
}

/// Splits the entries of a batch into the engine's input images and the clients that wait for the
/// results. Releases the queue places of the images.
fn separate(
    shared: &Shared,
    batch: Vec<QueueEntry>,
    started: Instant,
) -> (Vec<PreparedImage>, Vec<Client>) {
    let images = batch.len();
    let split = |entry: QueueEntry| {
        entry.waiting.end();
        let mut running = entry.slot.trace.begin(Stage::inference);
        running.set_batch_size(images);
        let (size, content) = (entry.image.size.pixels(), entry.image.content.pixels());
        shared.metrics.tensor(size, content);
        entry.slot.progress.enter(Stage::inference);
        let client = Client {
            reply: entry.reply,
            span: entry.span,
            running,
            queue: started.saturating_duration_since(entry.enqueued),
            memory: entry.slot.memory,
        };
        (entry.image, client)
    };
    batch.into_iter().map(split).unzip()
}
