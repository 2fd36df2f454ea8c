//! Blends colors into pixels, rectangles and shapes of an image.

use std::ops::Range;

use image::RgbImage;

use super::Color;

/// A position in pixels from the top left corner of the image. It may be outside of the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Point {
    pub(super) x: i64,
    pub(super) y: i64,
}

/// A rectangle of pixels, with the columns `x..x + width` and the rows `y..y + height`. It may be
/// partly or wholly outside of the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Area {
    pub(super) x: i64,
    pub(super) y: i64,
    pub(super) width: i64,
    pub(super) height: i64,
}

impl Area {
    /// Returns the area grown by `by` pixels on each side, or shrunk if `by` is negative.
    pub(super) fn grown(self, by: i64) -> Self {
        Self {
            x: self.x - by,
            y: self.y - by,
            width: self.width + 2 * by,
            height: self.height + 2 * by,
        }
    }

    /// Returns whether the two areas share a pixel.
    pub(super) fn overlaps(self, other: Self) -> bool {
        self.x < other.x + other.width
            && other.x < self.x + self.width
            && self.y < other.y + other.height
            && other.y < self.y + self.height
    }
}

/// A color and its opacity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Paint {
    pub(super) color: Color,
    /// Opacity: 0 leaves a pixel unchanged, 255 replaces it with the color.
    pub(super) alpha: u8,
}

impl Paint {
    /// Returns paint that replaces the pixels below it.
    pub(super) fn opaque(color: Color) -> Self {
        Self { color, alpha: 255 }
    }
}

/// Returns the part of the pixel range `start..start + len` that is in `0..side`; empty if there is
/// none.
fn clip(start: i64, len: i64, side: u32) -> Range<usize> {
    let side = i64::from(side);
    let end = start.saturating_add(len.max(0)).clamp(0, side);
    let start = start.clamp(0, end);
    start as usize..end as usize
}

/// Blends `paint` into the pixels of `area` that are in the image.
pub(super) fn fill(image: &mut RgbImage, area: Area, paint: Paint) {
    let columns = clip(area.x, area.width, image.width());
    let rows = clip(area.y, area.height, image.height());
    for y in rows {
        for pixel in row_part(image, y, &columns) {
            blend(pixel, paint);
        }
    }
}

/// Returns the pixels of row `y` whose columns are in `columns`.
fn row_part<'a>(image: &'a mut RgbImage, y: usize, columns: &Range<usize>) -> &'a mut [Color] {
    let width = image.width() as usize;
    let bytes: &mut [u8] = image;
    &mut bytes.as_chunks_mut().0[y * width..][columns.clone()]
}

/// Blends `paint` into a pixel.
pub(super) fn blend(pixel: &mut Color, paint: Paint) {
    let alpha = u32::from(paint.alpha);
    for (value, color) in pixel.iter_mut().zip(paint.color) {
        let mixed = u32::from(*value) * (255 - alpha) + u32::from(color) * alpha;
        *value = ((mixed + 127) / 255) as u8;
    }
}

/// A shape on a canvas, as the coverage of each pixel of the canvas: 0 (not covered) to 255 (fully
/// covered).
#[derive(Debug, Clone)]
pub(super) struct Coverage {
    width: usize,
    height: usize,
    values: Vec<u8>,
}

impl Coverage {
    /// Returns an empty shape on a canvas of `width` x `height` pixels.
    pub(super) fn new(width: usize, height: usize) -> Self {
        let values = vec![0; width * height];
        Self {
            width,
            height,
            values,
        }
    }

    /// Adds `value`, 0..=1, to the coverage of the canvas pixel `at`, up to full coverage. Does
    /// nothing if `at` is outside of the canvas.
    pub(super) fn add(&mut self, at: Point, value: f32) {
        let (Ok(x), Ok(y)) = (usize::try_from(at.x), usize::try_from(at.y)) else {
            return;
        };
        if x < self.width && y < self.height {
            let covered = &mut self.values[y * self.width + x];
            *covered = covered.saturating_add((value * 255.0).round() as u8);
        }
    }

    /// Blends `color` into the image pixels that the shape covers, if the top left corner of the
    /// shape's canvas is at the image position `at`.
    pub(super) fn paint(&self, image: &mut RgbImage, at: Point, color: Color) {
        let columns = clip(at.x, self.width as i64, image.width());
        let rows = clip(at.y, self.height as i64, image.height());
        if columns.is_empty() {
            return;
        }
        for row in rows {
            // Rows and columns are within the canvas, so they are not less than `at.y` and `at.x`.
            let covered = &self.values[(row as i64 - at.y) as usize * self.width..][..self.width];
            let covered = &covered[(columns.start as i64 - at.x) as usize..];
            let pixels = row_part(image, row, &columns).iter_mut();
            for (pixel, alpha) in pixels.zip(covered) {
                let alpha = *alpha;
                blend(pixel, Paint { color, alpha });
            }
        }
    }
}
