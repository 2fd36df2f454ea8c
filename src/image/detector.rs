//! A detector's preprocessing: normalize, resize the f32 planes, pad with zeros.
//!
//! Unlike the presets of classification and segmentation, the resize works on f32 without rounding to
//! 8 bits and has no antialiasing: it is `torch.nn.functional.interpolate` (bilinear,
//! `align_corners=False`), along rows first, then down the columns. Every output row is interpolated
//! between two source rows that are already stretched to the output width, so no intermediate image
//! is stored.
//!
//! Source: torchvision's `models/detection/transform.py`, `GeneralizedRCNNTransform`. What is *not*
//! here: batching, and rescaling boxes to the original image ([`crate::postprocess`]).

#![expect(
    clippy::inline_always,
    reason = "functions that a SIMD kernel calls must be inlined to use its instruction set"
)]

use fearless_simd::Simd;
use image::RgbImage;

use super::bilinear::source_index_within;
use super::decoded::{Placement, Span};
use super::{DetectorResize, DetectorSizes, ImageError, ImageSize, Normalizer, PreparedImage};
use crate::cancel::{Cancel, Cancelled, Pace};
use crate::simd::{Kernel, dispatch};

/// A detector's preprocessing, with everything precomputed that does not depend on the image.
#[derive(Debug, Clone)]
pub struct DetectorTransform {
    resize: DetectorResize,
    normalizer: Normalizer,
}

impl DetectorTransform {
    /// Returns the transform that normalizes with `normalizer`, then resizes and pads with `resize`.
    pub fn new(resize: DetectorResize, normalizer: Normalizer) -> Self {
        Self { resize, normalizer }
    }

    /// Returns the resize and padding, without the normalization.
    pub fn resize(&self) -> DetectorResize {
        self.resize
    }

    /// Returns the sizes that an image of size `original` has before the resize, after the resize,
    /// and after padding.
    ///
    /// # Errors
    /// The errors of [`DetectorResize::sizes`].
    pub fn sizes(&self, original: ImageSize) -> Result<DetectorSizes, ImageError> {
        self.resize.sizes(original)
    }

    /// Converts an image to the input tensor `[3, H, W] f32`; the padding is zeros on the right and at
    /// the bottom.
    ///
    /// # Errors
    /// The errors of [`DetectorResize::sizes`], and [`ImageError::Cancelled`] if the work is cancelled.
    pub fn run(&self, image: &RgbImage, cancel: &Cancel) -> Result<PreparedImage, ImageError> {
        let (width, height) = image.dimensions();
        let placement = Placement::whole(ImageSize { width, height });
        self.run_placed(image, &placement, cancel)
    }

    /// Converts the image that lies in `pixels` at `placement` as [`DetectorTransform::run`] does.
    ///
    /// # Errors
    /// As [`DetectorTransform::run`].
    pub(super) fn run_placed(
        &self,
        pixels: &RgbImage,
        placement: &Placement,
        cancel: &Cancel,
    ) -> Result<PreparedImage, ImageError> {
        let sizes = self.sizes(placement.size)?;
        let mut data = vec![0.0; 3 * sizes.padded.pixels() as usize];
        dispatch(Resize {
            pixels,
            placement,
            tables: self.normalizer.tables(),
            resized: sizes.resized,
            padded: sizes.padded,
            planes: &mut data,
            pace: Pace::new(cancel),
        })?;
        Ok(PreparedImage {
            size: sizes.padded,
            content: sizes.resized,
            data: data.into(),
        })
    }
}

/// The two neighboring source samples that an output sample lies between: `first` and `first + 1`.
#[derive(Debug, Clone, Copy)]
struct Tap {
    first: u32,
    /// Weight of source sample `first + 1`, 0..=1. Sample `first` has the weight `1 - weight`.
    weight: f32,
}

impl Tap {
    /// Returns the tap of output sample `out` when the part `span` of `from` samples is resized to
    /// `to`.
    fn new(out: u32, (from, span): (u32, Span), to: u32) -> Self {
        let source = (from as usize, span.start as f32, span.len as f32);
        let (first, weight) = source_index_within(out as usize, source, to as usize);
        Self {
            first: first as u32,
            weight,
        }
    }
}

/// The kernel that normalizes, resizes and pads one image.
struct Resize<'a> {
    pixels: &'a RgbImage,
    placement: &'a Placement,
    tables: &'a [[f32; 256]; 3],
    resized: ImageSize,
    padded: ImageSize,
    /// The output `[3, padded.height, padded.width]`; the caller has filled it with zeros.
    planes: &'a mut [f32],
    pace: Pace<'a>,
}

impl Kernel for Resize<'_> {
    type Output = Result<(), Cancelled>;

    #[inline(always)]
    fn run<S: Simd>(mut self, _: S) -> Self::Output {
        let (from_rows, stride) = (self.pixels.height(), self.padded.width as usize);
        let rows = (from_rows, self.placement.rows);
        let (width, height) = (self.resized.width as usize, self.resized.height);
        let [red, green, blue] = split_planes(self.planes);
        let mut planes = [red, green, blue];
        let mut lines = Lines::new(
            (self.pixels, self.placement.columns),
            self.tables,
            self.resized.width,
        );
        // A row reads up to two source rows, none of whose samples are read if the taps skip them.
        let units = 3 * width + 6 * width.min(self.pixels.width() as usize);
        for y in 0..height {
            self.pace.step(units)?;
            let tap = Tap::new(y, rows, height);
            lines.load([tap.first, (tap.first + 1).min(from_rows - 1)]);
            for (c, plane) in planes.iter_mut().enumerate() {
                let row = &mut plane[y as usize * stride..][..width];
                let [upper, lower] = lines.rows(c);
                for ((out, upper), lower) in row.iter_mut().zip(upper).zip(lower) {
                    *out = upper * (1.0 - tap.weight) + lower * tap.weight;
                }
            }
        }
        Ok(())
    }
}

/// Splits `[3, H, W]` into the planes red, green and blue.
fn split_planes(planes: &mut [f32]) -> [&mut [f32]; 3] {
    let plane = planes.len() / 3;
    let (red, rest) = planes.split_at_mut(plane);
    let (green, blue) = rest.split_at_mut(plane);
    [red, green, blue]
}

/// Two source rows, normalized and stretched to the output width.
struct Lines<'a> {
    image: &'a RgbImage,
    tables: &'a [[f32; 256]; 3],
    taps: Vec<Tap>,
    /// Scratch memory for one channel of a normalized source row. The row's last sample is stored
    /// twice, so that a tap that begins at the last sample also has two samples.
    samples: Vec<f32>,
    /// The source rows above and below the current output row, in this order, normalized and
    /// stretched to the output width: `[3, taps.len()]` each.
    stretched: [Vec<f32>; 2],
    /// Index of the source row that each element of `stretched` holds; `None` if the element has
    /// not been computed yet.
    loaded: [Option<u32>; 2],
}

impl<'a> Lines<'a> {
    /// Returns the lines of the columns `span` of `image`, stretched to `to` samples.
    fn new((image, span): (&'a RgbImage, Span), tables: &'a [[f32; 256]; 3], to: u32) -> Self {
        let columns = (image.width(), span);
        let taps: Vec<Tap> = (0..to).map(|x| Tap::new(x, columns, to)).collect();
        let line = vec![0.0; 3 * taps.len()];
        Self {
            image,
            tables,
            samples: vec![0.0; image.width() as usize + 1],
            stretched: [line.clone(), line],
            loaded: [None; 2],
            taps,
        }
    }

    /// Computes the source rows `wanted` (upper, lower) in `stretched`, unless they are there
    /// already. If the previous lower row is the new upper row, the two elements are swapped
    /// instead of computing the row again.
    #[inline(always)]
    fn load(&mut self, wanted: [u32; 2]) {
        if self.loaded[1] == Some(wanted[0]) {
            self.stretched.swap(0, 1);
            self.loaded.swap(0, 1);
        }
        for (i, y) in wanted.into_iter().enumerate() {
            if self.loaded[i] != Some(y) {
                self.stretch(i, y);
                self.loaded[i] = Some(y);
            }
        }
    }

    /// Normalizes source row `y` and stretches it into `stretched[i]`.
    #[inline(always)]
    fn stretch(&mut self, i: usize, y: u32) {
        let width = self.image.width() as usize;
        let row = &self.image.as_raw()[y as usize * width * 3..][..width * 3];
        let lines = self.stretched[i].chunks_exact_mut(self.taps.len());
        for ((c, table), line) in self.tables.iter().enumerate().zip(lines) {
            let pixels = row.as_chunks::<3>().0;
            if width > 2 * self.taps.len() {
                // When shrinking, most samples are never read, so only those of the taps are
                // normalized.
                for (out, tap) in line.iter_mut().zip(&self.taps) {
                    let first = tap.first as usize;
                    let second = (first + 1).min(width - 1);
                    let [left, right] = [first, second].map(|x| table[usize::from(pixels[x][c])]);
                    *out = left * (1.0 - tap.weight) + right * tap.weight;
                }
                continue;
            }
            for (sample, pixel) in self.samples.iter_mut().zip(pixels) {
                *sample = table[usize::from(pixel[c])];
            }
            self.samples[width] = self.samples[width - 1];
            for (out, tap) in line.iter_mut().zip(&self.taps) {
                let first = tap.first as usize;
                let (left, right) = (self.samples[first], self.samples[first + 1]);
                *out = left * (1.0 - tap.weight) + right * tap.weight;
            }
        }
    }

    /// Returns channel `c` of the two source rows, stretched to the output width, the upper row
    /// first.
    #[inline(always)]
    fn rows(&self, c: usize) -> [&[f32]; 2] {
        let width = self.taps.len();
        [0, 1].map(|i| &self.stretched[i][c * width..][..width])
    }
}
