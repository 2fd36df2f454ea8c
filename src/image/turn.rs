//! Rotation and mirroring of an image by the orientation that its file states.
//!
//! Source: `PIL.ImageOps.exif_transpose`. The crate `image` has the same operations, but those of
//! this module can be cancelled.

use image::RgbImage;
use image::metadata::Orientation as Turn;

use crate::cancel::{Cancel, Cancelled, Pace};

/// Side in pixels of the squares that are transposed one after the other. A square is small enough
/// that the rows read and the rows written both stay in the CPU cache.
const SQUARE: usize = 32;

/// A pixel: red, green, blue.
type Pixel = [u8; 3];

/// The steps of a turn, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Steps {
    /// Whether rows and columns are exchanged.
    pub(super) transposed: bool,
    /// Whether the image is then mirrored left to right, and top to bottom.
    pub(super) mirrored: [bool; 2],
}

impl Steps {
    /// Returns the steps of `turn`.
    pub(super) fn of(turn: Turn) -> Self {
        let (transposed, mirrored) = match turn {
            Turn::NoTransforms => (false, [false, false]),
            Turn::FlipHorizontal => (false, [true, false]),
            Turn::FlipVertical => (false, [false, true]),
            Turn::Rotate180 => (false, [true, true]),
            Turn::Rotate90FlipH => (true, [false, false]),
            Turn::Rotate90 => (true, [true, false]),
            Turn::Rotate270 => (true, [false, true]),
            Turn::Rotate270FlipH => (true, [true, true]),
        };
        Self {
            transposed,
            mirrored,
        }
    }

    /// Rotates and mirrors `image`. If width and height are exchanged, a second buffer of the size
    /// of the image is allocated; the other steps work in place.
    ///
    /// # Errors
    /// [`Cancelled`] if the work is cancelled.
    pub(super) fn apply(self, image: RgbImage, cancel: &Cancel) -> Result<RgbImage, Cancelled> {
        if self.transposed {
            return transpose(&image, self.mirrored, cancel);
        }
        let [across, down] = self.mirrored;
        let image = if across {
            mirror_rows(image, cancel)?
        } else {
            image
        };
        if down {
            swap_rows(image, cancel)
        } else {
            Ok(image)
        }
    }
}

/// Mirrors an image left to right.
fn mirror_rows(mut image: RgbImage, cancel: &Cancel) -> Result<RgbImage, Cancelled> {
    let stride = image.width() as usize * 3;
    let mut pace = Pace::new(cancel);
    for row in image.chunks_exact_mut(stride.max(1)) {
        pace.step(stride)?;
        row.as_chunks_mut::<3>().0.reverse();
    }
    Ok(image)
}

/// Mirrors an image top to bottom.
fn swap_rows(mut image: RgbImage, cancel: &Cancel) -> Result<RgbImage, Cancelled> {
    let stride = image.width() as usize * 3;
    let mut pace = Pace::new(cancel);
    let mut rows = image.chunks_exact_mut(stride.max(1));
    while let (Some(upper), Some(lower)) = (rows.next(), rows.next_back()) {
        pace.step(stride)?;
        upper.swap_with_slice(lower);
    }
    Ok(image)
}

/// Returns `image` with rows and columns exchanged, then mirrored left to right if `mirrored[0]`
/// and top to bottom if `mirrored[1]`.
fn transpose(
    image: &RgbImage,
    mirrored: [bool; 2],
    cancel: &Cancel,
) -> Result<RgbImage, Cancelled> {
    let (width, height) = (image.width() as usize, image.height() as usize);
    let from: &[Pixel] = image.as_raw().as_chunks().0;
    let mut turned = RgbImage::new(image.height(), image.width());
    let to: &mut [Pixel] = turned.as_chunks_mut().0;
    let mut pace = Pace::new(cancel);
    for top in (0..height).step_by(SQUARE) {
        for left in (0..width).step_by(SQUARE) {
            pace.step(SQUARE * SQUARE)?;
            let rows = top..height.min(top + SQUARE);
            for x in left..width.min(left + SQUARE) {
                let row = if mirrored[1] { width - 1 - x } else { x };
                let row = &mut to[row * height..][..height];
                for y in rows.clone() {
                    let column = if mirrored[0] { height - 1 - y } else { y };
                    row[column] = from[y * width + x];
                }
            }
        }
    }
    Ok(turned)
}

#[cfg(test)]
mod tests {
    use image::DynamicImage;

    use super::*;

    #[test]
    fn turns_are_those_of_the_crate_image() {
        let sizes = [
            (1, 1),
            (1, 70),
            (70, 1),
            (2, 3),
            (32, 32),
            (33, 65),
            (100, 31),
        ];
        for (width, height) in sizes {
            let image = RgbImage::from_fn(width, height, |x, y| {
                image::Rgb([x as u8, y as u8, (x * 7 + y * 13) as u8])
            });
            for value in 1..=8 {
                let turn = Turn::from_exif(value).unwrap();
                let mut expected = DynamicImage::ImageRgb8(image.clone());
                expected.apply_orientation(turn);
                let got = Steps::of(turn)
                    .apply(image.clone(), &Cancel::never())
                    .unwrap();
                assert!(got == expected.into_rgb8(), "{turn:?} of {width}x{height}");
            }
        }
    }

    #[test]
    fn a_cancelled_turn_stops() {
        let cancel = Cancel::never();
        cancel.cancel();
        for value in 2..=8 {
            let turn = Turn::from_exif(value).unwrap();
            let result = Steps::of(turn).apply(RgbImage::new(700, 300), &cancel);
            assert_eq!(result, Err(Cancelled), "{turn:?}");
        }
    }
}
