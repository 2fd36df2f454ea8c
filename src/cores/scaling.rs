//! How much faster a network runs on several cores, and the choice of a width by it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Part of the run time that further cores must save at least to be useful to a job that runs alone.
const LEAST_GAIN: f64 = 0.03;
/// Speed-up that each further core must bring, as a part of what one core computes, if other jobs could use it.
const LEAST_EFFICIENCY: f64 = 0.6;

/// Which runs get several cores.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Performance {
    /// Each run gets all free cores that make it faster, also if other jobs are expected.
    Latency,
    /// Each run gets one core.
    Throughput,
    /// A run that is alone gets all cores that make it faster. Under load, each core has a run of its own.
    #[default]
    Auto,
}

/// Number of threads of a session, and the time that it takes for one image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Thread count, including the calling thread.
    pub threads: usize,
    /// Time of a run with one test image.
    pub time: Duration,
}

/// The measured run times of a network by thread count: one thread first, then each thread count that is faster than
/// the one before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scaling(Vec<Step>);

impl Scaling {
    /// Returns the scaling of a network that takes `time` for one image on one thread, and was not measured with more.
    pub fn single(time: Duration) -> Self {
        Self(vec![Step { threads: 1, time }])
    }

    /// Adds the time for one image with `threads` threads, more than those of the steps before. Returns whether these
    /// threads are useful; if not, the time is not added.
    pub fn add(&mut self, threads: usize, time: Duration) -> bool {
        let fastest = self.0.last().map_or(Duration::MAX, |step| step.time);
        let useful = time.as_secs_f64() < fastest.as_secs_f64() * (1.0 - LEAST_GAIN);
        if useful {
            self.0.push(Step { threads, time });
        }
        useful
    }

    /// Lowers the time of the last step to `time` if that is less.
    pub(crate) fn improve(&mut self, time: Duration) {
        if let Some(last) = self.0.last_mut() {
            last.time = last.time.min(time);
        }
    }

    /// Returns the measured times by ascending thread count.
    pub fn steps(&self) -> &[Step] {
        &self.0
    }

    /// Returns the time for one image on one thread.
    pub fn time(&self) -> Duration {
        self.0.first().map_or(Duration::ZERO, |step| step.time)
    }

    /// Returns how many times faster a run on `width` cores is than on one core; 1 if this was not measured.
    pub fn speedup(&self, width: usize) -> f64 {
        let step = self.0.iter().rev().find(|step| step.threads <= width);
        let time = step.map_or(0.0, |step| step.time.as_secs_f64());
        if time > 0.0 {
            self.time().as_secs_f64() / time
        } else {
            1.0
        }
    }

    /// Returns the widest of `widths`, in ascending order, that is at most `bound` and useful. If `alone` is false,
    /// each further core must also be worth it beside other jobs. Returns the first of `widths` if no other is useful,
    /// or `None` if that is above `bound`.
    pub(super) fn widest(&self, widths: &[usize], bound: usize, alone: bool) -> Option<usize> {
        let mut best = widths.first().copied().filter(|first| *first <= bound)?;
        for width in widths.iter().copied().filter(|width| *width <= bound) {
            let gain = self.speedup(width) - self.speedup(best);
            let further = width.saturating_sub(best) as f64;
            if gain > 0.0 && (alone || gain >= LEAST_EFFICIENCY * further) {
                best = width;
            }
        }
        Some(best)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn milliseconds(times: &[(usize, u64)]) -> Scaling {
        let mut scaling = Scaling::single(Duration::from_millis(times[0].1));
        for (threads, time) in &times[1..] {
            scaling.add(*threads, Duration::from_millis(*time));
        }
        scaling
    }

    #[test]
    fn only_faster_thread_counts_are_kept() {
        let scaling = milliseconds(&[(1, 100), (2, 60), (4, 59), (8, 70)]);
        let threads: Vec<usize> = scaling.steps().iter().map(|step| step.threads).collect();
        assert_eq!(threads, [1, 2]);
        assert_eq!(scaling.speedup(8), 100.0 / 60.0);
        assert_eq!(Scaling::single(Duration::ZERO).speedup(4), 1.0);
    }

    #[test]
    fn a_job_alone_takes_every_gain_and_others_only_efficient_cores() {
        let scaling = milliseconds(&[(1, 100), (2, 55), (4, 32), (8, 24)]);
        let widths = [1, 2, 4, 8];
        // Columns: cores that the job may take, whether it is alone, width.
        let cases = [
            (8, true, Some(8)),
            (7, true, Some(4)),
            (1, true, Some(1)),
            (8, false, Some(4)),
            (2, false, Some(2)),
            (0, true, None),
        ];
        for (bound, alone, expected) in cases {
            assert_eq!(scaling.widest(&widths, bound, alone), expected, "{bound}");
        }
        assert_eq!(scaling.widest(&[1], 8, true), Some(1));
    }
}
