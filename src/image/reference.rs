//! Slow and plain statements of what the fast code computes, for tests.

use image::{Rgb, RgbImage};

use super::ImageSize;
use crate::manifest::Filter;

/// Whole-picture resize after the description of Pillow's `Resample.c`: per output sample, all
/// weights that are not outside of the kernel, in fixed point; columns of a row first, then rows.
pub(super) fn resize(image: &RgbImage, width: u32, height: u32, filter: Filter) -> RgbImage {
    let (w, h) = image.dimensions();
    let wide = RgbImage::from_fn(width, h, |x, y| {
        weighted(w, width, x, filter, |i| *image.get_pixel(i, y))
    });
    RgbImage::from_fn(width, height, |x, y| {
        weighted(h, height, y, filter, |i| *wide.get_pixel(x, i))
    })
}

fn weighted(
    from: u32,
    to: u32,
    out: u32,
    filter: Filter,
    sample: impl Fn(u32) -> Rgb<u8>,
) -> Rgb<u8> {
    let scale = f64::from(from) / f64::from(to);
    let stretch = if scale < 1.0 { 1.0 } else { scale };
    let radius = stretch * if filter == Filter::Bilinear { 1.0 } else { 2.0 };
    let center = (f64::from(out) + 0.5) * scale;
    let low = ((center - radius + 0.5) as i64).max(0);
    let high = ((center + radius + 0.5) as i64).min(i64::from(from));
    let weights: Vec<f64> = (low..high)
        .map(|i| kernel((i as f64 - center + 0.5) * (1.0 / stretch), filter))
        .collect();
    let total: f64 = weights.iter().sum();
    let mut sums = [1i64 << 21; 3];
    for (i, weight) in (low..high).zip(weights) {
        // `round` goes away from zero at one half, as adding or subtracting it and cutting does.
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

/// `(v / 255 - mean) / std`, value by value.
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

/// Normalised, resized without antialias and padded with zeros: `[3, padded.height, padded.width]`.
pub(super) fn detector_planes(
    image: &RgbImage,
    (mean, std): ([f32; 3], [f32; 3]),
    to: ImageSize,
    padded: ImageSize,
) -> Vec<f32> {
    let (width, height) = image.dimensions();
    let planes = normalize(image, mean, std);
    let mut out = Vec::new();
    for plane in planes.chunks((width * height) as usize) {
        for (y, x) in (0..padded.height).flat_map(|y| (0..padded.width).map(move |x| (y, x))) {
            if y >= to.height || x >= to.width {
                out.push(0.0);
                continue;
            }
            let (top, bottom, down) = neighbours(y, height, to.height);
            let (left, right, across) = neighbours(x, width, to.width);
            let along = |y: u32| {
                let row = &plane[(y * width) as usize..];
                row[left as usize] * (1.0 - across) + row[right as usize] * across
            };
            out.push(along(top) * (1.0 - down) + along(bottom) * down);
        }
    }
    out
}

/// The input before, the input after, and the weight of the latter.
fn neighbours(out: u32, from: u32, to: u32) -> (u32, u32, f32) {
    let scale = from as f32 / to as f32;
    let at = ((out as f32 + 0.5) * scale - 0.5).max(0.0);
    let before = (at.floor() as u32).min(from - 1);
    let after = (before + 1).min(from - 1);
    (before, after, (at - before as f32).min(1.0))
}
