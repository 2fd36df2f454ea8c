//! Resizing of 8-bit RGB, bit-identical to Pillow. Only a window of the resized image, such as its
//! central crop, is computed.
//!
//! Pillow filters in two passes, along rows and then down the columns, with weights of 22
//! fractional bits, and rounds to 8 bits after each pass. The crate `fast_image_resize` filters
//! columns first and uses 16-bit weights, so about one sample in six differs from Pillow's by one
//! level (with the bicubic filter, by up to six levels). This module therefore implements both
//! passes itself.
//!
//! A full resize followed by a crop would compute pixels only to drop them. This module computes
//! the weights of the window by the formula of the whole image, and skips source rows that the
//! window does not need. The pixels are the same, and an image of 1x4000 pixels needs memory for
//! its window only, instead of gigabytes for the whole resized image.

use image::RgbImage;

use super::ImageSize;
use super::axis::Axis;
use super::decoded::Placement;
use super::passes::{filter_columns, filter_rows};
use crate::cancel::{Cancel, Cancelled};
use crate::manifest::Filter;

/// Width and height of a resized image in pixels. They exceed 32 bits for the most elongated images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Width in pixels.
    pub width: u64,
    /// Height in pixels.
    pub height: u64,
}

/// A rectangle of a resized image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Size of the whole resized image.
    pub whole: Extent,
    /// First column of the rectangle.
    pub x: u64,
    /// First row of the rectangle.
    pub y: u64,
    /// Size of the rectangle.
    pub size: Extent,
}

impl Window {
    /// Returns the window that covers all of a resized image of size `whole`.
    pub fn all(whole: Extent) -> Self {
        Self {
            whole,
            x: 0,
            y: 0,
            size: whole,
        }
    }

    /// Returns the central square of `crop` x `crop` pixels of a resized image of size `whole`. A
    /// side of the image that is shorter than `crop` is kept whole.
    ///
    /// Source: `torchvision.transforms.functional.center_crop`, whose offsets Python rounds half to
    /// even.
    pub fn central(whole: Extent, crop: u32) -> Self {
        let crop = u64::from(crop);
        let offset = |side: u64| (side.saturating_sub(crop) as f64 / 2.0).round_ties_even() as u64;
        Self {
            whole,
            x: offset(whole.width),
            y: offset(whole.height),
            size: Extent {
                width: crop.min(whole.width),
                height: crop.min(whole.height),
            },
        }
    }

    /// Returns the number of pixels in the rectangle.
    pub fn pixels(&self) -> u64 {
        self.size.width.saturating_mul(self.size.height)
    }
}

/// Returns the size of an image whose shorter side is resized to `short` pixels.
///
/// Source: `torchvision.transforms.functional._compute_resized_output_size`, whose
/// `int(size * long / short)` equals integer division below 2^53.
pub fn short_side_size(size: ImageSize, short: u32) -> Extent {
    let (w, h) = (u64::from(size.width), u64::from(size.height));
    let short = u64::from(short);
    let long = short * w.max(h) / w.min(h).max(1);
    let (width, height) = if w <= h { (short, long) } else { (long, short) };
    Extent { width, height }
}

/// Resizes `image`, all of whose pixels are the image, as `resize_placed` does.
///
/// # Errors
/// [`Cancelled`] if the work is cancelled.
pub fn resize_window(
    image: &RgbImage,
    window: &Window,
    filter: Filter,
    cancel: &Cancel,
) -> Result<RgbImage, Cancelled> {
    let (width, height) = image.dimensions();
    let placement = Placement::whole(ImageSize { width, height });
    resize_placed(image, &placement, window, filter, cancel)
}

/// Resizes the image that lies in `pixels` at `placement` to the size `window.whole`, and returns the
/// pixels of `window`, `[h, w, 3] u8`.
///
/// The caller must check that the window's sides fit into 32 bits and its pixels into memory. The
/// result is empty if the image or the window is empty. An axis whose length does not change keeps
/// its samples exactly.
///
/// Source: Pillow's `ImagingResample` for 8 bits per channel.
///
/// # Errors
/// [`Cancelled`] if the work is cancelled.
pub(super) fn resize_placed(
    pixels: &RgbImage,
    placement: &Placement,
    window: &Window,
    filter: Filter,
    cancel: &Cancel,
) -> Result<RgbImage, Cancelled> {
    let (width, height) = (window.size.width as u32, window.size.height as u32);
    if pixels.as_raw().is_empty() || width == 0 || height == 0 {
        return Ok(RgbImage::new(0, 0));
    }
    let Window { whole, x, y, .. } = *window;
    let x = x..x + u64::from(width);
    let y = y..y + u64::from(height);
    let columns = (pixels.width(), placement.columns);
    let columns = Axis::new(columns, whole.width, x, filter);
    let rows = (pixels.height(), placement.rows);
    let rows = Axis::new(rows, whole.height, y, filter);
    let needed = rows.span(0..rows.len());
    let stride = pixels.width() as usize * 3;
    let source = &pixels.as_raw()[needed.start * stride..needed.end * stride];
    let narrowed = filter_rows(source, stride, &columns, cancel)?;
    let mut out = RgbImage::new(width, height);
    filter_columns(&narrowed, needed.start, &rows, &mut out, cancel)?;
    Ok(out)
}
