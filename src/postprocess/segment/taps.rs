//! Source positions and weights of a bilinear resize, arranged for vector code.

#![expect(
    clippy::inline_always,
    reason = "functions that a SIMD kernel calls must be inlined to use its instruction set"
)]

use crate::image::bilinear::source_index;

/// The indices of the two source samples that an output sample is interpolated from, and the
/// weights of these two samples.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Tap {
    pub(super) first: usize,
    pub(super) second: usize,
    pub(super) weights: [f32; 2],
}

impl Tap {
    /// Returns the tap of output sample `out` when a row or column of `from` samples (> 0) is
    /// resized to `to` samples.
    pub(super) fn new(out: usize, from: usize, to: usize) -> Self {
        if from == to {
            return Self {
                first: out,
                second: out,
                weights: [1.0, 0.0],
            };
        }
        let (first, weight) = source_index(out, from, to);
        Self {
            first,
            second: (first + 1).min(from - 1),
            weights: [1.0 - weight, weight],
        }
    }
}

/// Neighboring output samples that are interpolated from the same two source samples. `start..end`
/// are their indices in the strip, `first` and `second` the indices of the source samples.
#[derive(Debug, Clone, Copy)]
struct Cell {
    start: usize,
    end: usize,
    first: usize,
    second: usize,
}

/// Number of output samples that [`Strip::lerp`] computes together, in vector registers. The last
/// chunk of a cell may write fewer than this many samples past the end of the cell.
const CHUNK: usize = 8;

/// The taps of up to `N` neighboring output samples of a row.
pub(super) struct Strip<const N: usize> {
    cells: Vec<Cell>,
    /// Two arrays: for each output sample of the strip, the weight of its first source sample and
    /// the weight of its second. Zeros are appended, so that a chunk may start at the last output
    /// sample.
    weights: [Vec<f32>; 2],
}

impl<const N: usize> Strip<N> {
    /// Length of the slice `line` that [`Strip::lerp`] fills: `N` output samples, and space for the
    /// samples that the last chunk writes past them.
    pub(super) const LINE: usize = N + CHUNK;

    /// Returns the taps of output samples `start..start + len`, with `len <= N`, when rows of
    /// `from` samples are resized to `to` samples.
    pub(super) fn new(start: usize, len: usize, from: usize, to: usize) -> Self {
        let mut strip = Self {
            cells: Vec::new(),
            weights: [vec![0.0; Self::LINE], vec![0.0; Self::LINE]],
        };
        for x in 0..len.min(N) {
            let tap = Tap::new(start + x, from, to);
            strip.weights[0][x] = tap.weights[0];
            strip.weights[1][x] = tap.weights[1];
            match strip.cells.last_mut() {
                Some(cell) if (cell.first, cell.second) == (tap.first, tap.second) => {
                    cell.end = x + 1;
                }
                _ => strip.cells.push(Cell {
                    start: x,
                    end: x + 1,
                    first: tap.first,
                    second: tap.second,
                }),
            }
        }
        strip
    }

    /// Interpolates the output samples of the strip from `row`, a source row, into `line`, which
    /// has [`Strip::LINE`] samples. The samples of `line` past the strip's output samples are
    /// unspecified.
    #[inline(always)]
    pub(super) fn lerp(&self, row: &[f32], line: &mut [f32]) {
        for cell in &self.cells {
            let (left, right) = (row[cell.first], row[cell.second]);
            for x in (cell.start..cell.end).step_by(CHUNK) {
                let chunk = |source: usize| self.weights[source][x..].first_chunk::<CHUNK>();
                let out = line[x..].first_chunk_mut::<CHUNK>();
                if let (Some(w0), Some(w1), Some(out)) = (chunk(0), chunk(1), out) {
                    for i in 0..CHUNK {
                        out[i] = left * w0[i] + right * w1[i];
                    }
                }
            }
        }
    }
}
