//! Bilinear upsampling fused with argmax: no tensor of the mask's size is stored.
//!
//! The mask is computed in strips of columns, from top to bottom. An output row lies between two
//! rows of logits. For every class, these two rows are interpolated to the columns of the strip
//! once and stay in the first-level cache. Each output row is then interpolated between them, and
//! the scores of the classes are compared in registers. The arithmetic is that of
//! `torch.nn.functional.interpolate` (bilinear, `align_corners=False`) on a CPU: f32, along rows
//! first, then down the columns.

#![expect(
    clippy::inline_always,
    reason = "functions that a SIMD kernel calls must be inlined to use its instruction set"
)]

use std::sync::Arc;

use fearless_simd::{Select, Simd, SimdBase};

use super::shared::SharedMask;
use super::taps::{Strip, Tap};
use super::{Helpers, Logits, Mask, MaskJob, SegmentError};
use crate::image::ImageSize;
use crate::simd::{Kernel, dispatch};

/// Width in columns of the strips that a mask is computed in. It is a multiple of [`VECTORS`]
/// vectors for every instruction set, whose vectors have at most 16 f32 elements.
const STRIP: usize = 64;
/// Number of vectors of neighboring columns that are processed in turn for each class. Their
/// comparisons do not depend on each other, so that none waits for the result of the one before.
const VECTORS: usize = 4;
/// Minimum and maximum number of rows of a band, the unit of work between two checks for
/// cancellation.
const BAND_ROWS: [usize; 2] = [32, 128];
/// Number of scores (pixels times classes) for which another thread is worth waking: about half a
/// millisecond of work.
const SCORES_PER_THREAD: u64 = 4_000_000;
/// Maximum number of helper threads for one mask.
const MAX_HELPERS: u64 = 64;

/// Returns the class with the highest score at each pixel of a mask of `size`, by bilinear
/// interpolation of `logits`.
///
/// The lowest class wins a tie, and a NaN score never wins. The idle threads of `job.helpers` share
/// the work of a mask of several million scores. The function needs one byte of memory per pixel
/// and a few rows of scores, and with helpers a copy of the logits. Source: the upsampling of
/// torchvision's `models/segmentation/_utils.py:_SimpleSegmentationModel.forward`, then
/// `torch.argmax(dim=0)`.
///
/// # Errors
/// [`SegmentError`] if `size` is empty, if its mask does not fit into memory, or if the work is
/// cancelled.
pub fn argmax_upsampled(
    logits: &Logits<'_>,
    size: ImageSize,
    job: MaskJob<'_>,
) -> Result<Mask, SegmentError> {
    if size == logits.size() {
        return argmax(logits);
    }
    let helpers = helpers_worth_waking(logits, size);
    if let (Some(pool), 1..) = (job.helpers, helpers)
        && let Some(mask) = upsample_shared(logits, size, job, pool, helpers)?
    {
        return Ok(mask);
    }
    let mut mask = Mask::background(size)?;
    let [_, rows] = BAND_ROWS;
    let bands = mask.classes_mut().chunks_mut(size.width as usize * rows);
    for (i, out) in bands.enumerate() {
        job.cancel.check()?;
        Band::compute(logits, size, i * rows, out);
    }
    Ok(mask)
}

/// Returns the number of helper threads that save more time than they cost for a mask of `size`; 0
/// for a small mask.
fn helpers_worth_waking(logits: &Logits<'_>, size: ImageSize) -> usize {
    // Copying the logits for the helpers must stay cheap compared to the work.
    if size.pixels() < logits.size().pixels().saturating_mul(4) {
        return 0;
    }
    let scores = size.pixels().saturating_mul(logits.classes() as u64);
    (scores / SCORES_PER_THREAD)
        .saturating_sub(1)
        .min(MAX_HELPERS) as usize
}

/// Computes a mask on this thread and on up to `helpers` idle threads of `pool`. `None` if a thread
/// panicked while it computed a band.
fn upsample_shared(
    logits: &Logits<'_>,
    size: ImageSize,
    job: MaskJob<'_>,
    pool: &dyn Helpers,
    helpers: usize,
) -> Result<Option<Mask>, SegmentError> {
    let [least, most] = BAND_ROWS;
    // With several bands per thread, a fast thread can take over bands from a slow one.
    let rows = (size.height as usize).div_ceil(4 * (helpers + 1));
    let mask = Mask::background(size)?;
    let shared = SharedMask::new(logits, mask, rows.clamp(least, most), job.cancel);
    let helper = Arc::clone(&shared);
    pool.start(helpers, Arc::new(move || helper.work()));
    shared.work();
    shared.wait()
}
/// Returns the class with the highest score at each point of `logits`. Ties and NaN are treated as
/// in [`argmax_upsampled`].
///
/// # Errors
/// [`SegmentError`] if the mask does not fit into memory.
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

/// The kernel that computes whole rows of a mask of `size`, from row `top` on.
pub(super) struct Band<'a> {
    logits: Logits<'a>,
    size: ImageSize,
    top: usize,
    out: &'a mut [u8],
}

impl Band<'_> {
    /// Computes as many rows of a mask of `size`, from row `top` on, as fit into `out`.
    pub(super) fn compute(logits: &Logits<'_>, size: ImageSize, top: usize, out: &mut [u8]) {
        dispatch(Band {
            logits: *logits,
            size,
            top,
            out,
        });
    }
}

impl Kernel for Band<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (width, height) = (self.size.width as usize, self.size.height as usize);
        let from = self.logits.size;
        let mut lines = Lines::new(self.logits.classes);
        for x in (0..width).step_by(STRIP) {
            let len = STRIP.min(width - x);
            let strip = Strip::new(x, len, from.width as usize, width);
            lines.clear();
            for (y, row) in self.out.chunks_exact_mut(width).enumerate() {
                let tap = Tap::new(self.top + y, from.height as usize, height);
                lines.load(&self.logits, &strip, tap);
                let mut classes = [0; STRIP];
                lines.argmax(simd, tap.weights, len, &mut classes);
                row[x..x + len].copy_from_slice(&classes[..len]);
            }
        }
    }
}

/// Two rows of logits of every class, interpolated to the columns of a strip: two buffers
/// `[C, Strip::LINE]`.
struct Lines {
    lines: [Vec<f32>; 2],
    /// Index of the row of logits in each of the two `lines`; `None` if the line is not loaded.
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

    /// Marks both lines as not loaded, before the next strip.
    fn clear(&mut self) {
        self.rows = [None; 2];
    }

    /// Interpolates the two source rows of `tap` to the columns of the strip, unless they are
    /// loaded. When the mask's next row needs the lower row as its upper one, the two lines are
    /// swapped, so that this row is not computed again.
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

    /// Interpolates an output row between the two lines with `weights`. For each of the first `len`
    /// columns, writes the class with the highest score to `out`; the other elements of `out` are
    /// unspecified.
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
