//! Which two logits an output sample lies between, and how near to each.

#![expect(
    clippy::inline_always,
    reason = "what a kernel calls must be compiled for its instruction set"
)]

use crate::image::bilinear::source_index;

/// Two neighbouring inputs and their weights.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Tap {
    pub(super) first: usize,
    pub(super) second: usize,
    pub(super) weights: [f32; 2],
}

impl Tap {
    /// Where output sample `out` of `to` falls among `from` inputs, which must not be none.
    pub(super) fn new(out: usize, from: usize, to: usize) -> Self {
        if from == to {
            return Self {
                first: out,
                second: out,
                weights: [1.0, 0.0],
            };
        }
        let (first, near) = source_index(out, from, to);
        Self {
            first,
            second: (first + 1).min(from - 1),
            weights: [1.0 - near, near],
        }
    }
}

/// Outputs side by side that lie between the same two inputs.
#[derive(Debug, Clone, Copy)]
struct Cell {
    start: usize,
    end: usize,
    first: usize,
    second: usize,
}

/// Neighbours that [`Strip::lerp`] makes at once. It may write as many past the end of a cell.
const CHUNK: usize = 8;

/// The taps of up to `N` neighbouring outputs, arranged for making all of them from a row.
pub(super) struct Strip<const N: usize> {
    cells: Vec<Cell>,
    /// Weights of the first and the second input, with room for a chunk that begins at the last.
    weights: [Vec<f32>; 2],
}

impl<const N: usize> Strip<N> {
    /// Samples that a line for [`Strip::lerp`] must have room for.
    pub(super) const LINE: usize = N + CHUNK;

    /// Outputs `start..start + len` of `to`, with `len <= N`, from rows of `from` samples.
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

    /// The outputs from `row`, of `from` samples; `line` has [`Strip::LINE`] samples, of which those
    /// past the outputs are left undefined.
    #[inline(always)]
    pub(super) fn lerp(&self, row: &[f32], line: &mut [f32]) {
        for cell in &self.cells {
            let (left, right) = (row[cell.first], row[cell.second]);
            for x in (cell.start..cell.end).step_by(CHUNK) {
                let chunk = |of: usize| self.weights[of][x..].first_chunk::<CHUNK>();
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
