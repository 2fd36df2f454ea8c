//! Reads Windows and OS/2 bitmaps as Pillow reads them.
//!
//! Source: `PIL.BmpImagePlugin`. Two defects of Pillow are not reproduced: it misreads images with
//! 2 bits per pixel, and gray palettes with fewer bits per pixel or fewer colors than it assumes.

mod header;
mod pixels;
mod rle;

use image::RgbImage;
use image::metadata::Orientation as Turn;

use super::decode::{rgb_image, rgb_len};
use super::{Coding, ImageError, ImageFormat, ImageHeader, ImageSize};
use crate::cancel::Cancel;
use header::{Compression, Header};

/// Returns whether the file begins as a BMP does. The signature `BM` also occurs in ordinary text,
/// so the length of the bitmap header must be a known one, too.
pub(super) fn is_bmp(bytes: &[u8]) -> bool {
    let length = super::bytes::u32_le(bytes, 14);
    bytes.starts_with(b"BM") && length.is_some_and(|length| header::LENGTHS.contains(&length))
}

/// Returns the size and the coding that the headers of a BMP state.
pub(super) fn header(bytes: &[u8]) -> Result<ImageHeader, ImageError> {
    let header = Header::read(bytes)?;
    Ok(ImageHeader {
        format: ImageFormat::Bmp,
        size: header.size,
        coding: match header.compression {
            Compression::None | Compression::Masks(_) => Coding::Bmp,
            Compression::RunLength8 | Compression::RunLength4 => Coding::BmpRunLength,
        },
        scalable: false,
        turn: Turn::NoTransforms,
    })
}

/// Decodes a BMP to RGB. `size` is the size that its header stated when it was first read.
pub(super) fn decode(
    bytes: &[u8],
    size: ImageSize,
    cancel: &Cancel,
) -> Result<RgbImage, ImageError> {
    let header = Header::read(bytes)?;
    if header.size != size {
        return Err(damaged("two headers of the file state different sizes"));
    }
    // The image is allocated only if the file holds all uncompressed rows.
    header.check_length(bytes)?;
    let mut out = vec![0; rgb_len(size)];
    match header.compression {
        Compression::RunLength8 | Compression::RunLength4 => {
            rle::decode(bytes, &header, &mut out, cancel)?;
        }
        Compression::None | Compression::Masks(_) => {
            pixels::decode(bytes, &header, &mut out, cancel)?;
        }
    }
    rgb_image(ImageFormat::Bmp, size, out)
}

fn damaged(reason: &str) -> ImageError {
    ImageError::Damaged {
        format: ImageFormat::Bmp,
        reason: reason.to_owned(),
    }
}

fn unsupported(feature: String) -> ImageError {
    ImageError::UnsupportedFeature {
        format: ImageFormat::Bmp,
        feature,
    }
}
