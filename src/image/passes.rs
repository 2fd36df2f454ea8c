//! The two passes of a resize of 8-bit RGB: weighted sums along rows, then down the columns.
//!
//! All samples of a vector are multiplied by the same weight. In the second pass, an output row has
//! the same weights in all columns, so a vector holds neighboring samples of a row. In the first
//! pass, each output column has weights of its own, so a vector holds one sample of each of 32
//! rows: a block of 32 source rows is transposed, the weighted sums are computed on lines of 32
//! samples, and the results are transposed back.
//!
//! What is *not* here: the weights, see [`super::axis`].

#![expect(
    clippy::inline_always,
    reason = "functions that a SIMD kernel calls must be inlined to use its instruction set"
)]

use fearless_simd::{Simd, SimdBase, u8x16};

use super::axis::{Axis, PRECISION_BITS};
use crate::cancel::{Cancel, Cancelled, Pace};
use crate::simd::{Kernel, dispatch};

/// The value 0.5 in fixed point. Sums start with it, so that their final shift rounds to nearest.
const HALF: i32 = 1 << (PRECISION_BITS - 1);
/// Number of output samples whose sums are computed together, in vector registers. With fewer, the
/// compiler unrolls the loops into scalar code.
const LANES: usize = 32;
/// Number of output columns per block of the first pass. The scratch memory of a block, which is
/// the transposed source and result, fits into the CPU cache.
const PIXELS: usize = 32;
/// Side in bytes of the squares that are transposed in registers.
const SQUARE: usize = 16;

/// Runs the first pass of a resize: resizes `rows`, `[h, w, 3] u8` with `stride` bytes per row, to
/// the width of the output, `[h, columns.len(), 3] u8`. `columns` holds the weights of each output
/// column.
///
/// # Errors
/// [`Cancelled`] if `cancel` is cancelled.
pub(super) fn filter_rows(
    rows: &[u8],
    stride: usize,
    columns: &Axis,
    cancel: &Cancel,
) -> Result<Vec<u8>, Cancelled> {
    let out_stride = columns.len() * 3;
    let mut out = vec![0; rows.len() / stride * out_stride];
    // Images of fewer rows or output columns than a block are filtered row by row: padding them
    // would waste work, and the scratch memory could be larger than the image.
    if rows.len() / stride < LANES || columns.len() < PIXELS {
        let out_rows = out.chunks_exact_mut(out_stride);
        let mut pace = Pace::new(cancel);
        for (row, out) in rows.chunks_exact(stride).zip(out_rows) {
            pace.step(stride + out_stride)?;
            let all = columns.iter(0..columns.len());
            filter_pixels::<1>(row.as_chunks().0, 0, all, out.as_chunks_mut().0);
        }
        return Ok(out);
    }
    dispatch(RowPass {
        rows,
        stride,
        columns,
        out: &mut out,
        pace: Pace::new(cancel),
    })?;
    Ok(out)
}

struct RowPass<'a> {
    rows: &'a [u8],
    stride: usize,
    columns: &'a Axis,
    out: &'a mut [u8],
    pace: Pace<'a>,
}

impl Kernel for RowPass<'_> {
    type Output = Result<(), Cancelled>;

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) -> Self::Output {
        let out_stride = self.columns.len() * 3;
        let mut lines = Vec::new();
        let mut filtered = [[0; LANES]; PIXELS * 3];
        for y in blocks(self.rows.len() / self.stride, LANES) {
            for x in blocks(self.columns.len(), PIXELS) {
                let outputs = x..x + PIXELS;
                let span = self.columns.span(outputs.clone());
                self.pace.step(span.len() * 3 * LANES)?;
                lines.resize(span.len() * 3, [0; LANES]);
                let rows = &self.rows[y * self.stride + span.start * 3..];
                transpose_rows(simd, rows, self.stride, &mut lines);
                let weights = self.columns.iter(outputs);
                filter_pixels(&lines, span.start, weights, &mut filtered);
                let out = &mut self.out[y * out_stride + x * 3..];
                transpose_lines(simd, &filtered, out, out_stride);
            }
        }
        Ok(())
    }
}

/// Returns the start indices of blocks of `size` that cover `len` (at least `size`) indices. The
/// last block may overlap the block before it.
#[inline(always)]
fn blocks(len: usize, size: usize) -> impl Iterator<Item = usize> {
    (0..len).step_by(size).map(move |at| at.min(len - size))
}

/// Filters `N` rows along their columns at a time. `lines[3 * x + c]` holds channel `c` of source
/// pixel `first + x` of the `N` rows, and `out[3 * x + c]` receives channel `c` of output pixel
/// `x`. `weights` yields the first source pixel and the weights of each output pixel.
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

/// Runs the second pass of a resize: writes each row of `out` as a weighted sum of rows of `rows`,
/// which begins with row `first` of the image and has as many bytes per row as `out`. `axis` holds
/// the weights of each output row.
///
/// # Errors
/// [`Cancelled`] if `cancel` is cancelled.
pub(super) fn filter_columns(
    rows: &[u8],
    first: usize,
    axis: &Axis,
    out: &mut [u8],
    cancel: &Cancel,
) -> Result<(), Cancelled> {
    dispatch(ColumnPass {
        rows,
        first,
        axis,
        out,
        pace: Pace::new(cancel),
    })
}

struct ColumnPass<'a> {
    rows: &'a [u8],
    first: usize,
    axis: &'a Axis,
    out: &'a mut [u8],
    pace: Pace<'a>,
}

impl Kernel for ColumnPass<'_> {
    type Output = Result<(), Cancelled>;

    #[inline(always)]
    fn run<S: Simd>(mut self, _: S) -> Self::Output {
        let stride = self.out.len() / self.axis.len();
        let weights = self.axis.iter(0..self.axis.len());
        for ((start, weights), out) in weights.zip(self.out.chunks_exact_mut(stride)) {
            self.pace.step(weights.len() * stride)?;
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
        Ok(())
    }
}

/// Computes `N` weighted sums: `out[i]` is the sum of sample `i` of every line, times the line's
/// weight. Lines start `stride` bytes apart.
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

/// Transposes the first bytes of `LANES` rows that start `stride` bytes apart: byte `x` of row `y`
/// is written to `lines[x][y]`.
#[inline(always)]
fn transpose_rows<S: Simd>(simd: S, rows: &[u8], stride: usize, lines: &mut [[u8; LANES]]) {
    if lines.len() < SQUARE {
        for (x, line) in lines.iter_mut().enumerate() {
            *line = std::array::from_fn(|y| rows[y * stride + x]);
        }
        return;
    }
    // The inner loop reads along 16 rows only, because hardware prefetchers cannot follow 32 rows.
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

/// Transposes lines back to `LANES` rows that start `stride` bytes apart: `lines[x][y]` is written
/// to byte `x` of row `y`.
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

/// Transposes 16x16 bytes, one row per register. Interleaving the registers of the upper and lower
/// half rotates the 8-bit index (row, column) of every byte by one bit; after four rounds, the four
/// row bits and the four column bits have changed places.
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
