//! Slow reference implementations of the resizes and of normalization, for tests.

use image::{Rgb, RgbImage};

use super::DetectorSizes;
use crate::manifest::Filter;

/// Resizes an image as Pillow's `Resample.c` does: per output sample, a fixed-point sum over all source
/// samples under the kernel; first along rows, then down the columns.
pub(super) fn resize(image: &RgbImage, width: u32, height: u32, filter: Filter) -> RgbImage {
    let (w, h) = image.dimensions();
    let axis = |from, to| Axis { from, to, filter };
    let wide = RgbImage::from_fn(width, h, |x, y| {
        weighted(axis(w, width), x, |i| *image.get_pixel(i, y))
    });
    RgbImage::from_fn(width, height, |x, y| {
        weighted(axis(h, height), y, |i| *wide.get_pixel(x, i))
    })
}

/// One axis of a resize, from `from` samples to `to` samples.
#[derive(Clone, Copy)]
struct Axis {
    from: u32,
    to: u32,
    filter: Filter,
}

/// Returns output sample `out`: a weighted sum of source samples, which `sample` returns by their
/// index.
fn weighted(axis: Axis, out: u32, sample: impl Fn(u32) -> Rgb<u8>) -> Rgb<u8> {
    let scale = f64::from(axis.from) / f64::from(axis.to);
    let stretch = if scale < 1.0 { 1.0 } else { scale };
    let support = if axis.filter == Filter::Bilinear {
        1.0
    } else {
        2.0
    };
    let radius = stretch * support;
    let center = (f64::from(out) + 0.5) * scale;
    let low = ((center - radius + 0.5) as i64).max(0);
    let high = ((center + radius + 0.5) as i64).min(i64::from(axis.from));
    let weights: Vec<f64> = (low..high)
        .map(|i| kernel((i as f64 - center + 0.5) * (1.0 / stretch), axis.filter))
        .collect();
    let total: f64 = weights.iter().sum();
    let mut sums = [1i64 << 21; 3];
    for (i, weight) in (low..high).zip(weights) {
        // `round` rounds halves away from zero, as Pillow's addition of 0.5 and truncation does.
        let fixed = (weight / total * f64::from(1 << 22)).round() as i64;
        for (sum, value) in sums.iter_mut().zip(sample(i as u32).0) {
            *sum += i64::from(value) * fixed;
        }
    }
    Rgb(sums.map(|sum| (sum >> 22).clamp(0, 255) as u8))
}

fn kernel(x: f64, filter: Filter) -> f64 {
    let x = x.abs();
    match filter {
        Filter::Bilinear if x < 1.0 => 1.0 - x,
        Filter::Bicubic if x < 1.0 => (1.5 * x - 2.5) * x * x + 1.0,
        Filter::Bicubic if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5,
        _ => 0.0,
    }
}

/// Returns planes `[3, H, W]` of `(v / 255 - mean) / std`, computed sample by sample.
pub(super) fn normalize(image: &RgbImage, mean: [f32; 3], std: [f32; 3]) -> Vec<f32> {
    let mut out = Vec::new();
    for c in 0..3 {
        for pixel in image.pixels() {
            let value = f32::from(pixel.0[c]) / 255.0;
            out.push((value - mean[c]) / std[c]);
        }
    }
    out
}

/// Resizes planes of size `sizes.original` to `sizes.resized`, bilinearly and without antialiasing,
/// and pads them with zeros to `sizes.padded`. The planes are `[3, H, W]` before and after.
pub(super) fn resize_and_pad(planes: &[f32], sizes: &DetectorSizes) -> Vec<f32> {
    let DetectorSizes {
        original,
        resized,
        padded,
    } = *sizes;
    let mut out = Vec::new();
    for plane in planes.chunks(original.pixels() as usize) {
        for (y, x) in (0..padded.height).flat_map(|y| (0..padded.width).map(move |x| (y, x))) {
            if y >= resized.height || x >= resized.width {
                out.push(0.0);
                continue;
            }
            let rows = Neighbors::new(y, original.height, resized.height);
            let columns = Neighbors::new(x, original.width, resized.width);
            let at = |y: u32, x: u32| plane[(y * original.width + x) as usize];
            let along = |y: u32| columns.lerp(at(y, columns.before), at(y, columns.after));
            out.push(rows.lerp(along(rows.before), along(rows.after)));
        }
    }
    out
}

/// The two source samples between which an output sample of a bilinear resize lies.
struct Neighbors {
    before: u32,
    after: u32,
    /// Weight of source sample `after`, 0..=1. Sample `before` has the weight `1 - weight`.
    weight: f32,
}

impl Neighbors {
    fn new(out: u32, from: u32, to: u32) -> Self {
        let scale = from as f32 / to as f32;
        let at = ((out as f32 + 0.5) * scale - 0.5).max(0.0);
        let before = (at.floor() as u32).min(from - 1);
        Self {
            before,
            after: (before + 1).min(from - 1),
            weight: (at - before as f32).min(1.0),
        }
    }

    fn lerp(&self, before: f32, after: f32) -> f32 {
        before * (1.0 - self.weight) + after * self.weight
    }
}
