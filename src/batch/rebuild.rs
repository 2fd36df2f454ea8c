//! Test runs of engines that were stopped or failed, and new engines in the place of broken ones.
//!
//! Each worker does this on its own thread, so it does not delay other workers.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use thiserror::Error;

use super::Shared;
use super::seat::{Seat, WatchedEngines};
use super::seats::Standing;
use super::worker::Worker;
use crate::engine::EngineError;
use crate::image::ImageError;

/// Shortest and longest pause between two attempts to rebuild an engine.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));
/// Time limit of a test run on an idle machine with a fast model.
const TEST_LIMIT: Duration = Duration::from_secs(10);
/// Time that a test run of a slow model may take in addition, as a multiple of the first test run.
const TEST_PATIENCE: u32 = 10;

/// Why an engine does not pass its test, or cannot be rebuilt.
#[derive(Debug, Error)]
enum RebuildError {
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("cannot prepare the test image: {0}")]
    Image(#[from] ImageError),
    #[error("the engine returned outputs for {got} images, but the test run had {expected} images")]
    OutputCount { expected: usize, got: usize },
    #[error("the thread panicked while it created the engine")]
    Panicked,
}

/// Which batch a test run has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Test {
    /// One image, for an engine that has served.
    Short,
    /// The largest batch of test images, for a new engine: it allocates its memory.
    Full,
}

/// Tests the engine of a worker whose last run was stopped or failed. Returns the worker with this engine if the test
/// run succeeds, or else without an engine. Returns `None` if the queue is closed and empty, or if the worker has been
/// replaced.
pub(super) fn test(shared: &Shared, mut engine: WatchedEngines) -> Option<Worker> {
    if shared.is_finished() {
        return None;
    }
    let result = test_run(shared, &mut engine, Test::Short);
    if engine.seat().standing() == Standing::Abandoned {
        return None;
    }
    let (model, worker) = (
        engine.seat().watched().model.clone(),
        engine.seat().worker(),
    );
    Some(match result {
        Ok(()) => {
            engine.prove();
            tracing::info!(model, worker, "test run succeeded, the worker continues");
            Worker::Sound(engine)
        }
        Err(error) => {
            tracing::warn!(
                model,
                worker,
                error = &error as &dyn std::error::Error,
                "test run failed, the worker's engine is rebuilt"
            );
            Worker::Broken(engine.dismantle())
        }
    })
}

/// Gives the worker in `seat` a new engine. Repeats failed attempts, with growing pauses, until one succeeds. When
/// the queue closes, the next attempt follows immediately and is the last: images may wait. Returns `None` if it fails,
/// if the queue is closed and empty, or if the worker has been replaced.
pub(super) fn rebuild(shared: &Shared, mut seat: Seat) -> Option<Worker> {
    let mut pause = PAUSE.0;
    while !shared.is_finished() {
        let started = Instant::now();
        let last = shared.is_closed();
        let attempt = attempt(shared, seat);
        let (model, worker) = (
            attempt.seat().watched().model.clone(),
            attempt.seat().worker(),
        );
        if attempt.seat().standing() == Standing::Abandoned {
            return None;
        }
        match attempt {
            Attempt::Rebuilt(engine) => {
                engine.prove();
                shared.metrics.restarts.inc();
                let took = started.elapsed().as_millis() as u64;
                tracing::info!(model, worker, took_ms = took, "worker has a new engine");
                return Some(Worker::Sound(engine));
            }
            Attempt::Failed(failed, error) => {
                failed.fail(true);
                tracing::error!(
                    model,
                    worker,
                    error = &error as &dyn std::error::Error,
                    retry_after_ms = pause.as_millis() as u64,
                    "cannot rebuild the engine of a worker"
                );
                seat = failed;
            }
        }
        if last {
            return None;
        }
        shared.pause(pause);
        pause = (pause * 2).min(PAUSE.1);
    }
    None
}

/// The result of an attempt to rebuild an engine.
enum Attempt {
    Rebuilt(WatchedEngines),
    Failed(Seat, RebuildError),
}

impl Attempt {
    fn seat(&self) -> &Seat {
        match self {
            Self::Rebuilt(engine) => engine.seat(),
            Self::Failed(seat, _) => seat,
        }
    }
}

/// Creates an engine for the worker in `seat` and tests it.
fn attempt(shared: &Shared, seat: Seat) -> Attempt {
    // Unwind safe, because nothing that the closure creates is used after a panic.
    let widths = seat.widths();
    let create = |threads: &usize| {
        let engine = seat.watched().create_engine(*threads);
        engine.map(|engine| (*threads, engine))
    };
    let create = AssertUnwindSafe(|| widths.iter().map(create).collect::<Result<Vec<_>, _>>());
    let created = match catch_unwind(create) {
        Ok(created) => created.map_err(RebuildError::from),
        Err(_) => Err(RebuildError::Panicked),
    };
    let mut engine = match created {
        Ok(engines) => seat.with(engines),
        Err(error) => return Attempt::Failed(seat, error),
    };
    match test_run(shared, &mut engine, Test::Full) {
        Ok(()) => Attempt::Rebuilt(engine),
        Err(error) => Attempt::Failed(engine.dismantle(), error),
    }
}

/// Runs each of `engines` with copies of the test image. The runs are rare and short, so they take no cores from other
/// jobs.
fn test_run(shared: &Shared, engines: &mut WatchedEngines, test: Test) -> Result<(), RebuildError> {
    for width in engines.seat().widths().iter().copied() {
        test_width(shared, engines, width, test)?;
    }
    Ok(())
}

/// Runs the engine with `width` threads with copies of the test image.
fn test_width(
    shared: &Shared,
    engine: &mut WatchedEngines,
    width: usize,
    test: Test,
) -> Result<(), RebuildError> {
    let watched = engine.seat().watched();
    let image = watched.test_image()?;
    let patience = watched.first_run().saturating_mul(TEST_PATIENCE);
    let expected = match test {
        Test::Short => 1,
        Test::Full => shared.policy.batch_size(image.size),
    };
    let limit = Instant::now() + TEST_LIMIT + patience;
    let got = engine.run(width, vec![image; expected], limit)?.len();
    if got == expected {
        return Ok(());
    }
    Err(RebuildError::OutputCount { expected, got })
}
