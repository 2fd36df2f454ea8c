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

use super::ImageSize;
use super::axis::Axis;
use super::passes::{filter_columns, filter_rows};
use crate::manifest::Filter;

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
    let needed = rows.span(0..rows.len());
    let stride = image.width() as usize * 3;
    let source = &image.as_raw()[needed.start * stride..needed.end * stride];
    let narrowed = filter_rows(source, stride, &columns);
    let mut out = RgbImage::new(width, height);
    filter_columns(&narrowed, needed.start, &rows, &mut out);
    out
}
