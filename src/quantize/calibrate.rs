//! Calibration: activation ranges, histograms and channel means of a network's values, measured on
//! real images.

use std::collections::BTreeMap;

use onnx_export::quantize::{Observed, Range};

use super::histogram::Histogram;
use super::{Progress, QuantizeFailure, Subject};
use crate::engine::Arithmetic;
use crate::image::PreparedImage;

/// Maximum number of `f32` elements held in memory while histograms are counted: 256 MiB.
const MAX_HELD: f64 = (64 << 20) as f64;

/// Calibration statistics of one network over all calibration images.
#[derive(Debug, Clone, Default)]
pub struct Statistics {
    /// Statistics of every value that may be quantized, by the value's name in the network.
    pub values: BTreeMap<String, ValueStatistics>,
    /// For every input of a layer, by the name of this value: the mean of each channel.
    pub channel_means: BTreeMap<String, Vec<f32>>,
}

/// Calibration statistics of one value of a network over all calibration images.
#[derive(Debug, Clone)]
pub struct ValueStatistics {
    /// Smallest and largest element of the value in all images.
    pub range: Range,
    /// Mean number of elements of the value per image.
    pub size: f64,
    /// Histogram of the value's elements in all images.
    pub histogram: Histogram,
}

/// Runs the fp32 network on `images` and returns its calibration statistics. The first pass over
/// the images measures activation ranges and channel means. Further passes count the histograms
/// within these ranges; the number of passes depends on the memory that the values take.
///
/// # Errors
/// [`QuantizeFailure::Engine`] if ONNX Runtime cannot run the network.
/// [`QuantizeFailure::NothingSeen`] if no value has a finite activation range, as for a box head if
/// no image has a region proposal.
pub fn calibrate(
    subject: &Subject<'_>,
    images: &[PreparedImage],
    progress: &dyn Progress,
) -> Result<Statistics, QuantizeFailure> {
    progress.start("ranges", images.len());
    let mut summary = Summary::default();
    let (model, observed) = subject.network.observed();
    let mut probe = subject.probe(&model, Arithmetic::Kernels)?;
    for image in images {
        if let Some(outputs) = probe.run(image.clone())? {
            for (meaning, output) in observed.iter().zip(&outputs) {
                summary.add(meaning, &output.data);
            }
        }
        progress.step();
    }
    drop(probe);
    let mut statistics = summary.finish();
    if statistics.values.is_empty() {
        return Err(QuantizeFailure::NothingSeen);
    }
    count(subject, images, &mut statistics, progress)?;
    Ok(statistics)
}

/// Fills the histograms in `statistics`. Each pass over the images reads one group of values.
fn count(
    subject: &Subject<'_>,
    images: &[PreparedImage],
    statistics: &mut Statistics,
    progress: &dyn Progress,
) -> Result<(), QuantizeFailure> {
    let groups = groups(&statistics.values);
    progress.start("histograms", groups.len() * images.len());
    for group in groups {
        let mut probe = subject.probe(&subject.network.fetching(&group), Arithmetic::Kernels)?;
        for image in images {
            let outputs = probe.run(image.clone())?.unwrap_or_default();
            for (name, output) in group.iter().zip(&outputs) {
                if let Some(value) = statistics.values.get_mut(name) {
                    value.histogram.add(&output.data);
                }
            }
            progress.step();
        }
    }
    Ok(())
}

/// Groups the names of values so that the elements of each group fit into [`MAX_HELD`]. Twice the
/// mean size of a value is counted, which leaves room for larger images.
fn groups(values: &BTreeMap<String, ValueStatistics>) -> Vec<Vec<String>> {
    let mut groups: Vec<Vec<String>> = Vec::new();
    let mut held = f64::INFINITY;
    for (name, value) in values {
        if held + 2.0 * value.size > MAX_HELD {
            groups.push(Vec::new());
            held = 0.0;
        }
        held += 2.0 * value.size;
        if let Some(group) = groups.last_mut() {
            group.push(name.clone());
        }
    }
    groups
}

/// Ranges and sums over the images that have run so far, by name of the value.
#[derive(Debug, Default)]
struct Summary {
    values: BTreeMap<String, Extent>,
    /// Sums over the images of the means of each channel, by name of the value.
    means: BTreeMap<String, Vec<f64>>,
    /// Number of images in which each value occurred.
    images: BTreeMap<String, f64>,
}

/// Range and number of elements of one value in the images that have run so far.
#[derive(Debug)]
struct Extent {
    range: Range,
    /// Number of elements of the value, summed over the images.
    size: f64,
}

impl Default for Extent {
    fn default() -> Self {
        Self {
            range: Range {
                min: f32::INFINITY,
                max: f32::NEG_INFINITY,
            },
            size: 0.0,
        }
    }
}

impl Summary {
    /// Adds a statistic of one image. `output` holds its elements; `meaning` says which statistic
    /// it is, and of which value.
    fn add(&mut self, meaning: &Observed, output: &[f32]) {
        let Some(first) = output.first().copied() else {
            return;
        };
        match meaning {
            Observed::Min(value) => {
                let Extent { range, .. } = self.values.entry(value.clone()).or_default();
                range.min = range.min.min(first);
            }
            Observed::Max(value) => {
                let Extent { range, .. } = self.values.entry(value.clone()).or_default();
                range.max = range.max.max(first);
                *self.images.entry(value.clone()).or_default() += 1.0;
            }
            Observed::Size(value) => {
                self.values.entry(value.clone()).or_default().size += f64::from(first);
            }
            Observed::ChannelMeans(value) => {
                let sums = self.means.entry(value.clone());
                let sums = sums.or_insert_with(|| vec![0.0; output.len()]);
                for (sum, mean) in sums.iter_mut().zip(output) {
                    *sum += f64::from(*mean);
                }
            }
        }
    }

    /// Returns the statistics over all images: ranges, and sums divided by the number of images in
    /// which the value occurred. Values whose range is infinite or NaN are left out.
    fn finish(self) -> Statistics {
        let images = |value: &String| self.images.get(value).copied().unwrap_or(1.0);
        let is_finite = |range: &Range| range.min.is_finite() && range.max.is_finite();
        let values = self
            .values
            .iter()
            .filter(|(_, value)| is_finite(&value.range));
        let values = values.map(|(name, Extent { range, size })| {
            let statistics = ValueStatistics {
                range: *range,
                size: size / images(name),
                histogram: Histogram::new(*range),
            };
            (name.clone(), statistics)
        });
        let means = self.means.iter().map(|(name, sums)| {
            let count = images(name);
            let means = sums
                .iter()
                .map(|sum| round_to_three_digits(sum / count))
                .collect();
            (name.clone(), means)
        });
        Statistics {
            values: values.collect(),
            channel_means: means.collect(),
        }
    }
}

/// Rounds a mean to three significant digits, which is enough for a bias correction and short in a
/// file. Returns 0 for NaN and infinity.
fn round_to_three_digits(value: f64) -> f32 {
    if value == 0.0 || !value.is_finite() {
        return 0.0;
    }
    let unit = 10.0_f64.powf(value.abs().log10().floor() - 2.0);
    ((value / unit).round() * unit) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_are_rounded_to_three_digits() {
        let cases = [
            (1.23456, 1.23),
            (-0.000_987_65, -0.000_988),
            (99_999.0, 100_000.0),
            (0.0, 0.0),
        ];
        for (number, expected) in cases {
            let got = round_to_three_digits(number);
            assert!(
                (got - expected).abs() <= expected.abs() * 1e-6,
                "{number}: {got}"
            );
        }
        assert_eq!(round_to_three_digits(f64::NAN), 0.0);
    }
}
