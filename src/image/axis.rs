//! Computes the source samples and the fixed-point weights of an antialiased resize along one axis,
//! rounded as Pillow rounds them.

use std::ops::Range;

use super::decoded::Span;
use crate::manifest::Filter;

/// Number of fractional bits of a fixed-point weight. A weighted sum of samples has 32 bits: 8 for
/// the sample, and 2 for the sign and for sums that negative weights push above 255. The remaining
/// 22 bits are fractional.
pub(super) const PRECISION_BITS: u32 = 32 - 8 - 2;

/// The range of source samples that one output sample is computed from, and the place of their
/// weights.
#[derive(Debug, Clone, Copy)]
struct Taps {
    /// Index of the first source sample.
    start: usize,
    /// Number of source samples in the range.
    len: usize,
    /// Index in [`Axis::weights`] of the weight of the first source sample. The weights of the
    /// other source samples follow it.
    weights: usize,
}

/// The source samples and the weights of a range of output samples along one axis.
pub(super) struct Axis {
    taps: Vec<Taps>,
    weights: Vec<i32>,
}

impl Axis {
    /// Computes the source samples and weights of the output samples `outputs`, when the part `span`
    /// of a line of `source` samples is resized to `whole` samples with `filter`.
    pub(super) fn new(
        (source, span): (u32, Span),
        whole: u64,
        outputs: Range<u64>,
        filter: Filter,
    ) -> Self {
        let (kernel, support): (fn(f64) -> f64, f64) = match filter {
            Filter::Bilinear => (triangle, 1.0),
            Filter::Bicubic => (catmull_rom, 2.0),
        };
        let scale = span.len / whole as f64;
        // Antialiasing: when the image shrinks, the kernel widens to cover all source samples.
        let widening = scale.max(1.0);
        let (support, narrowing) = (support * widening, 1.0 / widening);
        let (mut axis, mut raw) = (Self::empty(), Vec::new());
        for out in outputs {
            let center = span.start + (out as f64 + 0.5) * scale;
            let start = (center - support + 0.5).max(0.0) as usize;
            let end = ((center + support + 0.5) as usize).min(source as usize);
            raw.clear();
            raw.extend((start..end).map(|x| kernel((x as f64 - center + 0.5) * narrowing)));
            axis.push(start, &raw);
        }
        axis
    }

    fn empty() -> Self {
        Self {
            taps: Vec::new(),
            weights: Vec::new(),
        }
    }

    /// Adds an output sample whose first source sample has the index `start`. `raw` holds the
    /// weights of its source samples, which are normalized to a sum of 1 and converted to fixed
    /// point, halves rounded away from zero.
    fn push(&mut self, start: usize, raw: &[f64]) {
        let sum: f64 = raw.iter().sum();
        self.taps.push(Taps {
            start,
            len: raw.len(),
            weights: self.weights.len(),
        });
        self.weights.extend(raw.iter().map(|weight| {
            let weight = if sum == 0.0 { *weight } else { weight / sum };
            let half = if weight < 0.0 { -0.5 } else { 0.5 };
            (half + weight * f64::from(1 << PRECISION_BITS)) as i32
        }));
    }

    /// Returns the number of output samples.
    pub(super) fn len(&self) -> usize {
        self.taps.len()
    }

    /// Returns, for each output sample in `outputs`, the index of its first source sample and the
    /// weights of all its source samples.
    #[inline]
    pub(super) fn iter(&self, outputs: Range<usize>) -> impl Iterator<Item = (usize, &[i32])> {
        let weights = |taps: &Taps| &self.weights[taps.weights..taps.weights + taps.len];
        self.taps[outputs]
            .iter()
            .map(move |t| (t.start, weights(t)))
    }

    /// Returns the smallest range of source samples that contains all source samples of `outputs`.
    pub(super) fn span(&self, outputs: Range<usize>) -> Range<usize> {
        let taps = &self.taps[outputs];
        let start = taps.first().map_or(0, |t| t.start);
        let end = taps.iter().map(|t| t.start + t.len).max();
        start..end.unwrap_or(start)
    }
}

/// Returns the kernel of `PIL.Image.BILINEAR` at distance `x` from its center.
fn triangle(x: f64) -> f64 {
    (1.0 - x.abs()).max(0.0)
}

/// Returns the kernel of `PIL.Image.BICUBIC` at distance `x` from its center: cubic convolution
/// with a = -0.5, in the order of operations of Pillow.
fn catmull_rom(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}
