//! One worker: an operating system thread that owns one engine and empties the queue.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::queue::{Next, Pending};
use super::{BatchError, Inference, Job, Shared};
use crate::engine::{Engine, Tensor};
use crate::metrics::Cut;

/// Serves batches until the queue is closed and empty.
pub(super) fn run(shared: &Shared, mut engine: Box<dyn Engine>) {
    while let Some((batch, cut)) = next_batch(shared) {
        shared.metrics.batch(batch.len(), cut);
        answer(shared, engine.as_mut(), batch);
    }
}

/// Sleeps until a batch is due; none once the queue is closed and empty.
fn next_batch(shared: &Shared) -> Option<(Vec<Pending<Job>>, Cut)> {
    let mut state = shared.lock();
    loop {
        let now = Instant::now();
        let dead =
            |pending: &Pending<Job>| pending.deadline <= now || pending.payload.reply.is_closed();
        dismiss(shared, state.queue.remove(dead));
        match state.queue.next(now) {
            Next::Batch(batch, cut) => {
                shared.metrics.queue_depth.dec_by(batch.len() as i64);
                if !state.queue.is_empty() {
                    // Its own signal may have woken this worker.
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

/// Answers pictures whose deadline has passed; those whose client has gone miss nothing.
fn dismiss(shared: &Shared, dead: Vec<Pending<Job>>) {
    for pending in dead {
        shared.metrics.queue_depth.dec();
        let _ = pending.payload.reply.send(Err(BatchError::DeadlinePassed));
    }
}

fn answer(shared: &Shared, engine: &mut dyn Engine, batch: Vec<Pending<Job>>) {
    let started = Instant::now();
    let mut pictures = Vec::with_capacity(batch.len());
    let mut clients = Vec::with_capacity(batch.len());
    for Pending {
        payload, enqueued, ..
    } in batch
    {
        let waited = started.saturating_duration_since(enqueued);
        // The place in the queue is free from here on.
        let memory = payload.room.memory;
        let picture = payload.picture;
        let (size, content) = (picture.size.pixels(), picture.content.pixels());
        shared.metrics.tensor(size, content);
        pictures.push(picture);
        clients.push((payload.reply, waited, memory));
    }
    let count = clients.len();
    // A panic is the engine's; its session is used through an exclusive borrow that ends here.
    let result = catch_unwind(AssertUnwindSafe(|| engine.run(pictures)));
    let inference = started.elapsed();
    record_speed(shared, inference / count as u32);
    let outputs = match result {
        Ok(Ok(outputs)) => outputs.into_iter().map(Ok).collect(),
        Ok(Err(error)) => {
            let error = Arc::new(error);
            repeat(count, || BatchError::Engine(Arc::clone(&error)))
        }
        Err(_) => repeat(count, || BatchError::Panicked),
    };
    for ((reply, queue, memory), outputs) in clients.into_iter().zip(outputs) {
        let _ = reply.send(outputs.map(|outputs| Inference {
            outputs,
            queue,
            inference,
            memory,
        }));
    }
}

/// Every picture of a failed batch is told the same.
fn repeat(count: usize, error: impl Fn() -> BatchError) -> Vec<Result<Vec<Tensor>, BatchError>> {
    (0..count).map(|_| Err(error())).collect()
}

/// An average over about the last eight runs.
fn record_speed(shared: &Shared, per_picture: Duration) {
    let new = u64::try_from(per_picture.as_nanos()).unwrap_or(u64::MAX);
    let old = shared.nanos_per_picture.load(Ordering::Relaxed);
    let average = if old == 0 {
        new
    } else {
        old - old / 8 + new / 8
    };
    shared.nanos_per_picture.store(average, Ordering::Relaxed);
}
