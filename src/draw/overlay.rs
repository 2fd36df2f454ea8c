//! Blending of a translucent mask with outlines into an image.

#![expect(
    clippy::inline_always,
    reason = "functions that a SIMD kernel calls must be inlined to use its instruction set"
)]

use std::borrow::Cow;

use fearless_simd::Simd;
use image::RgbImage;

use super::Color;
use crate::cancel::{Cancel, Cancelled};
use crate::image::ImageSize;
use crate::postprocess::segment::{Mask, Palette};
use crate::simd::{Kernel, dispatch};

/// Number of image rows that are blended between two checks for cancellation: well under a
/// millisecond of work.
const ROWS_PER_CHECK: usize = 64;

/// The appearance of a mask.
#[derive(Debug, Clone)]
pub struct Tint {
    /// Color of each class.
    pub palette: Palette,
    /// Opacity of the colors, 0..=1.
    pub alpha: f32,
    /// Width in pixels of the opaque outline inside each area of a class. No outline if 0.
    pub outline: u32,
}

/// Blends the color of each class in `mask` into `image`, and draws the outlines of its areas.
///
/// Pixels of class 0, the background, are left unchanged. If the mask and the image differ in size,
/// the mask is stretched to the image with nearest-neighbor interpolation. The edges of the image are
/// not outlines.
///
/// # Errors
/// [`Cancelled`] if the work is cancelled; part of the mask may be drawn by then.
pub fn overlay(
    image: &mut RgbImage,
    mask: &Mask,
    tint: &Tint,
    cancel: &Cancel,
) -> Result<(), Cancelled> {
    dispatch(Overlay {
        image,
        mask,
        palette: &tint.palette,
        alpha: (tint.alpha.clamp(0.0, 1.0) * 256.0).round() as u16,
        outline: tint.outline as usize,
        cancel,
    })
}

/// The kernel that blends rows of a mask into an image.
struct Overlay<'a> {
    image: &'a mut RgbImage,
    mask: &'a Mask,
    palette: &'a Palette,
    /// Opacity of the mask's colors in 256ths, 0..=256.
    alpha: u16,
    /// Width of outlines in pixels.
    outline: usize,
    cancel: &'a Cancel,
}

/// Opacity of outlines in 256ths.
const OPAQUE: u16 = 256;

impl Kernel for Overlay<'_> {
    type Output = Result<(), Cancelled>;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> Self::Output {
        let (width, height) = self.image.dimensions();
        let size = ImageSize { width, height };
        // Whether each pixel of a row is part of an outline.
        let mut outlined = vec![false; width as usize];
        let rows = self.image.chunks_exact_mut((width as usize * 3).max(1));
        for (y, mut row) in rows.enumerate() {
            if y % ROWS_PER_CHECK == 0 {
                self.cancel.check()?;
            }
            let classes = stretched_row(self.mask, y, size);
            find_outlines(self.mask, y, size, self.outline, &mut outlined);
            for (run, outlined) in runs(&classes, &outlined) {
                let (pixels, rest) = row.split_at_mut(run.len() * 3);
                if run[0] != 0 {
                    let alpha = if outlined { OPAQUE } else { self.alpha };
                    tint(pixels, self.palette[usize::from(run[0])], alpha);
                }
                row = rest;
            }
        }
        Ok(())
    }
}

/// Divides a row into runs of pixels of one class that all are, or all are not, part of an outline.
fn runs<'a>(classes: &'a [u8], outlined: &'a [bool]) -> impl Iterator<Item = (&'a [u8], bool)> {
    let mut rest = outlined;
    classes.chunk_by(|a, b| a == b).flat_map(move |run| {
        let (marks, after) = rest.split_at(run.len());
        rest = after;
        let mut run = run;
        marks.chunk_by(|a, b| a == b).map(move |marks| {
            let (part, after) = run.split_at(marks.len());
            run = after;
            (part, marks[0])
        })
    })
}

/// Sets `outlined` to whether each pixel of row `y` is part of an outline `width` pixels wide: whether a
/// pixel of another class is `width` pixels to its left or right, above or below it. `mask` is stretched
/// to an image of size `size`.
#[inline(always)]
fn find_outlines(mask: &Mask, y: usize, size: ImageSize, width: usize, outlined: &mut [bool]) {
    outlined.fill(false);
    if width == 0 {
        return;
    }
    let row = stretched_row(mask, y, size);
    let last = (size.height as usize).saturating_sub(1);
    for other in [y.saturating_sub(width), (y + width).min(last)] {
        let other = stretched_row(mask, other, size);
        for ((outlined, class), other) in outlined.iter_mut().zip(&*row).zip(&*other) {
            *outlined |= class != other;
        }
    }
    let Some(shifted) = row.get(width..) else {
        return;
    };
    for ((outlined, class), other) in outlined.iter_mut().zip(&*row).zip(shifted) {
        *outlined |= class != other;
    }
    for ((outlined, class), other) in outlined[width..].iter_mut().zip(shifted).zip(&*row) {
        *outlined |= class != other;
    }
}

/// Stretches `mask` to an image of size `to` with nearest-neighbor interpolation, and returns the
/// class ids of row `y` of this image.
fn stretched_row(mask: &Mask, y: usize, to: ImageSize) -> Cow<'_, [u8]> {
    let (width, height) = (mask.size().width as usize, mask.size().height as usize);
    let (to_width, to_height) = (to.width as usize, to.height as usize);
    let row = &mask.classes()[y * height / to_height * width..][..width];
    if to_width == width {
        return Cow::Borrowed(row);
    }
    Cow::Owned((0..to_width).map(|x| row[x * width / to_width]).collect())
}

/// Number of bytes that one loop iteration blends: 16 pixels of 3 bytes, which fill three SIMD
/// registers of 16 bytes.
const CHUNK: usize = 48;

/// Blends `color` into the RGB bytes `pixels` with an opacity of `alpha` 256ths, 0..=256.
#[inline(always)]
fn tint(pixels: &mut [u8], color: Color, alpha: u16) {
    let mut added = [[0; 3]; CHUNK / 3];
    added.fill(color.map(|value| u16::from(value) * alpha + 128));
    let added = added.as_flattened();
    let kept = 256 - alpha;
    let (chunks, rest) = pixels.as_chunks_mut::<CHUNK>();
    for chunk in chunks {
        for (value, added) in chunk.iter_mut().zip(added) {
            *value = ((u16::from(*value) * kept + added) >> 8) as u8;
        }
    }
    for (value, added) in rest.iter_mut().zip(added) {
        *value = ((u16::from(*value) * kept + added) >> 8) as u8;
    }
}
