//! One worker: an operating system thread that owns one engine and empties the queue.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tracing::Span;

use super::queue::Next;
use super::{BatchError, QueueEntry, Reply, Shared, average};
use crate::budget::Permit;
use crate::engine::{Engine, Outputs};
use crate::image::PreparedImage;
use crate::metrics::Cut;

/// Runs batches until the queue is closed and empty.
pub(super) fn run(shared: &Shared, mut engine: Box<dyn Engine>) {
    while let Some((batch, cut)) = next_batch(shared) {
        shared.metrics.batch(batch.len(), cut);
        process(shared, engine.as_mut(), batch);
    }
}

/// Sleeps until a batch is due. Returns `None` once the queue is closed and empty.
fn next_batch(shared: &Shared) -> Option<(Vec<QueueEntry>, Cut)> {
    let mut state = shared.lock();
    loop {
        let now = Instant::now();
        let dead = |entry: &QueueEntry| entry.deadline <= now || entry.reply.is_closed();
        expire(shared, state.queue.remove(dead));
        match state.queue.next(now) {
            Next::Batch(batch, cut) => {
                shared.metrics.queue_depth.dec_by(batch.len() as i64);
                if !state.queue.is_empty() {
                    // This worker may have consumed the signal of an image that it leaves waiting.
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

/// Fails expired entries; the reply to a cancelled entry has no receiver and is dropped.
fn expire(shared: &Shared, dead: Vec<QueueEntry>) {
    for entry in dead {
        shared.metrics.queue_depth.dec();
        let _ = entry.reply.send(Err(BatchError::DeadlinePassed));
    }
}

/// Where the result of one image of a running batch goes.
struct Client {
    reply: oneshot::Sender<Result<Reply, BatchError>>,
    span: Span,
    queue: Duration,
    memory: Permit,
}

impl Client {
    fn send(self, outputs: Result<Outputs, BatchError>, inference: Duration) {
        let Self {
            reply,
            span,
            queue,
            memory,
        } = self;
        tracing::debug!(
            parent: &span,
            queue_us = queue.as_micros() as u64,
            inference_us = inference.as_micros() as u64,
            failed = outputs.is_err(),
            "inference finished"
        );
        // The client may have gone while the batch ran.
        let _ = reply.send(outputs.map(|outputs| Reply {
            outputs,
            queue,
            inference,
            memory,
        }));
    }
}

/// Runs one batch and sends the results.
fn process(shared: &Shared, engine: &mut dyn Engine, batch: Vec<QueueEntry>) {
    let started = Instant::now();
    let (images, clients) = separate(shared, batch, started);
    let count = clients.len();
    // Log lines of the engine belong to the oldest request of the batch.
    let span = clients.first().map_or_else(Span::none, |c| c.span.clone());
    // The exclusive borrow of the engine ends with the call, so a panic leaves nothing half-shared.
    let run = AssertUnwindSafe(|| span.in_scope(|| engine.run(images)));
    let result = catch_unwind(run);
    let inference = started.elapsed();
    let error = match result {
        Ok(Ok(outputs)) if outputs.len() == count => {
            // Failed batches do not count: they end early and would make `Retry-After` too short.
            average(&shared.nanos_per_image, inference / count.max(1) as u32);
            for (client, outputs) in clients.into_iter().zip(outputs) {
                client.send(Ok(outputs), inference);
            }
            return;
        }
        Ok(Ok(outputs)) => BatchError::OutputCount {
            expected: count,
            got: outputs.len(),
        },
        Ok(Err(error)) => BatchError::Engine(Arc::new(error)),
        Err(_) => BatchError::Panicked,
    };
    for client in clients {
        client.send(Err(error.clone()), inference);
    }
}

/// Splits entries into the engine's input and the clients that wait. Places in the queue return here.
fn separate(
    shared: &Shared,
    batch: Vec<QueueEntry>,
    started: Instant,
) -> (Vec<PreparedImage>, Vec<Client>) {
    let split = |entry: QueueEntry| {
        let (size, content) = (entry.image.size.pixels(), entry.image.content.pixels());
        shared.metrics.tensor(size, content);
        let client = Client {
            reply: entry.reply,
            span: entry.span,
            queue: started.saturating_duration_since(entry.enqueued),
            memory: entry.slot.memory,
        };
        (entry.image, client)
    };
    batch.into_iter().map(split).unzip()
}
