//! How fast a queue drains, measured online, as plain data: the clock is passed in.
//!
//! While at least a full batch waits, the time from one finished batch to the next is measured. It includes
//! everything that takes time then: decoding, other models, other processes. Before the first such
//! measurement, the speed is predicted from a line through the run times of batches and from the time to
//! prepare an image.

use std::time::{Duration, Instant};

/// Weight of all earlier measurements when a new one is added: an average over about the last 16.
const MEMORY: f64 = 15.0 / 16.0;

/// Measured speed of one model's queue.
#[derive(Debug)]
pub(super) struct DrainRate {
    workers: f64,
    max_batch_size: usize,
    runs: Line,
    /// Seconds from one prepared image to the next if all threads prepare images; 0 before the first image.
    preparation: f64,
    /// Seconds in which at least a full batch was waiting, and the images that ran in them.
    saturated: (f64, f64),
    /// End of the last batch, if a full batch was waiting then and no run has failed since.
    last: Option<Instant>,
}

impl DrainRate {
    /// Creates the rate of a queue with `workers` workers and batches of up to `max_batch_size` images,
    /// without measurements.
    pub(super) fn new(workers: usize, max_batch_size: usize) -> Self {
        Self {
            workers: workers.max(1) as f64,
            max_batch_size: max_batch_size.max(1),
            runs: Line::default(),
            preparation: 0.0,
            saturated: (0.0, 0.0),
            last: None,
        }
    }

    /// Records that one of `threads` threads decoded and preprocessed an image in `time`.
    pub(super) fn prepared(&mut self, time: Duration, threads: usize) {
        let seconds = time.as_secs_f64() / threads.max(1) as f64;
        self.preparation = if self.preparation == 0.0 {
            seconds
        } else {
            self.preparation * MEMORY + seconds * (1.0 - MEMORY)
        };
    }

    /// Records a successful run of `images` images that took `run` and ended at `now`, when `waiting` images
    /// were in the queue.
    pub(super) fn ran(&mut self, images: usize, run: Duration, now: Instant, waiting: u64) {
        self.runs.add(images as f64, run.as_secs_f64());
        if let Some(last) = self.last {
            let seconds = now.saturating_duration_since(last).as_secs_f64();
            let (total, count) = self.saturated;
            self.saturated = (total * MEMORY + seconds, count * MEMORY + images as f64);
        }
        self.last = (waiting >= self.max_batch_size as u64).then_some(now);
    }

    /// Records that a run failed: the time until the next finished run is not measured.
    pub(super) fn interrupted(&mut self) {
        self.last = None;
    }

    /// Predicts the time until `images` images have run; zero before the first measurement.
    pub(super) fn time(&self, images: u64) -> Duration {
        let images = images as f64;
        let (seconds, count) = self.saturated;
        let predicted = if count > 0.0 {
            images * seconds / count
        } else {
            let batches = (images / self.max_batch_size as f64).ceil();
            let runs = self.runs.sum(images, batches) / self.workers;
            // Preparation and inference share the cores, so their times add up.
            runs + images * self.preparation
        };
        Duration::try_from_secs_f64(predicted).unwrap_or(Duration::MAX)
    }
}

/// A least-squares line through points `(images, seconds)`, in which old points count less and less.
#[derive(Debug, Default)]
struct Line {
    weight: f64,
    x: f64,
    y: f64,
    xx: f64,
    xy: f64,
}

impl Line {
    fn add(&mut self, x: f64, y: f64) {
        for (sum, new) in [
            (&mut self.weight, 1.0),
            (&mut self.x, x),
            (&mut self.y, y),
            (&mut self.xx, x * x),
            (&mut self.xy, x * y),
        ] {
            *sum = *sum * MEMORY + new;
        }
    }

    /// Returns the seconds at 0 images and the seconds per image, neither negative. If all batches had the
    /// same size, their time is taken as proportional to it.
    fn coefficients(&self) -> (f64, f64) {
        let spread = self.weight * self.xx - self.x * self.x;
        if spread <= 1e-6 * self.weight * self.xx {
            return (0.0, if self.x > 0.0 { self.y / self.x } else { 0.0 });
        }
        let slope = (self.weight * self.xy - self.x * self.y) / spread;
        let slope = slope.clamp(0.0, self.y / self.x);
        ((self.y - slope * self.x) / self.weight, slope)
    }

    /// Returns the seconds that `batches` batches with `images` images in all take one after the other.
    fn sum(&self, images: f64, batches: f64) -> f64 {
        let (fixed, slope) = self.coefficients();
        fixed * batches + slope * images
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn milliseconds(time: Duration) -> u128 {
        time.as_micros().div_ceil(100) / 10
    }

    #[test]
    fn a_line_is_fitted_before_the_queue_was_ever_full() {
        let mut rate = DrainRate::new(2, 4);
        assert_eq!(rate.time(100), Duration::ZERO);
        let start = Instant::now();
        for images in [1, 4, 2, 3] {
            let run = Duration::from_millis(6 + 2 * images);
            rate.ran(images as usize, run, start, 0);
        }
        // Three batches of 6 + 4 * 2 ms on two workers.
        assert_eq!(milliseconds(rate.time(12)), 21);
        rate.prepared(Duration::from_millis(4), 2);
        assert_eq!(milliseconds(rate.time(12)), 21 + 24);
    }

    #[test]
    fn batches_of_one_size_are_taken_as_proportional() {
        let mut rate = DrainRate::new(1, 4);
        rate.ran(1, Duration::from_millis(10), Instant::now(), 0);
        assert_eq!(milliseconds(rate.time(8)), 80);
    }

    #[test]
    fn a_full_queue_is_measured_with_all_that_slows_it() {
        let mut rate = DrainRate::new(1, 2);
        let start = Instant::now();
        for batch in 0..20 {
            let end = start + Duration::from_millis(30 * batch);
            rate.ran(2, Duration::from_millis(10), end, 2);
        }
        assert_eq!(milliseconds(rate.time(100)), 1500);
    }

    #[test]
    fn idle_time_and_failed_runs_are_not_measured() {
        let mut rate = DrainRate::new(1, 2);
        let start = Instant::now();
        let run = Duration::from_millis(10);
        rate.ran(2, run, start, 1);
        rate.ran(2, run, start + Duration::from_secs(5), 2);
        rate.interrupted();
        rate.ran(2, run, start + Duration::from_secs(6), 2);
        assert_eq!(milliseconds(rate.time(2)), 10);
        rate.ran(2, run, start + Duration::from_millis(6020), 2);
        assert_eq!(milliseconds(rate.time(2)), 20);
    }

    #[test]
    fn faster_large_batches_do_not_make_a_negative_prediction() {
        let mut rate = DrainRate::new(1, 8);
        rate.ran(1, Duration::from_millis(50), Instant::now(), 0);
        rate.ran(8, Duration::from_millis(10), Instant::now(), 0);
        assert!(rate.time(1000) > Duration::ZERO);
    }
}
