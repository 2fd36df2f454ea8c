//! From the bytes of a file to the input tensor of a network.
//!
//! The stages, in order: [`probe()`] reads the format and size from the header, [`decode()`] makes 8-bit
//! RGB of it, and a [`Preprocessor`] resizes, crops and normalises. The pixels are those of Pillow
//! and the arithmetic is torchvision's, so that a network answers as it does in Python.
//!
//! What is *not* here: sockets, sessions, batching, and where limits come from.

mod axis;
pub(crate) mod bilinear;
mod decode;
mod detector;
mod detector_sizes;
mod gif;
mod jpeg;
mod normalize;
mod passes;
mod preprocess;
mod probe;
mod resize;

#[cfg(test)]
mod detector_tests;
#[cfg(test)]
mod golden_tests;
#[cfg(test)]
mod reference;

use std::fmt;

use thiserror::Error;

pub use decode::{DecodeOptions, Orientation, check_pixels, decode};
pub use detector::DetectorTransform;
pub use detector_sizes::{DetectorResize, DetectorSize, DetectorSizes, bounded_size, padded_size};
pub use normalize::Normalizer;
pub use preprocess::{MAX_INPUT_PIXELS, PreparedImage, Preprocessor};
pub use probe::probe;
pub use resize::{Extent, Window, resize_window, short_side_size};

/// Width and height in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ImageSize {
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

impl ImageSize {
    /// Width times height.
    pub fn pixels(self) -> u64 {
        u64::from(self.width) * u64::from(self.height)
    }
}

/// The formats that [`decode()`] reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ImageFormat {
    /// Baseline and progressive; grey, `YCbCr`, RGB, CMYK and YCCK.
    Jpeg,
    /// All colour types and depths.
    Png,
    /// Lossy and lossless, with or without alpha.
    WebP,
    /// Windows bitmap.
    Bmp,
    /// First frame only.
    Gif,
}

impl fmt::Display for ImageFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Jpeg => "JPEG",
            Self::Png => "PNG",
            Self::WebP => "WebP",
            Self::Bmp => "BMP",
            Self::Gif => "GIF",
        })
    }
}

/// A picture that cannot become a tensor.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ImageError {
    /// No bytes, or no pixels.
    #[error("the image is empty")]
    Empty,
    /// The first bytes are of no format in [`ImageFormat`].
    #[error("not a JPEG, PNG, WebP, BMP or GIF image")]
    UnknownFormat,
    /// A known format with a feature that the decoder lacks.
    #[error("{format} image with an unsupported feature: {feature}")]
    UnsupportedFeature {
        /// Format of the file.
        format: ImageFormat,
        /// The feature, in the decoder's words.
        feature: String,
    },
    /// More pixels than allowed, by the header's word.
    #[error("an image of {width}x{height} pixels is over the limit of {limit} pixels")]
    TooManyPixels {
        /// Columns.
        width: u64,
        /// Rows.
        height: u64,
        /// Most pixels allowed.
        limit: u64,
    },
    /// More pixels than a network takes, once it is resized without changing its aspect.
    #[error(
        "an image of {}x{} pixels becomes {width}x{height} for this model, over its limit of {limit} pixels",
        .input.width,
        .input.height
    )]
    ResizedTooLarge {
        /// Size of the picture.
        input: ImageSize,
        /// Columns after the resize.
        width: u64,
        /// Rows after the resize.
        height: u64,
        /// Most pixels that are allowed.
        limit: u64,
    },
    /// The file is cut short or contradicts its format.
    #[error("damaged {format} image: {reason}")]
    Damaged {
        /// Format of the file.
        format: ImageFormat,
        /// What is wrong, in the decoder's words.
        reason: String,
    },
}
