//! Conversion of planes to RGB pixels.

use libjpeg_turbo_rs::ColorSpace;

use super::planes::Plane;
use crate::cancel::{Cancel, Cancelled, Pace};
use crate::image::ImageSize;

/// Converts one plane of gray or three planes to the pixels of an image of size `size`, `[H, W, 3] u8`.
/// Three planes hold luma and chroma, or red, green and blue if `space` is [`ColorSpace::Rgb`].
///
/// # Errors
/// [`Cancelled`] if `cancel` is cancelled.
pub(super) fn to_rgb(
    planes: &[Plane<'_>],
    space: ColorSpace,
    size: ImageSize,
    cancel: &Cancel,
) -> Result<Vec<u8>, Cancelled> {
    let (width, height) = (size.width as usize, size.height as usize);
    let mut pace = Pace::new(cancel);
    let mut out = vec![0; width * height * 3];
    let mut rows = vec![vec![0; width]; planes.len()];
    let mut sums = Vec::new();
    for (y, out) in out.chunks_exact_mut(width * 3).enumerate() {
        pace.step(out.len())?;
        for (plane, row) in planes.iter().zip(&mut rows) {
            plane.upsample(y, row, &mut sums);
        }
        let pixels = out.as_chunks_mut::<3>().0.iter_mut();
        match rows.as_slice() {
            [first, second, third] => {
                let samples = first.iter().zip(second).zip(third);
                for (pixel, ((first, second), third)) in pixels.zip(samples) {
                    let samples = [*first, *second, *third];
                    *pixel = match space {
                        ColorSpace::Rgb => samples,
                        _ => from_ycc(samples),
                    };
                }
            }
            [gray, ..] => pixels
                .zip(gray)
                .for_each(|(pixel, gray)| *pixel = [*gray; 3]),
            [] => {}
        }
    }
    Ok(out)
}

/// Converts a full-range BT.601 `YCbCr` pixel to RGB, with coefficients of 16 fractional bits.
/// Source: libjpeg-turbo, jdcolor.c, `build_ycc_rgb_table`.
pub(super) fn from_ycc([y, cb, cr]: [u8; 3]) -> [u8; 3] {
    const HALF: i32 = 1 << 15;
    let (y, cb, cr) = (i32::from(y), i32::from(cb) - 128, i32::from(cr) - 128);
    let red = y + ((91_881 * cr + HALF) >> 16);
    let green = y + ((-22_554 * cb - 46_802 * cr + HALF) >> 16);
    let blue = y + ((116_130 * cb + HALF) >> 16);
    [red, green, blue].map(|light| light.clamp(0, 255) as u8)
}
