//! The rules by which jobs get cores, as plain data: without threads and locks, and with the current time as an
//! argument.
//!
//! A *lane* is a source of jobs: the queue of a model, whose jobs are batches, or the image pool. A lane states its
//! demand, and its idle workers offer themselves. [`Machine::next`] starts the next job:
//!
//! 1. **Whose turn it is.** Each lane has a virtual time: the core time that its jobs took, divided by its weight, which
//!    is the number of its waiting jobs, at most [`MAX_WEIGHT`]. The lane with the smallest virtual time is next. A lane
//!    that was idle continues from the virtual time of the others, so that it cannot save up turns.
//! 2. **How many cores the job gets.** A job that is alone gets all cores that make it faster. If `n` other jobs run
//!    or are about to come, it gets at most the part of the cores that is left if each gets the same, and only cores that
//!    are efficient. Cores that a lane has too few workers for go to the workers that it has. If runs on several cores
//!    turn out slower than on one, because other processes use the cores, the next runs get one.
//! 3. **Short jobs do not wait for long ones.** A job that is expected to take less time than passes until a core is free
//!    starts anyway, as a *guest*: the operating system lets it share a core. The number of guests is limited. They also
//!    fill the moments in which a core has no job because one thread wakes another.
//! 4. **No job keeps its cores forever.** A job that takes much longer than predicted is *overdue*. Its cores count as
//!    free, and the operating system divides them.

use std::collections::BTreeMap;
use std::time::Duration;

use super::scaling::{Performance, Scaling};

/// Maximum weight of a lane.
const MAX_WEIGHT: usize = 4;
/// A job is overdue after this many times its predicted time.
const OVERDUE_FACTOR: u32 = 8;
/// Shortest time after which a job is overdue.
const OVERDUE: Duration = Duration::from_secs(1);

/// Maximum ratio of the time of a run to its predicted time that is counted.
const MAX_LATENESS: f64 = 4.0;
/// Weight of the last run in the average of these ratios.
const NEW_RUN: f64 = 0.1;

/// Number of a lane.
pub(super) type LaneId = u64;

/// The jobs that a lane could start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Demand {
    /// Number of jobs that could run at the same time, at least 1.
    pub(crate) jobs: usize,
    /// Time from which the next job may start, on the clock of [`Machine`].
    pub(crate) from: Duration,
    /// Predicted time of the next job on one core.
    pub(crate) work: Duration,
    /// Number of admitted images that the next job takes.
    pub(crate) images: usize,
}

/// A worker that waits for its turn.
#[derive(Debug)]
struct Idle<W> {
    /// The widths of its sessions, in ascending order.
    widths: Vec<usize>,
    worker: W,
}

#[derive(Debug)]
struct Lane<W> {
    demand: Option<Demand>,
    /// Number of started jobs that are still part of `demand`.
    unclaimed: usize,
    /// The workers that wait for a job. `None` if the lane has no workers: each of its jobs runs on one core.
    idle: Option<Vec<Idle<W>>>,
    scaling: Scaling,
    /// Virtual time in seconds.
    served: f64,
    /// Average of how many times longer than predicted the last runs on several cores took.
    lateness: f64,
}

impl<W> Lane<W> {
    /// Returns the demand, without the jobs that have started. `None` if there is none, or if no worker is idle.
    fn waiting(&self) -> Option<Demand> {
        let demand = self.demand?;
        let jobs = demand.jobs.saturating_sub(self.unclaimed);
        let can_run = self.idle.as_ref().is_none_or(|idle| !idle.is_empty());
        (jobs > 0 && can_run).then_some(Demand { jobs, ..demand })
    }

    fn has_workers(&self) -> bool {
        self.idle.is_some()
    }
}

/// A job that runs.
#[derive(Debug)]
struct Run {
    lane: LaneId,
    width: usize,
    weight: f64,
    started: Duration,
    predicted: Duration,
    guest: bool,
}

impl Run {
    fn overdue_at(&self) -> Duration {
        self.started + self.predicted.saturating_mul(OVERDUE_FACTOR).max(OVERDUE)
    }

    /// Returns the time until the end as far as it can be predicted: a job that is late is expected to take as long
    /// again as it is late.
    fn left(&self, now: Duration) -> Duration {
        (self.started + self.predicted).abs_diff(now)
    }
}

/// The right to run one job.
#[derive(Debug)]
pub(super) struct Grant<W> {
    pub(super) lane: LaneId,
    /// Number of the run, for [`Machine::finish`].
    pub(super) run: u64,
    /// Number of cores.
    pub(super) width: usize,
    /// The worker that runs the job. `None` if the lane has no workers.
    pub(super) worker: Option<W>,
}

/// The cores of the process and the jobs that use them. `W` represents an idle worker. Times count from a fixed moment.
#[derive(Debug)]
pub(super) struct Machine<W> {
    total: usize,
    performance: Performance,
    lanes: BTreeMap<LaneId, Lane<W>>,
    runs: BTreeMap<u64, Run>,
    /// Virtual time of the lane that was served last.
    clock: f64,
    numbers: u64,
}

impl<W> Machine<W> {
    /// Creates a machine with `total` cores, at least one.
    pub(super) fn new(total: usize, performance: Performance) -> Self {
        Self {
            total: total.max(1),
            performance,
            lanes: BTreeMap::new(),
            runs: BTreeMap::new(),
            clock: 0.0,
            numbers: 0,
        }
    }

    pub(super) fn total(&self) -> usize {
        self.total
    }

    /// Adds a lane. `workers` states whether its jobs are run by workers that offer themselves.
    pub(super) fn add_lane(&mut self, scaling: Scaling, workers: bool) -> LaneId {
        let lane = Lane {
            demand: None,
            unclaimed: 0,
            idle: workers.then(Vec::new),
            scaling,
            served: self.clock,
            lateness: 1.0,
        };
        let id = self.number();
        self.lanes.insert(id, lane);
        id
    }

    /// Removes a lane. Its jobs keep their cores until they end.
    pub(super) fn remove_lane(&mut self, lane: LaneId) {
        self.lanes.remove(&lane);
    }

    /// Replaces the demand of a lane.
    pub(super) fn demand(&mut self, lane: LaneId, demand: Option<Demand>) {
        let clock = self.clock;
        let Some(lane) = self.lanes.get_mut(&lane) else {
            return;
        };
        if lane.demand.is_none() {
            lane.served = lane.served.max(clock);
        }
        lane.demand = demand;
    }

    /// Records that a job that was started is no longer part of the demand.
    pub(super) fn claim(&mut self, lane: LaneId) {
        if let Some(lane) = self.lanes.get_mut(&lane) {
            lane.unclaimed = lane.unclaimed.saturating_sub(1);
        }
    }

    /// Adds an idle worker with sessions of `widths`, in ascending order.
    pub(super) fn offer(&mut self, lane: LaneId, widths: &[usize], worker: W) {
        let widths = widths.to_vec();
        let lane = self.lanes.get_mut(&lane);
        if let Some(idle) = lane.and_then(|lane| lane.idle.as_mut()) {
            idle.push(Idle { widths, worker });
        }
    }

    /// Removes and returns the idle workers of a lane.
    pub(super) fn recall(&mut self, lane: LaneId) -> Vec<W> {
        let lane = self.lanes.get_mut(&lane);
        let idle = lane.and_then(|lane| lane.idle.as_mut());
        let idle = idle.map(std::mem::take).unwrap_or_default();
        idle.into_iter().map(|idle| idle.worker).collect()
    }

    /// Starts the job that is next at `now`. `coming` is the number of images that were admitted and that no batch has
    /// taken yet. Returns `None` if no job can start.
    pub(super) fn next(&mut self, now: Duration, coming: usize) -> Option<Grant<W>> {
        let free = self.total.saturating_sub(self.used(now));
        let guest_after = (free == 0).then(|| self.guest_wait(now)).flatten();
        if free == 0 && guest_after.is_none() {
            return None;
        }
        let (id, demand) = self.first(now, |demand| {
            guest_after.is_none_or(|wait| demand.work < wait)
        })?;
        let lane = self.lanes.get(&id)?;
        let choice = if free == 0 {
            lane.choose(1, true)?
        } else {
            let others = self.others(id, demand, coming, now);
            let alone = self.performance == Performance::Latency || others == 0;
            let fair = lane.choose(self.fair(others, free), alone)?;
            // No other job can use the spare cores, so that any gain is worth them.
            let spare = lane.choose(self.spare(id, free), true)?;
            if spare.1 > fair.1 { spare } else { fair }
        };
        Some(self.start(id, demand, choice, free == 0, now))
    }

    /// Returns the lane that is next, among those whose demand is due and passes `condition`.
    fn first(
        &self,
        now: Duration,
        condition: impl Fn(&Demand) -> bool,
    ) -> Option<(LaneId, Demand)> {
        let due = self.lanes.iter().filter_map(|(id, lane)| {
            let demand = lane.waiting()?;
            (demand.from <= now && condition(&demand)).then_some((lane.served, *id, demand))
        });
        let first = due.min_by(|a, b| a.0.total_cmp(&b.0));
        first.map(|(_, id, demand)| (id, demand))
    }

    /// Returns the number of other jobs that run inference or are expected beside the next job of `lane`.
    fn others(&self, lane: LaneId, demand: Demand, coming: usize, now: Duration) -> usize {
        let running = self.counted(now).filter(|run| {
            let lane = self.lanes.get(&run.lane);
            lane.is_none_or(Lane::has_workers)
        });
        let waiting = self.lanes.iter().filter(|(id, other)| {
            **id != lane && !other.has_workers() && other.waiting().is_some()
        });
        coming.saturating_sub(demand.images) + running.count() + waiting.count()
    }

    /// Returns the number of cores, 1 to `free`, that the next job may have if `others` other jobs get as many.
    fn fair(&self, others: usize, free: usize) -> usize {
        let fair = match self.performance {
            Performance::Throughput => 1,
            Performance::Latency => free,
            Performance::Auto => self.total / (1 + others),
        };
        fair.clamp(1, free)
    }

    /// Returns the number of cores, 1 to `free`, that the next job of `lane` may have if all workers that could take
    /// a job do.
    fn spare(&self, lane: LaneId, free: usize) -> usize {
        if self.performance == Performance::Throughput {
            return 1;
        }
        let idle = |lane: &Lane<W>| lane.idle.as_ref().map_or(usize::MAX, Vec::len);
        let startable = self.lanes.iter().map(|(id, other)| match other.waiting() {
            // More images may come while these run, so all workers of the lane count.
            Some(_) if *id == lane => idle(other),
            Some(demand) => demand.jobs.min(idle(other)),
            None => 0,
        });
        let startable = startable.fold(0_usize, usize::saturating_add);
        (free / startable.max(1)).clamp(1, free)
    }

    /// Records the start of a job of `lane`. `choice` is the index of the worker among the idle ones, and the width.
    fn start(
        &mut self,
        id: LaneId,
        demand: Demand,
        choice: (Option<usize>, usize),
        guest: bool,
        now: Duration,
    ) -> Grant<W> {
        let number = self.number();
        let (index, width) = choice;
        let weight = demand.jobs.clamp(1, MAX_WEIGHT) as f64;
        let mut predicted = demand.work;
        let mut worker = None;
        if let Some(lane) = self.lanes.get_mut(&id) {
            predicted = demand.work.div_f64(lane.scaling.speedup(width));
            lane.unclaimed += 1;
            self.clock = self.clock.max(lane.served);
            lane.served += predicted.as_secs_f64() * width as f64 / weight;
            let idle = lane.idle.as_mut().zip(index);
            worker = idle.map(|(idle, index)| idle.remove(index).worker);
        }
        let run = Run {
            lane: id,
            width,
            weight,
            started: now,
            predicted,
            guest,
        };
        self.runs.insert(number, run);
        Grant {
            lane: id,
            run: number,
            width,
            worker,
        }
    }

    /// Takes a free core for a part of a running job of `lane`. Returns the number of the run, or `None` if no core is
    /// free, or if a job waits.
    pub(super) fn help(&mut self, lane: LaneId, now: Duration) -> Option<u64> {
        if self.used(now) >= self.total || self.first(now, |_| true).is_some() {
            return None;
        }
        let number = self.number();
        let run = Run {
            lane,
            width: 1,
            weight: 1.0,
            started: now,
            predicted: Duration::ZERO,
            guest: false,
        };
        self.runs.insert(number, run);
        Some(number)
    }

    /// Records that a run has ended, and corrects the virtual time of its lane by the time that it took.
    pub(super) fn finish(&mut self, run: u64, now: Duration) {
        let Some(run) = self.runs.remove(&run) else {
            return;
        };
        if let Some(lane) = self.lanes.get_mut(&run.lane) {
            let took = now.saturating_sub(run.started).as_secs_f64();
            let predicted = run.predicted.as_secs_f64();
            lane.served += (took - predicted) * run.width as f64 / run.weight;
            // Runs on one core say nothing about others, so the average only returns to 1.
            let wide = run.width > 1 && predicted > 0.0;
            let ratio = if wide { took / predicted } else { 1.0 };
            lane.lateness += (ratio.clamp(1.0, MAX_LATENESS) - lane.lateness) * NEW_RUN;
        }
    }

    /// Returns the next time after `now` at which a job may start without another event. `None` if no job waits.
    pub(super) fn due(&self, now: Duration) -> Option<Duration> {
        let demands = self.lanes.values().filter_map(Lane::waiting);
        let from = demands.map(|demand| demand.from).min()?;
        let overdue = self.counted(now).map(Run::overdue_at).min();
        if from > now { Some(from) } else { overdue }
    }

    /// Returns the number of cores in use, including those that guests share.
    pub(super) fn used(&self, now: Duration) -> usize {
        self.counted(now).map(|run| run.width).sum()
    }

    /// Returns the time until a core is free, if another guest may start.
    fn guest_wait(&self, now: Duration) -> Option<Duration> {
        let guests = self.counted(now).filter(|run| run.guest).count();
        let wait = self.counted(now).map(|run| run.left(now)).min();
        wait.filter(|_| guests < self.total.div_ceil(2))
    }

    /// Returns the runs that are not overdue.
    fn counted(&self, now: Duration) -> impl Iterator<Item = &Run> {
        self.runs.values().filter(move |run| now < run.overdue_at())
    }

    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }
}

impl<W> Lane<W> {
    /// Chooses the worker for a job on at most `bound` cores, as an index among the idle ones, and the width. Among the
    /// workers that have a session of that width, this is the one that can do least else.
    fn choose(&self, bound: usize, alone: bool) -> Option<(Option<usize>, usize)> {
        let Some(idle) = &self.idle else {
            return Some((None, 1));
        };
        let mut widths: Vec<usize> = idle.iter().flat_map(|idle| idle.widths.clone()).collect();
        widths.sort_unstable();
        widths.dedup();
        let width = self.scaling.widest(&widths, bound, alone)?;
        // Other processes may use the cores, and then a run on one core is faster, because no thread waits for another.
        let slower = self.lateness >= self.scaling.speedup(width);
        let width = if width > 1 && slower {
            *widths.first()?
        } else {
            width
        };
        let fitting = idle.iter().enumerate();
        let fitting = fitting.filter(|(_, idle)| idle.widths.contains(&width));
        // The last of several, because its caches are warm.
        let best = fitting.rev().min_by_key(|(_, idle)| idle.widths.len());
        best.map(|(index, _)| (Some(index), width))
    }
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
