//! Times of the stages of a request.

use std::ops::{Add, Index, IndexMut};
use std::time::Duration;

use crate::metrics::{ModelMetrics, Stage};

/// Time spent in each stage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timing([Duration; Stage::ALL.len()]);

impl Timing {
    /// Returns the time of all stages together.
    pub fn sum(&self) -> Duration {
        self.0.iter().sum()
    }
}

impl Index<Stage> for Timing {
    type Output = Duration;

    fn index(&self, stage: Stage) -> &Duration {
        &self.0[stage as usize]
    }
}

impl IndexMut<Stage> for Timing {
    fn index_mut(&mut self, stage: Stage) -> &mut Duration {
        &mut self.0[stage as usize]
    }
}

impl Add for Timing {
    type Output = Self;

    fn add(mut self, other: Self) -> Self {
        for (total, part) in self.0.iter_mut().zip(other.0) {
            *total += part;
        }
        self
    }
}

/// Times of the stages of a request and of its images.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestTiming {
    /// Times that all images of the request share: before its images are found, and after their results exist.
    shared: Timing,
    /// Times of each image alone.
    images: Vec<Timing>,
}

impl RequestTiming {
    /// Creates the times of a request whose images have results: `shared` until its images were found, and `images`
    /// from then on.
    pub fn new(shared: Timing, images: Vec<Timing>) -> Self {
        Self { shared, images }
    }

    /// Returns the time of each stage, summed over the images. For a request with one image, the stages add up to
    /// the time of the request.
    pub fn total(&self) -> Timing {
        self.images
            .iter()
            .fold(self.shared, |sum, image| sum + *image)
    }

    /// Returns the mean time of each stage over the images.
    pub fn mean(&self) -> Timing {
        let images = self.images.len().max(1) as u32;
        let sum = self.total();
        let mut mean = self.shared;
        for stage in Stage::ALL {
            mean[stage] += (sum[stage] - self.shared[stage]) / images;
        }
        mean
    }

    /// Adds `encoding`, the time to encode the results of all images.
    pub fn add_encoding(&mut self, encoding: Duration) {
        self.shared[Stage::encode] += encoding;
    }

    /// Adds the wait for a thread that is contained in `elapsed`, the time from the results of the images to the
    /// response.
    pub fn add_wait(&mut self, elapsed: Duration) {
        let wait = elapsed.saturating_sub(self.shared[Stage::encode]);
        self.shared[Stage::admission] += wait;
    }

    /// Counts the images and records their times in the metrics of their model. A stage that the images share counts
    /// for each image, but encoding counts once.
    pub(crate) fn record(&self, metrics: &ModelMetrics) {
        for image in &self.images {
            for stage in Stage::ALL {
                if stage != Stage::encode {
                    metrics.stage(stage, self.shared[stage] + image[stage]);
                }
            }
            metrics.images.inc();
        }
        metrics.stage(Stage::encode, self.total()[Stage::encode]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_times_count_once_in_the_total() {
        let milliseconds = Duration::from_millis;
        let mut shared = Timing::default();
        shared[Stage::receive] = milliseconds(3);
        let mut image = Timing::default();
        image[Stage::inference] = milliseconds(10);
        image[Stage::encode] = milliseconds(2);
        let mut timing = RequestTiming::new(shared, vec![image, image]);
        timing.add_encoding(milliseconds(1));
        timing.add_wait(milliseconds(5));
        let total = timing.total();
        assert_eq!(total[Stage::receive], milliseconds(3));
        assert_eq!(total[Stage::inference], milliseconds(20));
        assert_eq!(total[Stage::encode], milliseconds(5));
        assert_eq!(total[Stage::admission], milliseconds(4));
        assert_eq!(total.sum(), milliseconds(32));
        let mean = timing.mean();
        assert_eq!(mean[Stage::receive], milliseconds(3));
        assert_eq!(mean[Stage::inference], milliseconds(10));
        assert_eq!(mean[Stage::encode], milliseconds(3));
    }
}
