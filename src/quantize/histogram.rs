//! Histograms of a value's elements, and the activation range chosen from them.

use onnx_export::quantize::Range;
use serde::{Deserialize, Serialize};

/// Number of bins of a histogram, between the smallest and the largest element.
pub(super) const BINS: usize = 2048;
/// Number of levels that a uint8 value can have.
const LEVELS: usize = 256;
/// Number of ranges that `Mse` and `Entropy` try in each pass: the whole range scaled by 1, 0.98,
/// 0.96, ..., 0.12.
const CUTS: usize = 45;
/// Number of passes in which `Mse` and `Entropy` move each end of the range separately, after both
/// ends were scaled together.
const ROUNDS: usize = 2;

/// The method by which an activation range is chosen from a histogram.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// The range from the smallest to the largest element.
    Minmax,
    /// The range that excludes `100 - percentile` percent of the elements at each end: 0.01 % at
    /// each end for percentile 99.99.
    Percentile(f64),
    /// The range with the least relative entropy between the elements and their quantized values.
    Entropy,
    /// The range with the least mean squared error of the quantized values.
    Mse,
}

/// Counts of a value's elements in 2048 bins of equal width over its range.
#[derive(Debug, Clone, PartialEq)]
pub struct Histogram {
    range: Range,
    counts: Vec<u64>,
}

impl Histogram {
    /// Creates an empty histogram of elements in `range`.
    pub fn new(range: Range) -> Self {
        Self {
            range,
            counts: vec![0; BINS],
        }
    }

    /// Counts elements. An element outside the range is counted in the first or last bin, NaN in
    /// the first bin.
    pub fn add(&mut self, elements: &[f32]) {
        let Range { min, max } = self.range;
        let per_bin = BINS as f32 / (max - min).max(f32::MIN_POSITIVE);
        for element in elements {
            let bin = ((element - min) * per_bin) as usize;
            self.counts[bin.min(BINS - 1)] += 1;
        }
    }

    /// Returns the activation range that `method` chooses for the counted elements.
    pub fn choose(&self, method: Method) -> Range {
        match method {
            Method::Minmax => self.range,
            Method::Percentile(percentile) => self.percentile(percentile),
            Method::Mse => self.least(|range| self.squared_error(range)),
            Method::Entropy => self.least(|range| self.relative_entropy(range)),
        }
    }

    /// Returns the element value at the lower edge of bin `bin`.
    fn edge(&self, bin: usize) -> f32 {
        let Range { min, max } = self.range;
        min + (max - min) * bin as f32 / BINS as f32
    }

    /// Returns the range that excludes `100 - percentile` percent of the elements at each end,
    /// rounded to whole bins.
    fn percentile(&self, percentile: f64) -> Range {
        let total: u64 = self.counts.iter().sum();
        let tail = ((1.0 - percentile / 100.0) * total as f64) as u64;
        let inside = |counts: &mut dyn Iterator<Item = &u64>| {
            let mut seen = 0;
            counts
                .take_while(|count| {
                    seen += **count;
                    seen <= tail
                })
                .count()
        };
        let below = inside(&mut self.counts.iter());
        let above = inside(&mut self.counts.iter().rev());
        Range {
            min: self.edge(below),
            max: self.edge((BINS - above).max(below + 1)),
        }
    }

    /// Returns the range of least `cost` among those that are tried: first both ends are scaled
    /// together, then each end separately.
    fn least(&self, cost: impl Fn(Range) -> f64) -> Range {
        // The range is extended to contain 0, so that an end that is scaled towards 0 cannot pass
        // the other end.
        let (min, max) = (self.range.min.min(0.0), self.range.max.max(0.0));
        let parts = || (0..CUTS).map(|step| 1.0 - step as f32 / 50.0);
        let best = |ranges: &mut dyn Iterator<Item = Range>| {
            let costs = ranges.map(|range| (cost(range), range));
            let best = costs.min_by(|(one, _), (other, _)| one.total_cmp(other));
            best.map_or(self.range, |(_, range)| range)
        };
        let mut range = best(&mut parts().map(|part| Range {
            min: min * part,
            max: max * part,
        }));
        for _ in 0..ROUNDS {
            let Range { min: low, .. } = range;
            range = best(&mut parts().map(|part| Range {
                min: low,
                max: max * part,
            }));
            let Range { max: high, .. } = range;
            range = best(&mut parts().map(|part| Range {
                min: min * part,
                max: high,
            }));
        }
        range
    }

    /// Returns the sum of the squared errors of all elements if they are quantized to 256 levels
    /// over `range`.
    fn squared_error(&self, range: Range) -> f64 {
        let scale = f64::from(range.max - range.min).max(1e-12) / (LEVELS - 1) as f64;
        let bins = self
            .counts
            .iter()
            .enumerate()
            .filter(|(_, count)| **count > 0);
        bins.map(|(bin, count)| {
            let middle = f64::from(f32::midpoint(self.edge(bin), self.edge(bin + 1)));
            let outside = (middle - middle.clamp(f64::from(range.min), f64::from(range.max))).abs();
            // The rounding error of an element inside the range is uniform over one step of
            // `scale`, and its mean square is scale^2 / 12.
            let error = if outside > 0.0 {
                outside * outside
            } else {
                scale * scale / 12.0
            };
            *count as f64 * error
        })
        .sum()
    }

    /// Returns the Kullback-Leibler divergence between the elements clipped to `range` and their
    /// quantized values.
    ///
    /// Source: Migacz, "8-bit Inference with `TensorRT`" (2017), the calibration of activations.
    fn relative_entropy(&self, range: Range) -> f64 {
        let (low, high) = (self.bin_of(range.min), self.bin_of(range.max) + 1);
        let mut clipped: Vec<f64> = self.counts[low..high].iter().map(|n| *n as f64).collect();
        let kept = clipped.clone();
        let sum = |counts: &[u64]| counts.iter().sum::<u64>() as f64;
        clipped[0] += sum(&self.counts[..low]);
        if let Some(last) = clipped.last_mut() {
            *last += sum(&self.counts[high..]);
        }
        let coarse = flattened(&kept);
        divergence(&clipped, &coarse)
    }

    /// Returns the index of the bin that an element falls into.
    fn bin_of(&self, element: f32) -> usize {
        let Range { min, max } = self.range;
        let part = (element - min) / (max - min).max(f32::MIN_POSITIVE);
        ((part * BINS as f32) as usize).min(BINS - 1)
    }
}

/// Returns `counts` quantized to 256 levels. A level covers several bins; its total count is spread
/// evenly over those of its bins that are not empty.
fn flattened(counts: &[f64]) -> Vec<f64> {
    let mut out = Vec::with_capacity(counts.len());
    let edge = |level: usize| level * counts.len() / LEVELS;
    for level in 0..LEVELS {
        let bins = &counts[edge(level)..edge(level + 1)];
        let filled = bins.iter().filter(|count| **count > 0.0).count().max(1);
        let each = bins.iter().sum::<f64>() / filled as f64;
        out.extend(
            bins.iter()
                .map(|count| if *count > 0.0 { each } else { 0.0 }),
        );
    }
    out
}

/// Returns the Kullback-Leibler divergence, the sum of `p * ln(p / q)` over normalized counts. A
/// count of `q` is taken as at least 0.001, to avoid division by zero. Infinity if all counts of
/// `p` or of `q` are 0.
fn divergence(p: &[f64], q: &[f64]) -> f64 {
    let (all_p, all_q) = (p.iter().sum::<f64>(), q.iter().sum::<f64>());
    if all_p <= 0.0 || all_q <= 0.0 {
        return f64::INFINITY;
    }
    let terms = p.iter().zip(q).filter(|(p, _)| **p > 0.0);
    terms
        .map(|(p, q)| (p / all_p) * ((p / all_p) / (q.max(1e-3) / all_q)).ln())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a histogram of 100,000 elements in a triangular distribution from -1 to 1, and one
    /// outlier at 100.
    fn histogram() -> Histogram {
        let mut histogram = Histogram::new(Range {
            min: -1.0,
            max: 100.0,
        });
        let elements: Vec<f32> = (0..100_000)
            .map(|i| (i % 1000 + i / 1000 * 10) as f32 / 1000.0 - 1.0)
            .collect();
        histogram.add(&elements);
        histogram.add(&[100.0]);
        histogram
    }

    #[test]
    fn every_method_but_minmax_clips_an_outlier() {
        let histogram = histogram();
        let cases = [
            (Method::Minmax, 100.0..=100.0),
            (Method::Percentile(99.99), 0.9..=1.1),
            (Method::Percentile(100.0), 99.9..=100.1),
            // The best end is a compromise: a wider range rounds the 100,000 elements more
            // coarsely, a narrower range clips the outlier at 100 more.
            (Method::Mse, 80.0..=95.0),
            (Method::Entropy, 1.0..=50.0),
        ];
        for (method, expected) in cases {
            let range = histogram.choose(method);
            assert!(expected.contains(&range.max), "{method:?}: {range:?}");
            assert!(
                range.min <= 0.0 && range.min >= -1.0,
                "{method:?}: {range:?}"
            );
        }
    }

    #[test]
    fn empty_histograms_and_single_elements_have_finite_ranges() {
        for (min, max) in [
            (0.0, 0.0),
            (2.0, 2.0),
            (2.0, 3.0),
            (-3.0, -2.0),
            (1.0, 100.0),
        ] {
            let range = Range { min, max };
            let mut histogram = Histogram::new(range);
            for _ in 0..2 {
                for method in [
                    Method::Minmax,
                    Method::Percentile(99.0),
                    Method::Entropy,
                    Method::Mse,
                ] {
                    let chosen = histogram.choose(method);
                    assert!(
                        chosen.min.is_finite()
                            && chosen.max.is_finite()
                            && chosen.min <= chosen.max,
                        "{method:?} {chosen:?}"
                    );
                }
                histogram.add(&[range.min]);
            }
        }
    }
}
