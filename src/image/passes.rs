//! The two passes of a resize: weighted sums along rows, then down the columns.
//!
//! Down the columns, neighboring samples share their weights and source rows, so a vector holds
//! neighboring samples. Along a row every pixel has its own weights, so the vectors run across rows
//! instead: 32 rows are transposed, the same weighted sum runs on lines of 32 samples, and its result
//! is transposed back.
//!
//! What is *not* here: the weights, see [`super::axis`].

#![expect(
    clippy::inline_always,
    reason = "what a kernel calls must be compiled for its instruction set"
)]

use fearless_simd::{Simd, SimdBase, u8x16};

use super::axis::{Axis, PRECISION_BITS};
use crate::simd::{Kernel, dispatch};

/// One half in fixed point: makes the final shift round to nearest.
const HALF: i32 = 1 << (PRECISION_BITS - 1);
/// Number of neighboring samples whose sums are kept in registers. For fewer, the compiler unrolls the
/// loops into scalar code.
const LANES: usize = 32;
/// Number of pixels that the first pass computes between two transpositions; their scratch memory fits
/// into the cache.
const PIXELS: usize = 32;
/// Side of the squares that are transposed in registers.
const SQUARE: usize = 16;

/// First pass: rows `[h, w, 3]` of `stride` bytes each to `[h, columns.len(), 3]`.
pub(super) fn filter_rows(rows: &[u8], stride: usize, columns: &Axis) -> Vec<u8> {
    let out_stride = columns.len() * 3;
    let mut out = vec![0; rows.len() / stride * out_stride];
    // Images smaller than a block are filtered row by row: padding them would waste work, and the
    // scratch memory could be larger than the image.
    if rows.len() / stride < LANES || columns.len() < PIXELS {
        let out_rows = out.chunks_exact_mut(out_stride);
        for (row, out) in rows.chunks_exact(stride).zip(out_rows) {
            let all = columns.iter(0..columns.len());
            filter_pixels::<1>(row.as_chunks().0, 0, all, out.as_chunks_mut().0);
        }
        return out;
    }
    dispatch(RowPass {
        rows,
        stride,
        columns,
        out: &mut out,
    });
    out
}

struct RowPass<'a> {
    rows: &'a [u8],
    stride: usize,
    columns: &'a Axis,
    out: &'a mut [u8],
}

impl Kernel for RowPass<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let out_stride = self.columns.len() * 3;
        let mut lines = Vec::new();
        let mut filtered = [[0; LANES]; PIXELS * 3];
        for y in blocks(self.rows.len() / self.stride, LANES) {
            for x in blocks(self.columns.len(), PIXELS) {
                let outputs = x..x + PIXELS;
                let span = self.columns.span(outputs.clone());
                lines.resize(span.len() * 3, [0; LANES]);
                let rows = &self.rows[y * self.stride + span.start * 3..];
                transpose_rows(simd, rows, self.stride, &mut lines);
                let weights = self.columns.iter(outputs);
                filter_pixels(&lines, span.start, weights, &mut filtered);
                let out = &mut self.out[y * out_stride + x * 3..];
                transpose_lines(simd, &filtered, out, out_stride);
            }
        }
    }
}

/// Returns the starts of blocks of `size` that cover `len` samples; the last block may overlap the one
/// before it.
#[inline(always)]
fn blocks(len: usize, size: usize) -> impl Iterator<Item = usize> {
    (0..len).step_by(size).map(move |at| at.min(len - size))
}

/// Computes output pixels of `N` rows at a time: `lines[3 * x + c]` is channel `c` of pixel
/// `first + x` of each row.
#[inline(always)]
fn filter_pixels<'a, const N: usize>(
    lines: &[[u8; N]],
    first: usize,
    weights: impl Iterator<Item = (usize, &'a [i32])>,
    out: &mut [[u8; N]],
) {
    for ((start, weights), pixel) in weights.zip(out.as_chunks_mut::<3>().0) {
        let lines = lines[(start - first) * 3..].as_flattened();
        for (c, out) in pixel.iter_mut().enumerate() {
            weigh(&lines[c * N..], 3 * N, weights, out);
        }
    }
}

/// Second pass: filters source rows, the first of which is row `first` of the image, into the rows of
/// `out`.
pub(super) fn filter_columns(rows: &[u8], first: usize, axis: &Axis, out: &mut [u8]) {
    dispatch(ColumnPass {
        rows,
        first,
        axis,
        out,
    });
}

struct ColumnPass<'a> {
    rows: &'a [u8],
    first: usize,
    axis: &'a Axis,
    out: &'a mut [u8],
}

impl Kernel for ColumnPass<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let stride = self.out.len() / self.axis.len();
        let weights = self.axis.iter(0..self.axis.len());
        for ((start, weights), out) in weights.zip(self.out.chunks_exact_mut(stride)) {
            let rows = &self.rows[(start - self.first) * stride..];
            if stride < LANES {
                for (x, out) in out.as_chunks_mut::<1>().0.iter_mut().enumerate() {
                    weigh(&rows[x..], stride, weights, out);
                }
                continue;
            }
            for x in blocks(stride, LANES) {
                if let Some(out) = out[x..].first_chunk_mut::<LANES>() {
                    weigh(&rows[x..], stride, weights, out);
                }
            }
        }
    }
}

/// Computes the weighted sum of the first `N` samples of lines that start `stride` bytes apart.
#[inline(always)]
fn weigh<const N: usize>(lines: &[u8], stride: usize, weights: &[i32], out: &mut [u8; N]) {
    let mut sums = [HALF; N];
    for (line, weight) in lines.chunks(stride).zip(weights) {
        let Some(line) = line.first_chunk::<N>() else {
            break;
        };
        for (sum, sample) in sums.iter_mut().zip(line) {
            *sum += i32::from(*sample) * weight;
        }
    }
    for (out, sum) in out.iter_mut().zip(&sums) {
        *out = (sum >> PRECISION_BITS).clamp(0, 255) as u8;
    }
}

/// Transposes the first bytes of `LANES` rows, one per line, to `[lines, LANES]`.
#[inline(always)]
fn transpose_rows<S: Simd>(simd: S, rows: &[u8], stride: usize, lines: &mut [[u8; LANES]]) {
    if lines.len() < SQUARE {
        for (x, line) in lines.iter_mut().enumerate() {
            *line = std::array::from_fn(|y| rows[y * stride + x]);
        }
        return;
    }
    // Squares are read along few rows at a time: hardware prefetchers cannot follow 32 streams.
    for y in blocks(LANES, SQUARE) {
        for x in blocks(lines.len(), SQUARE) {
            let row = |i| &rows[(y + i) * stride + x..][..SQUARE];
            let square = std::array::from_fn(|i| u8x16::from_slice(simd, row(i)));
            let square = transpose(simd, square);
            for (line, samples) in lines[x..].iter_mut().zip(&square) {
                samples.store_slice(&mut line[y..y + SQUARE]);
            }
        }
    }
}

/// Transposes `[lines, LANES]` back to rows that start `stride` bytes apart.
#[inline(always)]
fn transpose_lines<S: Simd>(simd: S, lines: &[[u8; LANES]], rows: &mut [u8], stride: usize) {
    for x in blocks(lines.len(), SQUARE) {
        for y in blocks(LANES, SQUARE) {
            let line = |i: usize| &lines[x + i][y..y + SQUARE];
            let square = std::array::from_fn(|i| u8x16::from_slice(simd, line(i)));
            let square = transpose(simd, square);
            for (i, samples) in square.iter().enumerate() {
                samples.store_slice(&mut rows[(y + i) * stride + x..][..SQUARE]);
            }
        }
    }
}

/// Transposes 16x16 bytes. Zipping the halves rotates the bits of a byte's index by one; after four
/// rounds its row and column bits are exchanged.
#[inline(always)]
fn transpose<S: Simd>(simd: S, mut square: [u8x16<S>; SQUARE]) -> [u8x16<S>; SQUARE] {
    for _ in 0..4 {
        let halves = square;
        for i in 0..8 {
            square[2 * i] = simd.zip_low_u8x16(halves[i], halves[i + 8]);
            square[2 * i + 1] = simd.zip_high_u8x16(halves[i], halves[i + 8]);
        }
    }
    square
}
