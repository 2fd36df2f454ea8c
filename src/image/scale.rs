//! Decoding at a reduced scale.
//!
//! A network's input is often much smaller than a photograph. A JPEG can be decoded to 1/2, 1/4 or
//! 1/8 of its width and height by an inverse DCT of fewer coefficients, which averages the pixels
//! of each block of 2x2, 4x4 or 8x8. Most of the resize that follows is then already done.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::ImageSize;

/// Least factor by which an image is still resized after it was decoded at a reduced scale.
///
/// The resize's antialiasing filter is a triangle of twice this width, while the decoder averages
/// square blocks; the smaller the factor, the more of the result is the decoder's. At 1.4,
/// docs/BENCHMARKS.md finds no change of accuracy.
const LEAST_REDUCTION: f64 = 1.4;

/// Whether images are decoded to the pixels of Pillow or at the scale that a network needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DecodeMode {
    /// Every pixel of the image is decoded.
    #[default]
    Exact,
    /// JPEG is decoded at a reduced scale if the network's input is much smaller than the image.
    /// The results differ slightly from those of `exact`.
    Fast,
}

/// The scale at which an image is decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum Scale {
    /// Every pixel.
    #[default]
    Full,
    /// One pixel for 2x2.
    Half,
    /// One pixel for 4x4.
    Quarter,
    /// One pixel for 8x8.
    Eighth,
}

impl Scale {
    /// All scales, the largest images first.
    pub const ALL: [Self; 4] = [Self::Full, Self::Half, Self::Quarter, Self::Eighth];

    /// Returns the scale of the smallest decoded image that must still be reduced by
    /// `LEAST_REDUCTION` or more, for an image whose sides are `reduction` times as long as those of
    /// the network's input.
    pub(super) fn for_reduction(reduction: f64) -> Self {
        let fits = |scale: &Self| reduction >= LEAST_REDUCTION * f64::from(scale.divisor());
        let smallest = Self::ALL.into_iter().rev().find(fits);
        smallest.unwrap_or_default()
    }

    /// Returns the side in pixels of the blocks that become one pixel: 1, 2, 4 or 8.
    pub fn divisor(self) -> u32 {
        1 << (self as u32)
    }

    /// Returns the size at this scale of an image of size `full`: partial blocks become a pixel, too.
    pub fn of(self, full: ImageSize) -> ImageSize {
        ImageSize {
            width: full.width.div_ceil(self.divisor()),
            height: full.height.div_ceil(self.divisor()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enough_of_the_reduction_is_left_to_the_resize() {
        let cases = [
            (0.3, Scale::Full),
            (2.7, Scale::Full),
            (2.81, Scale::Half),
            (5.5, Scale::Half),
            (5.61, Scale::Quarter),
            (11.1, Scale::Quarter),
            (11.21, Scale::Eighth),
            (1000.0, Scale::Eighth),
            (f64::NAN, Scale::Full),
        ];
        for (reduction, expected) in cases {
            assert_eq!(Scale::for_reduction(reduction), expected, "{reduction}");
        }
    }

    #[test]
    fn partial_blocks_become_pixels() {
        let full = ImageSize {
            width: 17,
            height: 16,
        };
        let sizes = Scale::ALL.map(|scale| {
            let ImageSize { width, height } = scale.of(full);
            (width, height)
        });
        assert_eq!(sizes, [(17, 16), (9, 8), (5, 4), (3, 2)]);
    }
}
