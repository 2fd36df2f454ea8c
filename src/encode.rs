//! Encoding of pixels as PNG and JPEG files.

mod jpeg;
mod png;

pub(crate) use jpeg::{WriteJpegError, write_jpeg};
pub use png::PngError;
pub(crate) use png::write_png;

/// File format of a drawn image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DrawnFormat {
    /// Lossless.
    Png,
    /// Lossy, about a tenth of the size of PNG.
    Jpeg,
}

impl DrawnFormat {
    /// The media types that routes with drawn images offer, each with its format, most preferred
    /// first.
    pub const OFFERS: [(&'static str, Self); 2] =
        [("image/png", Self::Png), ("image/jpeg", Self::Jpeg)];

    /// Returns the format's media type.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Png => "image/png",
            Self::Jpeg => "image/jpeg",
        }
    }

    /// Returns the longest side in pixels that the format can store. Source: libpng's `PNG_UINT_31_MAX`,
    /// libjpeg's `JPEG_MAX_DIMENSION`.
    pub(crate) fn longest_side(self) -> u32 {
        match self {
            Self::Png => (1 << 31) - 1,
            Self::Jpeg => 65_500,
        }
    }
}
