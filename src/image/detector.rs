//! A detector's own preprocessing: normalise, resize the float planes, pad with zeros.
//!
//! Unlike the presets of classification and segmentation, nothing is rounded back to 8 bits and the
//! resize has no antialias: it is `torch.nn.functional.interpolate` (bilinear, `align_corners=False`)
//! in f32, along rows first, then down the columns. Two rows of the picture, widened to the output,
//! are all that is kept of it; every output row lies between them and goes straight into the batch.
//!
//! Source: torchvision's `models/detection/transform.py`, `GeneralizedRCNNTransform`. What is *not*
//! here: which pictures share a batch, and scaling boxes back (`postprocess`).

#![expect(
    clippy::inline_always,
    reason = "what a kernel calls must be compiled for its instruction set"
)]

use fearless_simd::Simd;
use image::RgbImage;

use super::bilinear::source_index;
use super::preprocess::MAX_INPUT_PIXELS;
use super::{ImageError, ImageSize};
use crate::simd::{Kernel, dispatch};

/// The size that a detector resizes its pictures to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DetectorSize {
    /// The aspect is kept; see [`bounded_size`].
    Bounded {
        /// Length of the shorter side, if the longer one allows it.
        min: u32,
        /// Most pixels of the longer side.
        max: u32,
    },
    /// Every picture becomes this large, whatever its aspect.
    Fixed(ImageSize),
}

/// Sizes of one picture on its way into a detector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DetectorSizes {
    /// As uploaded.
    pub original: ImageSize,
    /// After the resize: boxes are clipped to this.
    pub resized: ImageSize,
    /// After the padding: anchors and features are laid over this. In a batch, the size of its planes.
    pub padded: ImageSize,
}

/// The size after a resize to a shorter side of `min`, or less if the longer one would exceed `max`.
///
/// A side is never shorter than a pixel; torchvision fails on a picture of 1x4000 instead. Source:
/// `_resize_image_and_masks` outside of tracing, whose scale is a Python float, and
/// `recompute_scale_factor=True` of `torch.nn.functional.interpolate`, which rounds down.
pub fn bounded_size(input: ImageSize, min: u32, max: u32) -> ImageSize {
    let shorter = f64::from(input.width.min(input.height).max(1));
    let longer = f64::from(input.width.max(input.height).max(1));
    let scale = (f64::from(min) / shorter).min(f64::from(max) / longer);
    let side = |side: u32| ((f64::from(side) * scale).floor() as u32).max(1);
    ImageSize {
        width: side(input.width),
        height: side(input.height),
    }
}

/// Both sides rounded up to a multiple of `multiple`, of which 0 and 1 change nothing.
pub fn padded_size(size: ImageSize, multiple: u32) -> ImageSize {
    let side = |side: u32| side.checked_next_multiple_of(multiple).unwrap_or(side);
    ImageSize {
        width: side(size.width),
        height: side(size.height),
    }
}

/// A detector's preprocessing with everything that does not depend on the picture precomputed.
#[derive(Debug, Clone)]
pub struct DetectorTransform {
    size: DetectorSize,
    multiple: u32,
    /// `(v / 255 - mean) / std` of each channel and 8-bit value.
    tables: [[f32; 256]; 3],
}

impl DetectorTransform {
    /// `multiple` is what sides are padded to: 32 for feature pyramids, 1 for none.
    pub fn new(size: DetectorSize, multiple: u32, mean: [f32; 3], std: [f32; 3]) -> Self {
        let table = |c: usize| std::array::from_fn(|v| (v as f32 / 255.0 - mean[c]) / std[c]);
        Self {
            size,
            multiple,
            tables: [table(0), table(1), table(2)],
        }
    }

    /// The sizes of a picture, before it is decoded.
    ///
    /// # Errors
    /// [`ImageError::Empty`] without pixels; [`ImageError::ResizedTooLarge`] where the model's sizes
    /// ask for more than any network takes.
    pub fn sizes(&self, original: ImageSize) -> Result<DetectorSizes, ImageError> {
        if original.pixels() == 0 {
            return Err(ImageError::Empty);
        }
        let resized = match self.size {
            DetectorSize::Bounded { min, max } => bounded_size(original, min, max),
            DetectorSize::Fixed(size) => size,
        };
        let padded = padded_size(resized, self.multiple);
        if padded.pixels() > MAX_INPUT_PIXELS {
            return Err(ImageError::ResizedTooLarge {
                input: original,
                width: resized.width.into(),
                height: resized.height.into(),
                limit: MAX_INPUT_PIXELS,
            });
        }
        Ok(DetectorSizes {
            original,
            resized,
            padded,
        })
    }

    /// Writes a picture into the top left of `planes`, `[3, padded.height, padded.width] f32`, and
    /// zeros around it. `padded` may be larger than the picture needs: the size of a batch.
    ///
    /// # Errors
    /// As [`DetectorTransform::sizes`].
    ///
    /// # Panics
    /// If `planes` is not as long as `padded` says, or `padded` is too small for the picture.
    pub fn write(
        &self,
        image: &RgbImage,
        padded: ImageSize,
        planes: &mut [f32],
    ) -> Result<DetectorSizes, ImageError> {
        let (width, height) = image.dimensions();
        let sizes = self.sizes(ImageSize { width, height })?;
        let (stride, rows) = (padded.width as usize, padded.height as usize);
        assert_eq!(planes.len(), 3 * stride * rows, "planes of {padded:?}");
        assert!(sizes.resized.width <= padded.width && sizes.resized.height <= padded.height);
        dispatch(Resize {
            image,
            tables: &self.tables,
            to: sizes.resized,
            stride,
            planes,
        });
        Ok(sizes)
    }
}

/// Two neighbouring inputs of an output, and the weight of the latter.
#[derive(Debug, Clone, Copy)]
struct Tap {
    first: u32,
    near: f32,
}

impl Tap {
    fn new(out: u32, from: u32, to: u32) -> Self {
        let (first, near) = source_index(out as usize, from as usize, to as usize);
        Self {
            first: first as u32,
            near,
        }
    }
}

/// The whole work on one picture.
struct Resize<'a> {
    image: &'a RgbImage,
    tables: &'a [[f32; 256]; 3],
    to: ImageSize,
    /// Samples of an output row, padding included.
    stride: usize,
    planes: &'a mut [f32],
}

impl Kernel for Resize<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let (from_rows, stride) = (self.image.height(), self.stride);
        let (width, height) = (self.to.width as usize, self.to.height as usize);
        let [red, green, blue] = thirds(self.planes);
        let mut planes = [red, green, blue];
        let mut lines = Lines::new(self.image, self.tables, self.to.width);
        for y in 0..height {
            let tap = Tap::new(y as u32, from_rows, self.to.height);
            lines.load([tap.first, (tap.first + 1).min(from_rows - 1)]);
            for (c, plane) in planes.iter_mut().enumerate() {
                let (row, padding) = plane[y * stride..][..stride].split_at_mut(width);
                let [upper, lower] = lines.rows(c);
                for ((out, upper), lower) in row.iter_mut().zip(upper).zip(lower) {
                    *out = upper * (1.0 - tap.near) + lower * tap.near;
                }
                padding.fill(0.0);
            }
        }
        for plane in &mut planes {
            plane[height * stride..].fill(0.0);
        }
    }
}

/// The planes red, green and blue.
fn thirds(planes: &mut [f32]) -> [&mut [f32]; 3] {
    let plane = planes.len() / 3;
    let (red, rest) = planes.split_at_mut(plane);
    let (green, blue) = rest.split_at_mut(plane);
    [red, green, blue]
}

/// Two rows of the picture, normalised and widened.
struct Lines<'a> {
    image: &'a RgbImage,
    tables: &'a [[f32; 256]; 3],
    taps: Vec<Tap>,
    /// One channel of a row of the picture, its last sample twice.
    samples: Vec<f32>,
    /// `[2][3, taps.len()]`.
    widened: [Vec<f32>; 2],
    /// Which rows of the picture they are.
    numbers: [Option<u32>; 2],
}

impl<'a> Lines<'a> {
    fn new(image: &'a RgbImage, tables: &'a [[f32; 256]; 3], to: u32) -> Self {
        let taps: Vec<Tap> = (0..to).map(|x| Tap::new(x, image.width(), to)).collect();
        let line = vec![0.0; 3 * taps.len()];
        Self {
            image,
            tables,
            samples: vec![0.0; image.width() as usize + 1],
            widened: [line.clone(), line],
            numbers: [None; 2],
            taps,
        }
    }

    /// Makes the two lines rows `wanted` of the picture. Going down, the lower becomes the upper.
    #[inline(always)]
    fn load(&mut self, wanted: [u32; 2]) {
        if self.numbers[1] == Some(wanted[0]) {
            self.widened.swap(0, 1);
            self.numbers.swap(0, 1);
        }
        for (i, y) in wanted.into_iter().enumerate() {
            if self.numbers[i] != Some(y) {
                self.widen(i, y);
                self.numbers[i] = Some(y);
            }
        }
    }

    /// Makes line `i` row `y` of the picture.
    #[inline(always)]
    fn widen(&mut self, i: usize, y: u32) {
        let width = self.image.width() as usize;
        let row = &self.image.as_raw()[y as usize * width * 3..][..width * 3];
        let lines = self.widened[i].chunks_exact_mut(self.taps.len());
        for ((c, table), line) in self.tables.iter().enumerate().zip(lines) {
            let pixels = row.as_chunks::<3>().0;
            if width > 2 * self.taps.len() {
                // Most samples are between the taps: only the others are normalised.
                for (out, tap) in line.iter_mut().zip(&self.taps) {
                    let first = tap.first as usize;
                    let second = (first + 1).min(width - 1);
                    let [left, right] = [first, second].map(|x| table[usize::from(pixels[x][c])]);
                    *out = left * (1.0 - tap.near) + right * tap.near;
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
                *out = left * (1.0 - tap.near) + right * tap.near;
            }
        }
    }

    /// Channel `c` of the upper and of the lower line.
    #[inline(always)]
    fn rows(&self, c: usize) -> [&[f32]; 2] {
        let width = self.taps.len();
        [0, 1].map(|i| &self.widened[i][c * width..][..width])
    }
}
