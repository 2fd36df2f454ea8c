//! How often a value's numbers occur, and the range of 8-bit steps that suits them.

use onnx_export::quantize::Range;
use serde::{Deserialize, Serialize};

/// Bins of a histogram, between the smallest and the largest number.
pub(super) const BINS: usize = 2048;
/// 8-bit steps.
const LEVELS: usize = 256;
/// Ranges that mse and entropy try: the whole, cut by a fiftieth of it at a time.
const CUTS: usize = 45;
/// How often each end is then cut by itself.
const ROUNDS: usize = 2;

/// How a range is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// Everything that was seen.
    Minmax,
    /// Between the percentile, such as 99.99, and the one as far from the other end.
    Percentile(f64),
    /// The range whose rounded numbers tell most about the original ones: least relative entropy.
    Entropy,
    /// The range with the least mean squared error.
    Mse,
}

/// Counts of a value's numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct Histogram {
    range: Range,
    counts: Vec<u64>,
}

impl Histogram {
    /// An empty histogram of numbers in `range`.
    pub fn new(range: Range) -> Self {
        Self {
            range,
            counts: vec![0; BINS],
        }
    }

    /// Counts more numbers.
    pub fn add(&mut self, numbers: &[f32]) {
        let Range { min, max } = self.range;
        let per_bin = BINS as f32 / (max - min).max(f32::MIN_POSITIVE);
        for number in numbers {
            // A NaN becomes bin 0.
            let bin = ((number - min) * per_bin) as usize;
            self.counts[bin.min(BINS - 1)] += 1;
        }
    }

    /// The range that `method` chooses.
    pub fn choose(&self, method: Method) -> Range {
        match method {
            Method::Minmax => self.range,
            Method::Percentile(percentile) => self.percentile(percentile),
            Method::Mse => self.least(|range| self.squared_error(range)),
            Method::Entropy => self.least(|range| self.relative_entropy(range)),
        }
    }

    /// The edge between two bins.
    fn edge(&self, bin: usize) -> f32 {
        let Range { min, max } = self.range;
        min + (max - min) * bin as f32 / BINS as f32
    }

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

    /// The range of least cost: both ends are cut alike at first, then each by itself.
    fn least(&self, cost: impl Fn(Range) -> f64) -> Range {
        // 0 is always among the steps; cut towards it, neither end passes the other.
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

    /// Sum of the squared differences between numbers and their 8-bit forms.
    fn squared_error(&self, range: Range) -> f64 {
        let step = f64::from(range.max - range.min).max(1e-12) / (LEVELS - 1) as f64;
        let bins = self
            .counts
            .iter()
            .enumerate()
            .filter(|(_, count)| **count > 0);
        bins.map(|(bin, count)| {
            let middle = f64::from(f32::midpoint(self.edge(bin), self.edge(bin + 1)));
            let outside = (middle - middle.clamp(f64::from(range.min), f64::from(range.max))).abs();
            // Inside, numbers lie anywhere within their step.
            let error = if outside > 0.0 {
                outside * outside
            } else {
                step * step / 12.0
            };
            *count as f64 * error
        })
        .sum()
    }

    /// Kullback-Leibler divergence of the clipped numbers from what 8 bits keep of them.
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

    fn bin_of(&self, number: f32) -> usize {
        let Range { min, max } = self.range;
        let part = (number - min) / (max - min).max(f32::MIN_POSITIVE);
        ((part * BINS as f32) as usize).min(BINS - 1)
    }
}

/// The counts with every level's spread evenly over its bins that are not empty.
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

/// Sum of `p * ln(p / q)`; what `q` misses counts as if it were there a thousandth of a time.
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

    /// A triangle of numbers around 0, and one far away.
    fn histogram() -> Histogram {
        let mut histogram = Histogram::new(Range {
            min: -1.0,
            max: 100.0,
        });
        let numbers: Vec<f32> = (0..100_000)
            .map(|i| (i % 1000 + i / 1000 * 10) as f32 / 1000.0 - 1.0)
            .collect();
        histogram.add(&numbers);
        histogram.add(&[100.0]);
        histogram
    }

    #[test]
    fn every_method_but_minmax_cuts_a_lonely_number_off() {
        let histogram = histogram();
        let cases = [
            (Method::Minmax, 100.0..=100.0),
            (Method::Percentile(99.99), 0.9..=1.1),
            (Method::Percentile(100.0), 99.9..=100.1),
            // A hundred thousand coarser numbers weigh as much as the lonely one's error.
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
    fn nothing_and_one_number_have_ranges() {
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
