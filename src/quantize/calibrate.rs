//! What a network's values are on real pictures.

use std::collections::BTreeMap;

use onnx_export::quantize::{Observed, Range};

use super::histogram::Histogram;
use super::{Progress, QuantizeFailure, Subject};
use crate::engine::Arithmetic;
use crate::image::PreparedImage;

/// Numbers that are held at once while histograms are counted: 256 MiB of them.
const MAX_HELD: f64 = (64 << 20) as f64;

/// Statistics of one network.
#[derive(Debug, Clone, Default)]
pub struct Statistics {
    /// Of every value that may become 8-bit.
    pub values: BTreeMap<String, ValueStatistics>,
    /// Of every layer's input: the mean of each channel.
    pub channel_means: BTreeMap<String, Vec<f32>>,
}

/// Statistics of one value.
#[derive(Debug, Clone)]
pub struct ValueStatistics {
    /// Between which numbers it lies.
    pub range: Range,
    /// Numbers of one picture, on average.
    pub size: f64,
    /// How often they occur.
    pub histogram: Histogram,
}

/// Runs the float network over `pictures`, twice: for the ranges, and for the histograms in them.
///
/// # Errors
/// [`QuantizeFailure`] if the network fails, or is nowhere given anything to look at.
pub fn calibrate(
    subject: &Subject<'_>,
    pictures: &[PreparedImage],
    progress: &dyn Progress,
) -> Result<Statistics, QuantizeFailure> {
    progress.start("ranges", pictures.len());
    let mut summary = Summary::default();
    let (model, observed) = subject.network.observed();
    let mut probe = subject.probe(&model, Arithmetic::Kernels)?;
    for picture in pictures {
        if let Some(outputs) = probe.run(picture.clone())? {
            for (what, output) in observed.iter().zip(&outputs) {
                summary.add(what, &output.data);
            }
        }
        progress.step();
    }
    drop(probe);
    let mut statistics = summary.finish();
    if statistics.values.is_empty() {
        return Err(QuantizeFailure::NothingSeen);
    }
    count(subject, pictures, &mut statistics, progress)?;
    Ok(statistics)
}

/// Fills the histograms, a group of values at a time.
fn count(
    subject: &Subject<'_>,
    pictures: &[PreparedImage],
    statistics: &mut Statistics,
    progress: &dyn Progress,
) -> Result<(), QuantizeFailure> {
    let groups = groups(&statistics.values);
    progress.start("histograms", groups.len() * pictures.len());
    for group in groups {
        let mut probe = subject.probe(&subject.network.fetching(&group), Arithmetic::Kernels)?;
        for picture in pictures {
            let outputs = probe.run(picture.clone())?.unwrap_or_default();
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

/// Values that fit into memory together. Twice their average leaves room for larger pictures.
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

/// What was seen so far.
#[derive(Debug, Default)]
struct Summary {
    values: BTreeMap<String, (Range, f64)>,
    means: BTreeMap<String, Vec<f64>>,
    pictures: BTreeMap<String, f64>,
}

impl Summary {
    fn add(&mut self, what: &Observed, numbers: &[f32]) {
        let nothing = || {
            (
                Range {
                    min: f32::INFINITY,
                    max: f32::NEG_INFINITY,
                },
                0.0,
            )
        };
        let Some(first) = numbers.first().copied() else {
            return;
        };
        match what {
            Observed::Min(value) => {
                let (range, _) = self.values.entry(value.clone()).or_insert_with(nothing);
                range.min = range.min.min(first);
            }
            Observed::Max(value) => {
                let (range, _) = self.values.entry(value.clone()).or_insert_with(nothing);
                range.max = range.max.max(first);
                *self.pictures.entry(value.clone()).or_default() += 1.0;
            }
            Observed::Size(value) => {
                self.values.entry(value.clone()).or_insert_with(nothing).1 += f64::from(first);
            }
            Observed::ChannelMeans(value) => {
                let sums = self.means.entry(value.clone());
                let sums = sums.or_insert_with(|| vec![0.0; numbers.len()]);
                for (sum, mean) in sums.iter_mut().zip(numbers) {
                    *sum += f64::from(*mean);
                }
            }
        }
    }

    fn finish(self) -> Statistics {
        let pictures = |value: &String| self.pictures.get(value).copied().unwrap_or(1.0);
        let usable = |range: &Range| range.min.is_finite() && range.max.is_finite();
        let values = self.values.iter().filter(|(_, (range, _))| usable(range));
        let values = values.map(|(name, (range, size))| {
            let statistics = ValueStatistics {
                range: *range,
                size: size / pictures(name),
                histogram: Histogram::new(*range),
            };
            (name.clone(), statistics)
        });
        let means = self.means.iter().map(|(name, sums)| {
            let count = pictures(name);
            let means = sums.iter().map(|sum| shortened(sum / count)).collect();
            (name.clone(), means)
        });
        Statistics {
            values: values.collect(),
            channel_means: means.collect(),
        }
    }
}

/// A number of three significant digits: what a correction needs, and short in a file.
fn shortened(number: f64) -> f32 {
    if number == 0.0 || !number.is_finite() {
        return 0.0;
    }
    let unit = 10.0_f64.powf(number.abs().log10().floor() - 2.0);
    ((number / unit).round() * unit) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_are_kept_to_three_digits() {
        let cases = [
            (1.23456, 1.23),
            (-0.000_987_65, -0.000_988),
            (99_999.0, 100_000.0),
            (0.0, 0.0),
        ];
        for (number, expected) in cases {
            let got = shortened(number);
            assert!(
                (got - expected).abs() <= expected.abs() * 1e-6,
                "{number}: {got}"
            );
        }
        assert_eq!(shortened(f64::NAN), 0.0);
    }
}
