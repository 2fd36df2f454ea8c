//! Pixels and rectangles of them, mixed with a colour.

use std::ops::Range;

use image::RgbImage;

use super::Colour;

/// Pixels `x..x + width` and `y..y + height`, of which any may be outside of the picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Area {
    pub(super) x: i64,
    pub(super) y: i64,
    pub(super) width: i64,
    pub(super) height: i64,
}

/// The part of `start..start + len` that is in `0..side`.
fn clip(start: i64, len: i64, side: u32) -> Range<usize> {
    let side = i64::from(side);
    let end = start.saturating_add(len.max(0)).clamp(0, side);
    let start = start.clamp(0, end);
    start as usize..end as usize
}

/// Mixes `colour` into the pixels of `area`; an `alpha` of 255 covers them.
pub(super) fn fill(image: &mut RgbImage, area: Area, colour: Colour, alpha: u8) {
    let columns = clip(area.x, area.width, image.width());
    let rows = clip(area.y, area.height, image.height());
    for y in rows {
        for pixel in row_part(image, y, &columns) {
            blend(pixel, colour, alpha);
        }
    }
}

/// The pixels of `columns` in row `y`.
fn row_part<'a>(image: &'a mut RgbImage, y: usize, columns: &Range<usize>) -> &'a mut [Colour] {
    let width = image.width() as usize;
    let bytes: &mut [u8] = image;
    &mut bytes.as_chunks_mut().0[y * width..][columns.clone()]
}

/// Mixes `colour` into a pixel; an `alpha` of 255 covers it.
pub(super) fn blend(pixel: &mut Colour, colour: Colour, alpha: u8) {
    let alpha = u32::from(alpha);
    for (value, colour) in pixel.iter_mut().zip(colour) {
        let mixed = u32::from(*value) * (255 - alpha) + u32::from(colour) * alpha;
        *value = ((mixed + 127) / 255) as u8;
    }
}

/// How much of each pixel a shape covers, 0..=255.
#[derive(Debug, Clone)]
pub(super) struct Coverage {
    width: usize,
    height: usize,
    values: Vec<u8>,
}

impl Coverage {
    pub(super) fn new(width: usize, height: usize) -> Self {
        let values = vec![0; width * height];
        Self {
            width,
            height,
            values,
        }
    }

    /// Adds to a pixel, if there is one.
    pub(super) fn add(&mut self, x: i64, y: i64, value: f32) {
        let (Ok(x), Ok(y)) = (usize::try_from(x), usize::try_from(y)) else {
            return;
        };
        if x < self.width && y < self.height {
            let covered = &mut self.values[y * self.width + x];
            *covered = covered.saturating_add((value * 255.0).round() as u8);
        }
    }

    /// The shape grown by `radius` pixels to all sides, as far as there is room.
    pub(super) fn grown(&self, radius: usize) -> Self {
        let mut wide = Self::new(self.width, self.height);
        let mut grown = wide.clone();
        for y in 0..self.height {
            for x in 0..self.width {
                let near = x.saturating_sub(radius)..(x + radius + 1).min(self.width);
                let value = near.map(|x| self.values[y * self.width + x]).max();
                wide.values[y * self.width + x] = value.unwrap_or(0);
            }
        }
        for y in 0..self.height {
            let near = y.saturating_sub(radius)..(y + radius + 1).min(self.height);
            for x in 0..self.width {
                let value = near.clone().map(|y| wide.values[y * self.width + x]).max();
                grown.values[y * self.width + x] = value.unwrap_or(0);
            }
        }
        grown
    }

    /// Mixes `colour` into the pixels that the shape covers, its corner being at `x, y`.
    pub(super) fn paint(&self, image: &mut RgbImage, (x, y): (i64, i64), colour: Colour) {
        let columns = clip(x, self.width as i64, image.width());
        let rows = clip(y, self.height as i64, image.height());
        if columns.is_empty() {
            return;
        }
        for row in rows {
            // What is clipped is inside of the shape: these are not negative.
            let covered = &self.values[(row as i64 - y) as usize * self.width..][..self.width];
            let covered = &covered[(columns.start as i64 - x) as usize..];
            let pixels = row_part(image, row, &columns).iter_mut();
            for (pixel, alpha) in pixels.zip(covered) {
                blend(pixel, colour, *alpha);
            }
        }
    }
}
