//! Encoding of pixels as PNG and JPEG files.

use image::RgbImage;
use libjpeg_turbo_rs::{JpegError, PixelFormat, Subsampling, compress};
use png::{BitDepth, ColorType, Compression, Encoder, EncodingError, Filter};

use crate::image::ImageSize;

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

/// Encodes an 8-bit PNG. `samples` are RGB, `[H, W, 3]`, or indices `[H, W]` into `palette` (RGB
/// colors) if there is one.
///
/// Each row is stored as its difference from the row above, which is all zeros inside a mask's
/// objects, and the file is compressed at the fastest level.
///
/// # Errors
/// [`EncodingError`] if a side is over PNG's limit of 2^31 - 1 pixels, or if `samples` has a length that
/// does not match `size`.
pub(crate) fn write_png(
    size: ImageSize,
    palette: Option<&[u8]>,
    samples: &[u8],
) -> Result<Vec<u8>, EncodingError> {
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, size.width, size.height);
    match palette {
        Some(palette) => {
            encoder.set_color(ColorType::Indexed);
            encoder.set_palette(palette);
        }
        None => encoder.set_color(ColorType::Rgb),
    }
    encoder.set_depth(BitDepth::Eight);
    encoder.set_compression(Compression::Fast);
    encoder.set_filter(Filter::Up);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(samples)?;
    writer.finish()?;
    Ok(bytes)
}

/// Encodes a JPEG without chroma subsampling; `quality` is 1..=100.
///
/// # Errors
/// [`JpegError`] if a side is 0 or over 65,500 pixels.
pub(crate) fn write_jpeg(image: &RgbImage, quality: u8) -> Result<Vec<u8>, JpegError> {
    let (width, height) = (image.width() as usize, image.height() as usize);
    let (pixels, kind) = (image.as_raw(), PixelFormat::Rgb);
    compress(pixels, width, height, kind, quality, Subsampling::S444)
}
