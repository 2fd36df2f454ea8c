//! A worker: a thread that owns one engine, takes batches from the queue and runs each with a time limit.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tracing::Span;

use super::queue::Next;
use super::{BatchError, QueueEntry, Reply, Shared, WatchedEngine};
use crate::budget::Permit;
use crate::engine::{EngineError, Outputs};
use crate::image::PreparedImage;
use crate::metrics::{Cut, Stage};
use crate::telemetry::StageSpan;

/// Time from the latest deadline of a batch's images until the run is stopped. All requests have failed by then. The
/// margin lets slightly late runs finish, so that only runaway runs are stopped.
const STOP_MARGIN: Duration = Duration::from_secs(1);

/// Runs batches on `engine` until the queue is closed and empty.
pub(super) fn run(shared: &Shared, mut engine: WatchedEngine) {
    while let Some((batch, cut)) = next_batch(shared) {
        shared.metrics.batch(batch.len(), cut);
        process(shared, &mut engine, batch);
    }
}

/// Waits until a batch is due; returns its images and the reason why it was cut. Returns `None`
/// once the queue is closed and empty.
fn next_batch(shared: &Shared) -> Option<(Vec<QueueEntry>, Cut)> {
    let mut state = shared.lock();
    loop {
        let now = Instant::now();
        let dead = |entry: &QueueEntry| entry.deadline <= now || entry.reply.is_closed();
        expire(state.queue.remove(dead));
        match state.queue.next(now) {
            Next::Batch(batch, cut) => {
                if !state.queue.is_empty() {
                    // Each image wakes one worker. The image that woke this worker may still be in
                    // the queue, so another worker is woken for it.
                    shared.changed.notify_one();
                }
                return Some((batch, cut));
            }
            Next::Empty if state.closed => return None,
            Next::Empty => {
                state = shared
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            Next::Wait(due) => {
                let waited = shared
                    .changed
                    .wait_timeout(state, due.saturating_duration_since(now));
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
        }
    }
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

/// Runs one batch and sends each image's result to its client.
fn process(shared: &Shared, engine: &mut WatchedEngine, batch: Vec<QueueEntry>) {
    let started = Instant::now();
    let latest = batch.iter().map(|entry| entry.deadline).max();
    let limit = latest.unwrap_or(started) + STOP_MARGIN;
    let (images, clients) = separate(shared, batch, started);
    let count = clients.len();
    // A log line has one span, so the engine's log lines get the span of the oldest request of the
    // batch.
    let span = clients.first().map_or_else(Span::none, |c| c.span.clone());
    // Unwind safe, because only this thread uses the engine: no other thread can see a state that a
    // panic left incomplete.
    let run = AssertUnwindSafe(|| span.in_scope(|| engine.run(images, limit)));
    let result = catch_unwind(run);
    let inference = started.elapsed();
    let error = match result {
        Ok(Ok(outputs)) if outputs.len() == count => {
            let waiting = shared.places.used();
            shared
                .drain()
                .ran(count, inference, Instant::now(), waiting);
            for (client, outputs) in clients.into_iter().zip(outputs) {
                client.send(Ok(outputs), inference);
            }
            return;
        }
        Ok(Ok(outputs)) => BatchError::OutputCount {
            expected: count,
            got: outputs.len(),
        },
        Ok(Err(EngineError::Stopped)) => BatchError::DeadlinePassed,
        Ok(Err(error)) => BatchError::Engine(Arc::new(error)),
        Err(_) => BatchError::Panicked,
    };
    // Failed runs may end early, and would make the predicted wait too short.
    shared.drain().interrupted();
    for client in clients {
        client.send(Err(error.clone()), inference);
    }
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
