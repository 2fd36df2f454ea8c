//! A decoded image, whose pixels may have a reduced scale.

use image::RgbImage;
use image::metadata::Orientation as Turn;

use super::turn::Steps;
use super::{ImageSize, Scale};
use crate::cancel::{Cancel, Cancelled};

/// A decoded image.
#[derive(Debug, Clone, PartialEq)]
pub struct DecodedImage {
    /// The pixels, `[h, w, 3] u8`, at the scale that the image was decoded at.
    pub pixels: RgbImage,
    /// Where the image lies in the pixels.
    pub placement: Placement,
}

/// The part of decoded pixels that shows the image.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Placement {
    /// Size of the whole image at full scale, after any rotation. Results are in pixels of it.
    pub size: ImageSize,
    /// Columns of pixels that show the image.
    pub(super) columns: Span,
    /// Rows of pixels that show the image.
    pub(super) rows: Span,
}

/// A range of samples along one axis whose ends can lie within samples.
///
/// Decoded at 1/8, an image of 4001 columns has 501 columns of pixels, but covers only 500.125 of
/// them. A resize that took all 501 for the image would distort it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Span {
    /// Distance from the edge of the first sample to the start of the range, in samples.
    pub(super) start: f64,
    /// Length of the range in samples.
    pub(super) len: f64,
}

impl Span {
    /// Returns the span of an axis of `full` pixels that was decoded at `scale`.
    fn scaled(full: u32, scale: Scale) -> Self {
        Self {
            start: 0.0,
            len: f64::from(full) / f64::from(scale.divisor()),
        }
    }

    /// Returns the span after the `samples` samples of the axis are put in reverse order.
    fn reversed(self, samples: u32) -> Self {
        Self {
            start: f64::from(samples) - self.start - self.len,
            ..self
        }
    }
}

impl Placement {
    /// Returns the placement of an image of size `size` in pixels that show nothing else.
    pub(super) fn whole(size: ImageSize) -> Self {
        Self::scaled(size, Scale::Full)
    }

    /// Returns the placement of an image of size `full` that was decoded at `scale`.
    pub(super) fn scaled(full: ImageSize, scale: Scale) -> Self {
        Self {
            size: full,
            columns: Span::scaled(full.width, scale),
            rows: Span::scaled(full.height, scale),
        }
    }
}

impl DecodedImage {
    /// Rotates and mirrors the image by `turn`.
    ///
    /// # Errors
    /// [`Cancelled`] if the work is cancelled.
    pub(super) fn turned(self, turn: Turn, cancel: &Cancel) -> Result<Self, Cancelled> {
        let steps = Steps::of(turn);
        let pixels = steps.apply(self.pixels, cancel)?;
        let mut placement = self.placement;
        if steps.transposed {
            let ImageSize { width, height } = placement.size;
            placement = Placement {
                size: ImageSize {
                    width: height,
                    height: width,
                },
                columns: placement.rows,
                rows: placement.columns,
            };
        }
        let [across, down] = steps.mirrored;
        if across {
            placement.columns = placement.columns.reversed(pixels.width());
        }
        if down {
            placement.rows = placement.rows.reversed(pixels.height());
        }
        Ok(Self { pixels, placement })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks that the partial block at the right or lower edge of the stored image follows the
    /// edge when the image is turned.
    #[test]
    fn turns_move_the_partial_blocks() {
        let full = ImageSize {
            width: 12,
            height: 9,
        };
        let decoded = DecodedImage {
            pixels: RgbImage::new(2, 2),
            placement: Placement::scaled(full, Scale::Eighth),
        };
        let [wide, high] = [1.5, 1.125];
        let cases = [
            (Turn::NoTransforms, (12, 9), (0.0, wide), (0.0, high)),
            (Turn::FlipHorizontal, (12, 9), (0.5, wide), (0.0, high)),
            (Turn::Rotate180, (12, 9), (0.5, wide), (0.875, high)),
            (Turn::Rotate90, (9, 12), (0.875, high), (0.0, wide)),
            (Turn::Rotate270, (9, 12), (0.0, high), (0.5, wide)),
        ];
        for (turn, size, columns, rows) in cases {
            let placement = decoded.clone().turned(turn, &Cancel::never()).unwrap();
            let placement = placement.placement;
            let ImageSize { width, height } = placement.size;
            let spans = [placement.columns, placement.rows].map(|span| (span.start, span.len));
            assert_eq!((width, height), size, "{turn:?}");
            assert_eq!(spans, [columns, rows], "{turn:?}");
        }
    }
}
