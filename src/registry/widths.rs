//! The sessions of a model with several threads: which thread counts are faster is measured when the model is loaded.

use std::time::{Duration, Instant};

use super::networks::Networks;
use super::{ModelPlan, SessionCount};
use crate::batch::WatchedEngines;
use crate::cores::{Cores, Scaling};
use crate::engine::EngineError;
use crate::image::PreparedImage;

/// Minimum number of rounds in which a thread count is compared with the one before. The fastest run of each counts,
/// because other processes can only make a run slower.
const ROUNDS: usize = 3;
/// Time in which more rounds follow while the larger thread count is not faster: other processes may use the cores.
const ENOUGH: Duration = Duration::from_millis(250);

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
        // The first run, which `usual` is from, also allocated memory.
        let started = Instant::now();
        first.run(1, vec![image.clone()], started + plan.warm_up_limit)?;
        return Ok(Scaling::single(usual.min(started.elapsed())));
    }
    let mut scaling = Scaling::single(usual);
    for width in threads.wider() {
        let before = scaling.steps().last().map_or(1, |step| step.threads);
        first.add(width, networks.engine_with_threads(width)?);
        // The first run allocates memory.
        first.run(
            width,
            vec![image.clone()],
            Instant::now() + plan.warm_up_limit,
        )?;
        let compare = || compare(first, [before, width], image, plan.warm_up_limit);
        let [slower, faster] = cores.measuring(compare)?;
        scaling.improve(slower);
        if !scaling.add(width, faster) {
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

/// Returns the times of the fastest runs of `worker` with `image` on each of `widths`, which take turns.
fn compare(
    worker: &mut WatchedEngines,
    widths: [usize; 2],
    image: &PreparedImage,
    limit: Duration,
) -> Result<[Duration; 2], EngineError> {
    let begin = Instant::now();
    let mut fastest = [Duration::MAX; 2];
    for round in 1.. {
        for (width, fastest) in widths.into_iter().zip(&mut fastest) {
            let image = vec![image.clone()];
            let started = Instant::now();
            worker.run(width, image, started + limit)?;
            *fastest = (*fastest).min(started.elapsed());
        }
        let [slower, faster] = fastest;
        let settled = round >= ROUNDS && Scaling::single(slower).add(widths[1], faster);
        if settled || begin.elapsed() > ENOUGH {
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
