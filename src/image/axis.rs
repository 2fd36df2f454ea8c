//! Source samples and fixed-point weights of an antialiased resize along one axis, computed and rounded
//! as Pillow does.

use std::ops::Range;

use crate::manifest::Filter;

/// Fractional bits of a fixed-point weight. A weighted sum has 32 bits: the sample needs 8 of them, and
/// overshoot by negative weights 2.
pub(super) const PRECISION_BITS: u32 = 32 - 8 - 2;

/// The range of source samples that one output sample is computed from.
#[derive(Debug, Clone, Copy)]
struct Taps {
    /// Index of the first source sample.
    start: usize,
    /// Number of source samples.
    len: usize,
    /// Index in [`Axis::weights`] of the weight of the first source sample.
    weights: usize,
}

/// The source samples and weights of a range of output samples.
pub(super) struct Axis {
    taps: Vec<Taps>,
    weights: Vec<i32>,
}

impl Axis {
    /// Returns the weights of the output samples `outputs` of a line of `source` samples that is resized
    /// to `whole` samples.
    pub(super) fn new(source: u32, whole: u64, outputs: Range<u64>, filter: Filter) -> Self {
        let (kernel, support): (fn(f64) -> f64, f64) = match filter {
            Filter::Bilinear => (triangle, 1.0),
            Filter::Bicubic => (catmull_rom, 2.0),
        };
        let scale = f64::from(source) / whole as f64;
        // Antialiasing: the kernel widens when the image shrinks.
        let widening = scale.max(1.0);
        let (support, narrowing) = (support * widening, 1.0 / widening);
        let (mut axis, mut raw) = (Self::empty(), Vec::new());
        for out in outputs {
            let center = (out as f64 + 0.5) * scale;
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

    /// Adds an output sample whose source samples begin at `start`. Their weights `raw` are normalized
    /// to a sum of 1 and converted to fixed point, halves rounded away from zero.
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

    /// Returns, for each of `outputs`, the index of its first source sample and the weights of all its
    /// source samples.
    #[inline]
    pub(super) fn iter(&self, outputs: Range<usize>) -> impl Iterator<Item = (usize, &[i32])> {
        let weights = |taps: &Taps| &self.weights[taps.weights..taps.weights + taps.len];
        self.taps[outputs]
            .iter()
            .map(move |t| (t.start, weights(t)))
    }

    /// Returns the range of source samples that `outputs` need.
    pub(super) fn span(&self, outputs: Range<usize>) -> Range<usize> {
        let taps = &self.taps[outputs];
        let start = taps.first().map_or(0, |t| t.start);
        let end = taps.iter().map(|t| t.start + t.len).max();
        start..end.unwrap_or(start)
    }
}

/// The kernel of `PIL.Image.BILINEAR`.
fn triangle(x: f64) -> f64 {
    (1.0 - x.abs()).max(0.0)
}

/// The kernel of `PIL.Image.BICUBIC`: cubic convolution with a = -0.5, in Pillow's order of operations.
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
