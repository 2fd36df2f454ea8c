//! What more threads gain for one network, learned from its runs. Plain data: without threads and locks.

use std::time::Duration;

/// Number of recent runs of each thread count that are compared by their lower quartile: other work on the machine makes
/// some runs slower and none faster.
const SAMPLES: usize = 8;
/// After so many decisions, one run has another thread count than the best one, to measure it again.
const PROBE_EVERY: u32 = 16;
/// Least gain of more threads: they must take less than this part of the time.
const GAIN: f64 = 0.9;

/// A measured thread count.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MeasuredWidth {
    /// Threads of a run.
    pub threads: usize,
    /// Lower quartile of the times of the recent runs, for as many pixels as the last run had.
    pub time: Duration,
}

/// The times of recent runs by thread count.
#[derive(Debug, Clone)]
pub struct Scaling {
    /// By ascending thread count, of which the first is that of the worker's own session.
    widths: Vec<Width>,
    decisions: u32,
    /// Pixels of the last recorded run.
    pixels: u64,
}

#[derive(Debug, Clone)]
struct Width {
    threads: usize,
    /// Nanoseconds per pixel of the recent runs, the oldest first.
    recent: Vec<f64>,
}

impl Width {
    fn is_measured(&self) -> bool {
        self.recent.len() >= SAMPLES
    }

    /// Returns the lower quartile of the recent runs in nanoseconds per pixel. `None` before the first one.
    fn quartile(&self) -> Option<f64> {
        let mut sorted = self.recent.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 4).copied()
    }
}

impl Scaling {
    /// Creates a scaling without measurements. `threads` is the thread count of the worker's own session, `wider` are
    /// the others, in ascending order.
    pub fn new(threads: usize, wider: &[usize]) -> Self {
        let counts = std::iter::once(threads).chain(wider.iter().copied());
        let width = |threads| Width {
            threads,
            recent: Vec::new(),
        };
        Self {
            widths: counts.map(width).collect(),
            decisions: 0,
            pixels: 0,
        }
    }

    /// Returns the thread count of a run that may have up to `most` threads: the smallest one that is not clearly
    /// slower than the fastest one. Thread counts that were not measured yet come first, and from time to time one is
    /// measured again.
    pub fn choose(&mut self, most: usize) -> usize {
        let own = self.widths.first().map_or(1, |width| width.threads);
        let fitting: Vec<&Width> = self.widths.iter().filter(|w| w.threads <= most).collect();
        if fitting.len() < 2 {
            return own;
        }
        let unmeasured = fitting.iter().filter(|width| !width.is_measured());
        if let Some(width) = unmeasured.min_by_key(|width| width.recent.len()) {
            return width.threads;
        }
        self.decisions = self.decisions.wrapping_add(1);
        if self.decisions.is_multiple_of(PROBE_EVERY) {
            let turn = (self.decisions / PROBE_EVERY) as usize;
            return fitting[turn % fitting.len()].threads;
        }
        let times = || {
            fitting
                .iter()
                .filter_map(|w| Some((w.threads, w.quartile()?)))
        };
        let best = times().map(|(_, time)| time).fold(f64::INFINITY, f64::min);
        let close = times().find(|(_, time)| time * GAIN < best);
        close.map_or(own, |(threads, _)| threads)
    }

    /// Records the time of a run on `threads` threads, which nothing disturbed, for input of `pixels` pixels. Returns
    /// whether every thread count is measured for the first time.
    pub fn record(&mut self, threads: usize, pixels: u64, time: Duration) -> bool {
        let was_measured = self.is_measured();
        self.pixels = pixels.max(1);
        let nanos = time.as_nanos() as f64 / self.pixels as f64;
        if let Some(width) = self.widths.iter_mut().find(|w| w.threads == threads) {
            if width.is_measured() {
                width.recent.remove(0);
            }
            width.recent.push(nanos);
        }
        !was_measured && self.is_measured()
    }

    fn is_measured(&self) -> bool {
        self.widths.iter().all(Width::is_measured)
    }

    /// Returns the thread counts that were measured, in ascending order.
    pub fn measured(&self) -> Vec<MeasuredWidth> {
        let measured = self.widths.iter().filter(|width| width.is_measured());
        let time = |nanos: f64| Duration::from_nanos((nanos * self.pixels as f64) as u64);
        let width = |width: &Width| {
            Some(MeasuredWidth {
                threads: width.threads,
                time: time(width.quartile()?),
            })
        };
        measured.filter_map(width).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Measures every thread count with the times in `times`, in microseconds.
    fn measured(times: &[(usize, u64)]) -> Scaling {
        let wider: Vec<usize> = times[1..].iter().map(|(threads, _)| *threads).collect();
        let mut scaling = Scaling::new(times[0].0, &wider);
        for _ in 0..SAMPLES {
            for (threads, micros) in times {
                scaling.record(*threads, 50_000, Duration::from_micros(*micros));
            }
        }
        scaling
    }

    #[test]
    fn the_smallest_thread_count_is_chosen_that_is_nearly_the_fastest() {
        let times = [(1, 4500), (4, 1500), (8, 1450), (16, 1600)];
        for (most, expected) in [(0, 1), (1, 1), (3, 1), (4, 4), (8, 4), (16, 4)] {
            assert_eq!(measured(&times).choose(most), expected, "{most}");
        }
        assert_eq!(measured(&[(1, 4500), (2, 4200)]).choose(2), 1);
        assert_eq!(measured(&[(1, 4500), (2, 4000)]).choose(2), 2);
    }

    #[test]
    fn every_thread_count_is_measured_first_and_again_later() {
        let mut scaling = Scaling::new(1, &[2]);
        let mut chosen = Vec::new();
        for _ in 0..(2 * SAMPLES + 2 * PROBE_EVERY as usize) {
            let threads = scaling.choose(2);
            chosen.push(threads);
            scaling.record(threads, 1, Duration::from_micros(10 / threads as u64));
        }
        let narrow = |part: &[usize]| part.iter().filter(|threads| **threads == 1).count();
        assert_eq!(narrow(&chosen[..2 * SAMPLES]), SAMPLES);
        assert_eq!(
            narrow(&chosen[2 * SAMPLES..]),
            1,
            "one probe of two is narrow"
        );
    }

    #[test]
    fn one_slow_run_changes_nothing_but_a_change_that_lasts_does() {
        let mut scaling = measured(&[(1, 4000), (2, 2000)]);
        scaling.record(2, 50_000, Duration::from_secs(1));
        assert_eq!(scaling.choose(2), 2);
        for _ in 0..SAMPLES {
            scaling.record(2, 50_000, Duration::from_millis(9));
        }
        assert_eq!(scaling.choose(2), 1);
    }

    #[test]
    fn runs_of_different_sizes_are_compared_per_pixel() {
        let mut scaling = measured(&[(1, 4000), (2, 2000)]);
        for _ in 0..SAMPLES {
            scaling.record(2, 500_000, Duration::from_millis(20));
        }
        assert_eq!(scaling.choose(2), 2);
        let time = |threads: usize| {
            let all = scaling.measured();
            all.iter()
                .find(|width| width.threads == threads)
                .map(|width| width.time)
        };
        assert_eq!(time(1), Some(Duration::from_millis(40)));
        assert_eq!(time(2), Some(Duration::from_millis(20)));
    }
}
