//! Bilinear upsampling fused with argmax: logits become a mask without a tensor of the mask's size.
//!
//! A strip of columns is made from top to bottom. Two rows of logits, widened to the strip, are in
//! the first-level cache; each output row lies between them and is lerped and compared in registers.
//! The arithmetic is that of `torch.nn.functional.interpolate` (bilinear, `align_corners=False`) on
//! a CPU: f32, along rows first, then down the columns.

#![expect(
    clippy::inline_always,
    reason = "what a kernel calls must be compiled for its instruction set"
)]

use std::sync::{Mutex, PoisonError};
use std::thread;

use fearless_simd::{Select, Simd, SimdBase};

use super::taps::{Strip, Tap};
use super::{Logits, Mask, SegmentError};
use crate::image::ImageSize;
use crate::simd::{Kernel, dispatch};

/// Columns of a strip: a multiple of every block of [`VECTORS`].
const STRIP: usize = 64;
/// Vectors of neighbouring columns that are compared at once, so that none waits for another.
const VECTORS: usize = 4;
/// Rows that a thread takes at once, at least.
const BAND_ROWS: usize = 32;
/// Scores that are worth a thread of their own: about a quarter of a millisecond.
const SCORES_PER_THREAD: u64 = 2_000_000;

/// The class with the highest score at each pixel of `size`, by bilinear interpolation of `logits`.
///
/// Of equal scores the lowest class wins; a NaN wins over none. Up to `threads` threads share a
/// large picture, this one among them. Memory: a byte a pixel and some rows. Source: the upsampling of
/// torchvision's `models/segmentation/_utils.py:_SimpleSegmentationModel.forward`, then
/// `torch.argmax(dim=0)`.
///
/// # Errors
/// [`SegmentError`] if `size` is empty or its mask does not fit into the memory.
pub fn argmax_upsampled(
    logits: &Logits<'_>,
    size: ImageSize,
    threads: usize,
) -> Result<Mask, SegmentError> {
    if size == logits.size() {
        return argmax(logits);
    }
    let mut mask = Mask::background(size)?;
    let width = size.width as usize;
    let scores = size.pixels().saturating_mul(logits.classes() as u64);
    let worth = usize::try_from(scores / SCORES_PER_THREAD).unwrap_or(usize::MAX);
    let threads = threads.min(worth).max(1);
    let rows = (size.height as usize)
        .div_ceil(threads)
        .clamp(BAND_ROWS, 4 * BAND_ROWS);
    let bands = mask.classes_mut().chunks_mut(width * rows).enumerate();
    let bands = Mutex::new(bands);
    let work = || {
        // The lock is held for taking a band only.
        while let Some((i, out)) = {
            let mut bands = bands.lock().unwrap_or_else(PoisonError::into_inner);
            bands.next()
        } {
            let top = i * rows;
            dispatch(Band {
                logits: *logits,
                size,
                top,
                out,
            });
        }
    };
    thread::scope(|scope| {
        for _ in 1..threads {
            // Where the system gives no thread, the others do its share.
            let _ = thread::Builder::new().spawn_scoped(scope, work);
        }
        work();
    });
    Ok(mask)
}

/// The class with the highest score at each logit; ties and NaN as in [`argmax_upsampled`].
///
/// # Errors
/// [`SegmentError`] if the mask does not fit into the memory.
pub fn argmax(logits: &Logits<'_>) -> Result<Mask, SegmentError> {
    let mut mask = Mask::background(logits.size())?;
    let mut best = vec![0.0; logits.size().width as usize];
    let rows = mask.classes_mut().chunks_exact_mut(best.len());
    for (y, row) in rows.enumerate() {
        best.fill(f32::NEG_INFINITY);
        for class in 0..logits.classes() {
            let scores = logits.row(class, y);
            for ((out, best), score) in row.iter_mut().zip(&mut best).zip(scores) {
                if score > best {
                    *best = *score;
                    *out = class as u8;
                }
            }
        }
    }
    Ok(mask)
}

/// Whole rows of a mask of `size`, from row `top`.
struct Band<'a> {
    logits: Logits<'a>,
    size: ImageSize,
    top: usize,
    out: &'a mut [u8],
}

impl Kernel for Band<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (width, height) = (self.size.width as usize, self.size.height as usize);
        let (from, from_rows) = (self.logits.size.width, self.logits.size.height);
        let mut lines = Lines::new(self.logits.classes);
        for x in (0..width).step_by(STRIP) {
            let len = STRIP.min(width - x);
            let strip = Strip::new(x, len, from as usize, width);
            lines.forget();
            for (y, row) in self.out.chunks_exact_mut(width).enumerate() {
                let tap = Tap::new(self.top + y, from_rows as usize, height);
                lines.load(&self.logits, &strip, tap);
                let mut classes = [0; STRIP];
                lines.argmax(simd, tap.weights, len, &mut classes);
                row[x..x + len].copy_from_slice(&classes[..len]);
            }
        }
    }
}

/// Two rows of logits, widened to a strip: `[2][C][Strip::LINE]`.
struct Lines {
    lines: [Vec<f32>; 2],
    /// Which rows of the logits they are.
    rows: [Option<usize>; 2],
}

impl Lines {
    const STRIDE: usize = Strip::<STRIP>::LINE;

    fn new(classes: usize) -> Self {
        let line = vec![0.0; classes * Self::STRIDE];
        Self {
            lines: [line.clone(), line],
            rows: [None; 2],
        }
    }

    fn forget(&mut self) {
        self.rows = [None; 2];
    }

    /// Makes the two lines those that `tap` names.
    #[inline(always)]
    fn load(&mut self, logits: &Logits<'_>, strip: &Strip<STRIP>, tap: Tap) {
        if self.rows[1] == Some(tap.first) {
            self.lines.swap(0, 1);
            self.rows.swap(0, 1);
        }
        for (i, y) in [tap.first, tap.second].into_iter().enumerate() {
            if self.rows[i] == Some(y) {
                continue;
            }
            let lines = self.lines[i].chunks_exact_mut(Self::STRIDE);
            for (class, line) in lines.enumerate() {
                strip.lerp(logits.row(class, y), line);
            }
            self.rows[i] = Some(y);
        }
    }

    /// The best classes of the row that lies between the lines with `weights`; of the `len` first
    /// columns, and of others that mean nothing.
    #[inline(always)]
    fn argmax<S: Simd>(&self, simd: S, weights: [f32; 2], len: usize, out: &mut [u8; STRIP]) {
        let lanes = S::f32s::LEN;
        let block = VECTORS * lanes;
        for x in (0..len).step_by(block) {
            let mut best = [S::f32s::splat(simd, f32::NEG_INFINITY); VECTORS];
            let mut best_class = [S::u32s::splat(simd, 0); VECTORS];
            let upper = self.lines[0].chunks_exact(Self::STRIDE);
            let lower = self.lines[1].chunks_exact(Self::STRIDE);
            for (class, (upper, lower)) in upper.zip(lower).enumerate() {
                let (upper, lower) = (&upper[x..x + block], &lower[x..x + block]);
                let class = S::u32s::splat(simd, class as u32);
                for v in 0..VECTORS {
                    let upper = S::f32s::from_slice(simd, &upper[v * lanes..][..lanes]);
                    let lower = S::f32s::from_slice(simd, &lower[v * lanes..][..lanes]);
                    let score = upper * weights[0] + lower * weights[1];
                    let better = score.simd_gt(best[v]);
                    best[v] = better.select(score, best[v]);
                    best_class[v] = better.select(class, best_class[v]);
                }
            }
            for (v, classes) in best_class.iter().enumerate() {
                let out = &mut out[x + v * lanes..][..lanes];
                for (out, class) in out.iter_mut().zip(classes.as_slice()) {
                    *out = *class as u8;
                }
            }
        }
    }
}
