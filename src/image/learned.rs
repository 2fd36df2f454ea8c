//! Measured decode times: a correction of the predictions in the module `cost`, learned while the
//! server runs.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Scale;
use super::cost::Coding;

/// Factor by which the sums shrink before a new image is added. The correction is therefore an average over about
/// the last 16 images, weighted by their predicted times.
const MEMORY: f64 = 15.0 / 16.0;
/// Maximum factor by which a prediction is raised or lowered. Clients choose the images that are
/// measured, and must not make an expensive image look free.
const MAX_FACTOR: f64 = 4.0;

/// Measured and predicted decode times, summed for each coding over its latest images.
#[derive(Debug, Default)]
pub struct DecodeTimes(Mutex<[Sums; Coding::KINDS]>);

/// Sums of times in nanoseconds, in which old images count less and less.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    measured: f64,
    predicted: f64,
}

impl DecodeTimes {
    /// Records that an image with the predicted decode time `predicted`, in nanoseconds, was decoded
    /// at the scale `scale` in the CPU time `measured`.
    pub fn record(&self, coding: Coding, scale: Scale, predicted: u64, measured: Duration) {
        let sums = &mut self.lock()[coding.kind(scale)];
        sums.measured = sums.measured * MEMORY + measured.as_nanos() as f64;
        sums.predicted = sums.predicted * MEMORY + predicted as f64;
    }

    /// Returns the predicted time `predicted`, in nanoseconds, corrected by the measurements of images
    /// with this coding, at full scale or at reduced ones as `scale` is: by a factor of at most 4 in
    /// either direction.
    pub fn corrected(&self, coding: Coding, scale: Scale, predicted: u64) -> u64 {
        let sums = self.lock()[coding.kind(scale)];
        if sums.predicted == 0.0 {
            return predicted;
        }
        let factor = (sums.measured / sums.predicted).clamp(1.0 / MAX_FACTOR, MAX_FACTOR);
        (predicted as f64 * factor) as u64
    }

    /// No code panics while it holds this lock.
    fn lock(&self) -> MutexGuard<'_, [Sums; Coding::KINDS]> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_coding_is_corrected_by_its_own_measurements() {
        let times = DecodeTimes::default();
        assert_eq!(times.corrected(Coding::Gif, Scale::Full, 1000), 1000);
        times.record(Coding::Gif, Scale::Full, 2_000, Duration::from_micros(3));
        assert_eq!(times.corrected(Coding::Gif, Scale::Full, 1000), 1500);
        assert_eq!(times.corrected(Coding::Bmp, Scale::Full, 1000), 1000);
        // All scan counts share one correction, because the prediction takes the scans into account.
        let scans = |scans| Coding::JpegProgressive { scans };
        times.record(scans(3), Scale::Full, 1000, Duration::from_nanos(500));
        assert_eq!(times.corrected(scans(100), Scale::Full, 1000), 500);
        assert_eq!(times.corrected(scans(3), Scale::Half, 1000), 1000);
        times.record(scans(3), Scale::Half, 1000, Duration::from_nanos(250));
        assert_eq!(times.corrected(scans(3), Scale::Eighth, 1000), 250);
        assert_eq!(times.corrected(scans(3), Scale::Full, 1000), 500);
    }

    #[test]
    fn corrections_are_bounded_and_follow_the_latest_images() {
        let times = DecodeTimes::default();
        times.record(Coding::WebPLossy, Scale::Full, 1_000_000, Duration::ZERO);
        assert_eq!(times.corrected(Coding::WebPLossy, Scale::Full, 1000), 250);
        for _ in 0..100 {
            times.record(
                Coding::WebPLossy,
                Scale::Full,
                1000,
                Duration::from_millis(1),
            );
        }
        assert_eq!(times.corrected(Coding::WebPLossy, Scale::Full, 1000), 4000);
    }
}
