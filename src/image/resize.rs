//! Pillow's resize of 8-bit RGB, bit for bit, of just the window that is kept.
//!
//! Pillow filters in two passes, rows and then columns, each rounded to 8 bits, with weights of 22
//! fractional bits. `fast_image_resize` runs the passes in the other order with 16-bit weights: about
//! one sample in six is a level off, with the bicubic filter up to six levels. So the passes are
//! written out here.
//!
//! A resize followed by a crop computes pixels only to drop them. Here only the window's weights are
//! made, by the formula of the whole picture, and the rows that they never read are not filtered. The
//! result is the same, and a picture of 1x4000 costs its window instead of its gigabytes.

use image::RgbImage;
use onnx_export::manifest::Filter;

use super::ImageSize;

/// Fractional bits of a weight: 8 for the sample and 2 for overshoot are kept free of the 32.
const PRECISION_BITS: u32 = 32 - 8 - 2;
/// One half: makes the final shift round to nearest.
const HALF: i32 = 1 << (PRECISION_BITS - 1);

/// A rectangle of the resized picture. Offsets exceed 32 bits for the most elongated pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Size of the whole resized picture, width and height.
    pub whole: (u64, u64),
    /// First column and row that are kept.
    pub offset: (u64, u64),
    /// Columns and rows that are kept.
    pub size: (u64, u64),
}

impl Window {
    /// The whole of a resized picture.
    pub fn all(whole: (u64, u64)) -> Self {
        Self {
            whole,
            offset: (0, 0),
            size: whole,
        }
    }

    /// The central square of side `crop`, which must not exceed the shorter side.
    ///
    /// Source: `torchvision.transforms.functional.center_crop`, with Python's rounding to even.
    pub fn central(whole: (u64, u64), crop: u32) -> Self {
        let crop = u64::from(crop);
        let offset = |side: u64| (side.saturating_sub(crop) as f64 / 2.0).round_ties_even() as u64;
        Self {
            whole,
            offset: (offset(whole.0), offset(whole.1)),
            size: (crop.min(whole.0), crop.min(whole.1)),
        }
    }

    /// Pixels that are kept.
    pub fn pixels(&self) -> u64 {
        self.size.0.saturating_mul(self.size.1)
    }
}

/// Width and height after the shorter side became `short`.
///
/// Source: `torchvision.transforms.functional._compute_resized_output_size`, whose
/// `int(size * long / short)` equals integer division below 2^53.
pub fn short_side_size(size: ImageSize, short: u32) -> (u64, u64) {
    let (w, h) = (u64::from(size.width), u64::from(size.height));
    let new_short = u64::from(short);
    let new_long = new_short * w.max(h) / w.min(h).max(1);
    if w <= h {
        (new_short, new_long)
    } else {
        (new_long, new_short)
    }
}

/// The window of the picture resized to `window.whole`, `[h, w, 3] u8`.
///
/// The window's size must fit memory and 32 bits a side; it is the caller's to check. An empty
/// picture or window gives an empty picture. A side that keeps its length is copied exactly.
///
/// Source: Pillow's `ImagingResample` for 8 bits per channel.
pub fn resize_window(image: &RgbImage, window: &Window, filter: Filter) -> RgbImage {
    let (width, height) = (window.size.0 as u32, window.size.1 as u32);
    if image.as_raw().is_empty() || width == 0 || height == 0 {
        return RgbImage::new(0, 0);
    }
    let columns = Axis::new(
        image.width(),
        window.whole.0,
        window.offset.0,
        width,
        filter,
    );
    let rows = Axis::new(
        image.height(),
        window.whole.1,
        window.offset.1,
        height,
        filter,
    );
    let (first, last) = rows.span();
    let stride = image.width() as usize * 3;
    let needed = &image.as_raw()[first * stride..last * stride];
    let narrowed = filter_rows(needed, stride, &columns);
    let mut out = RgbImage::new(width, height);
    filter_columns(&narrowed, first, &rows, &mut out);
    out
}

/// Which source samples one output sample is made of, along one axis.
#[derive(Debug, Clone, Copy)]
struct Taps {
    /// First source sample.
    start: usize,
    /// Number of source samples.
    len: usize,
    /// Where their weights begin in [`Axis::weights`].
    weights: usize,
}

/// The weights of one axis for the samples of a window.
struct Axis {
    taps: Vec<Taps>,
    weights: Vec<i32>,
}

impl Axis {
    /// Weights of outputs `offset..offset + count` when `source` samples become `whole`.
    fn new(source: u32, whole: u64, offset: u64, count: u32, filter: Filter) -> Self {
        let (kernel, support): (fn(f64) -> f64, f64) = match filter {
            Filter::Bilinear => (triangle, 1.0),
            Filter::Bicubic => (catmull_rom, 2.0),
        };
        let scale = f64::from(source) / whole as f64;
        // Antialias: the kernel widens when the picture shrinks.
        let widening = scale.max(1.0);
        let (support, narrowing) = (support * widening, 1.0 / widening);
        let (mut axis, mut raw) = (Self::empty(), Vec::new());
        for out in offset..offset + u64::from(count) {
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

    /// Normalises one output's weights to a sum of one and rounds them away from zero at one half.
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

    fn weights_of(&self, taps: Taps) -> &[i32] {
        &self.weights[taps.weights..taps.weights + taps.len]
    }

    /// First source sample that is read and one past the last.
    fn span(&self) -> (usize, usize) {
        let first = self.taps.first().map_or(0, |t| t.start);
        let last = self.taps.iter().map(|t| t.start + t.len).max();
        (first, last.unwrap_or(0))
    }
}

/// `PIL.Image.BILINEAR`.
fn triangle(x: f64) -> f64 {
    (1.0 - x.abs()).max(0.0)
}

/// `PIL.Image.BICUBIC`: the cubic convolution with a = -0.5, in Pillow's order of operations.
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

fn to_u8(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

/// First pass: every row of `rows` (`stride` bytes each) to `columns.taps.len()` pixels.
fn filter_rows(rows: &[u8], stride: usize, columns: &Axis) -> Vec<u8> {
    let width = columns.taps.len();
    let mut out = vec![0; rows.len() / stride * width * 3];
    for (row, out) in rows
        .chunks_exact(stride)
        .zip(out.chunks_exact_mut(width * 3))
    {
        let pixels = row.as_chunks::<3>().0;
        for (taps, out) in columns.taps.iter().zip(out.as_chunks_mut::<3>().0) {
            let mut sums = [HALF; 3];
            let pixels = &pixels[taps.start..taps.start + taps.len];
            for (pixel, weight) in pixels.iter().zip(columns.weights_of(*taps)) {
                for (sum, sample) in sums.iter_mut().zip(pixel) {
                    *sum += i32::from(*sample) * weight;
                }
            }
            *out = sums.map(to_u8);
        }
    }
    out
}

/// Second pass: rows, of which the first is number `first` of the picture, to those of `out`.
fn filter_columns(rows: &[u8], first: usize, axis: &Axis, out: &mut RgbImage) {
    let stride = out.width() as usize * 3;
    let mut sums = vec![0; stride];
    for (taps, out) in axis.taps.iter().zip(out.chunks_exact_mut(stride)) {
        sums.fill(HALF);
        let start = (taps.start - first) * stride;
        let rows = rows[start..start + taps.len * stride].chunks_exact(stride);
        for (row, weight) in rows.zip(axis.weights_of(*taps)) {
            for (sum, sample) in sums.iter_mut().zip(row) {
                *sum += i32::from(*sample) * weight;
            }
        }
        for (out, sum) in out.iter_mut().zip(&sums) {
            *out = to_u8(*sum);
        }
    }
}
