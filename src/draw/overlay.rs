//! A translucent mask.

#![expect(
    clippy::inline_always,
    reason = "what a kernel calls must be compiled for its instruction set"
)]

use std::borrow::Cow;

use fearless_simd::Simd;
use image::RgbImage;

use super::Colour;
use crate::postprocess::segment::{Mask, Palette};
use crate::simd::{Kernel, dispatch};

/// Mixes the colours of `mask`'s classes into `image`; `alpha` is how much of them, 0..=1.
///
/// Class 0, the background, is left as it is. A mask of another size than the picture's is stretched
/// to it, each pixel having the class that it falls into.
pub fn overlay(image: &mut RgbImage, mask: &Mask, palette: &Palette, alpha: f32) {
    dispatch(Overlay {
        image,
        mask,
        palette,
        alpha: (alpha.clamp(0.0, 1.0) * 256.0).round() as u16,
    });
}

struct Overlay<'a> {
    image: &'a mut RgbImage,
    mask: &'a Mask,
    palette: &'a Palette,
    /// In 256ths.
    alpha: u16,
}

impl Kernel for Overlay<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let (width, height) = self.image.dimensions();
        let rows = self.image.chunks_exact_mut((width as usize * 3).max(1));
        for (y, mut row) in rows.enumerate() {
            let classes = stretched_row(self.mask, y, width as usize, height as usize);
            for run in classes.chunk_by(|a, b| a == b) {
                let (pixels, rest) = row.split_at_mut(run.len() * 3);
                if run[0] != 0 {
                    tint(pixels, self.palette[usize::from(run[0])], self.alpha);
                }
                row = rest;
            }
        }
    }
}

/// The classes of row `y` of a picture of `width` x `height`.
fn stretched_row(mask: &Mask, y: usize, width: usize, height: usize) -> Cow<'_, [u8]> {
    let (from_width, from_height) = (mask.size().width as usize, mask.size().height as usize);
    let row = &mask.classes()[y * from_height / height * from_width..][..from_width];
    if width == from_width {
        return Cow::Borrowed(row);
    }
    Cow::Owned((0..width).map(|x| row[x * from_width / width]).collect())
}

/// Bytes that are mixed at once: a whole number of pixels and of vectors.
const CHUNK: usize = 48;

/// Mixes `alpha` 256ths of `colour` into `pixels`.
#[inline(always)]
fn tint(pixels: &mut [u8], colour: Colour, alpha: u16) {
    let mut added = [[0; 3]; CHUNK / 3];
    added.fill(colour.map(|value| u16::from(value) * alpha + 128));
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
