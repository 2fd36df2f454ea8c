//! Conversion of an image file's bytes to the input tensor of a network.
//!
//! The stages, in order: [`probe()`] reads format, size and coding from the headers, [`decode()`] returns
//! 8-bit RGB pixels, and a [`Preprocessor`] resizes, crops and normalizes them. The pixels are those of
//! Pillow and the arithmetic is torchvision's, so that a network returns the same values as in Python.
//! Each format has a module of its own: `jpeg`, `png`, `webp`, `bmp` and `gif`.
//!
//! What is *not* here: sockets, sessions, batching, and where limits come from.

mod axis;
pub(crate) mod bilinear;
mod bmp;
mod bytes;
mod cost;
mod decode;
mod decoded;
mod detector;
mod detector_sizes;
mod foreign;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod gif;
mod jpeg;
mod learned;
mod normalize;
mod orientation;
mod passes;
mod planes;
mod png;
mod preprocess;
mod probe;
mod reader;
mod resize;
mod scale;
mod turn;
mod webp;

#[cfg(test)]
mod cancel_tests;
#[cfg(test)]
mod detector_tests;
#[cfg(test)]
mod golden_tests;
#[cfg(test)]
mod reference;

use std::fmt;

use thiserror::Error;

use crate::cancel::Cancelled;

pub use cost::{Coding, DecodeCost, check_density};
pub use decode::{
    DecodeJob, DecodeOptions, Orientation, check_pixels, decode, decode_cancellable, decode_scaled,
};
pub use decoded::{DecodedImage, Placement};
pub use detector::DetectorTransform;
pub use detector_sizes::{DetectorResize, DetectorSize, DetectorSizes, bounded_size, padded_size};
pub use foreign::ForeignFile;
pub use learned::DecodeTimes;
pub use normalize::Normalizer;
pub use planes::Planes;
pub use preprocess::{MAX_INPUT_PIXELS, PreparedImage, Preprocessor};
pub use probe::{ImageHeader, probe};
pub use resize::{Extent, Window, resize_window, short_side_size};
pub use scale::{DecodeMode, Scale};

/// Width and height in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ImageSize {
    /// Number of pixel columns.
    pub width: u32,
    /// Number of pixel rows.
    pub height: u32,
}

impl ImageSize {
    /// Returns the number of pixels: width times height.
    pub fn pixels(self) -> u64 {
        u64::from(self.width) * u64::from(self.height)
    }
}

/// The formats that [`decode()`] reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ImageFormat {
    /// Baseline and progressive JPEG in gray, `YCbCr`, RGB, CMYK and YCCK.
    Jpeg,
    /// PNG of every color type and bit depth; of an animation, the default image.
    Png,
    /// Lossy and lossless WebP, with or without alpha; of an animation, the first frame.
    WebP,
    /// Windows and OS/2 bitmaps.
    Bmp,
    /// GIF; of an animation, the first frame.
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

/// The reason why a file cannot be decoded or an image cannot be preprocessed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ImageError {
    /// The file has no bytes, or the image has no pixels.
    #[error("the image is empty: it has no bytes or no pixels")]
    Empty,
    /// The first bytes of the file match none of the formats in [`ImageFormat`].
    #[error("not a JPEG, PNG, WebP, BMP or GIF image{}", Found(found.as_ref()))]
    UnknownFormat {
        /// The type of the file and advice. `None` if the type is not recognized.
        found: Option<ForeignFile>,
    },
    /// The format is known and the file uses a feature that the decoder lacks.
    #[error("{format} image with an unsupported feature: {feature}")]
    UnsupportedFeature {
        /// Format of the file.
        format: ImageFormat,
        /// Name of the unsupported feature.
        feature: String,
    },
    /// The header states more pixels than allowed.
    #[error("an image of {width}x{height} pixels is over the limit of {limit} pixels")]
    TooManyPixels {
        /// Width in pixels that the header states.
        width: u64,
        /// Height in pixels that the header states.
        height: u64,
        /// Maximum number of pixels of an image.
        limit: u64,
    },
    /// The image has more pixels per byte of its file than allowed, so decoding it costs far more than sending it.
    #[error(
        "an image of {pixels} pixels in {bytes} bytes is over the limit of {limit} pixels per byte"
    )]
    TooManyPixelsPerByte {
        /// Number of pixels, width times height.
        pixels: u64,
        /// Size of the file in bytes.
        bytes: u64,
        /// Maximum number of pixels per byte of the file.
        limit: u64,
    },
    /// The model's preprocessing (resize, crop and padding) turns the image into more pixels than
    /// the input of a network may have.
    #[error(
        "an image of {}x{} pixels is resized to {width}x{height} pixels for this model, over the \
         limit of {limit} pixels for a network's input with its padding",
        .input.width,
        .input.height
    )]
    ResizedTooLarge {
        /// Size of the image before the resize.
        input: ImageSize,
        /// Width in pixels after the resize and the crop, before padding.
        width: u64,
        /// Height in pixels after the resize and the crop, before padding.
        height: u64,
        /// Maximum number of pixels of a network's input, padding included.
        limit: u64,
    },
    /// The file is cut short or contradicts its format.
    #[error("damaged {format} image: {reason}")]
    Damaged {
        /// Format of the file.
        format: ImageFormat,
        /// What is wrong with the file.
        reason: String,
    },
    /// The work on the image was cancelled; nothing is known about the rest of the file.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

/// Displays the end of [`ImageError::UnknownFormat`]'s message: the recognized file type and advice. Empty for `None`.
struct Found<'a>(Option<&'a ForeignFile>);

impl fmt::Display for Found<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(ForeignFile { name, advice }) => write!(f, " but {name}: {advice}"),
            None => Ok(()),
        }
    }
}
