//! The sessions of a model with several threads: which thread counts are faster is measured when the model is loaded.

use std::time::{Duration, Instant};

use super::networks::Networks;
use super::{ModelPlan, SessionCount};
use crate::batch::WatchedEngines;
use crate::cores::{Cores, Scaling};
use crate::engine::EngineError;
use crate::image::PreparedImage;

/// Maximum number of measured runs with each thread count; the fastest counts.
const RUNS: usize = 3;
/// Time after which no further run is measured.
const ENOUGH: Duration = Duration::from_millis(200);

/// Measures the engines of `workers`, which have one thread each, and adds engines with more threads as long as these
/// are faster for `image`. Every added engine has run once, or has the thread count of one that has. `usual` is the time
/// that one image took before.
///
/// # Errors
/// [`EngineError`] if an engine cannot be created, or fails.
pub(super) fn widen(
    workers: &mut [WatchedEngines],
    networks: &Networks,
    plan: &ModelPlan,
    cores: &Cores,
    image: &PreparedImage,
    usual: Duration,
) -> Result<Scaling, EngineError> {
    let threads = plan.threads();
    let Some((first, others)) = workers.split_first_mut() else {
        return Ok(Scaling::single(usual));
    };
    if threads.wider().next().is_none() {
        return Ok(Scaling::single(usual));
    }
    let measure = |worker: &mut WatchedEngines, width| {
        cores.measuring(|| fastest(worker, width, image, plan.warm_up_limit))
    };
    let mut scaling = Scaling::single(measure(first, 1)?);
    for width in threads.wider() {
        first.add(width, networks.engine_with_threads(width)?);
        // The first run allocates memory.
        first.run(width, vec![image.clone()], Instant::now() + plan.warm_up_limit)?;
        if !scaling.add(width, measure(first, width)?) {
            first.drop_widest();
            break;
        }
        let further = threads.sessions(width, cores.total()) - 1;
        for worker in others.iter_mut().take(further) {
            worker.add(width, networks.engine_with_threads(width)?);
        }
    }
    Ok(scaling)
}

/// Returns the time of the fastest of a few runs of `worker` with `image` on `width` threads.
fn fastest(
    worker: &mut WatchedEngines,
    width: usize,
    image: &PreparedImage,
    limit: Duration,
) -> Result<Duration, EngineError> {
    let begin = Instant::now();
    let mut fastest = Duration::MAX;
    for _ in 0..RUNS {
        let started = Instant::now();
        worker.run(width, vec![image.clone()], started + limit)?;
        fastest = fastest.min(started.elapsed());
        if begin.elapsed() > ENOUGH {
            break;
        }
    }
    Ok(fastest)
}

/// Returns the numbers of sessions of a model with `scaling`, by ascending thread count.
pub(super) fn sessions(scaling: &Scaling, plan: &ModelPlan, cores: usize) -> Vec<SessionCount> {
    let steps = scaling.steps().iter();
    let sessions = steps.map(|step| SessionCount {
        threads: step.threads,
        sessions: plan.threads().sessions(step.threads, cores),
        time: step.time,
    });
    sessions.collect()
}
