//! Decoding of PNG by the crate `png`, row by row. Color profiles and texts are skipped unread.
//!
//! Profiles and texts do not change the decoded pixels, but may need far more memory than the
//! pixels: in a file with an image of one pixel, a profile may inflate to hundreds of megabytes.

mod chunks;
mod rows;

use std::io::{BufRead, Seek};

use ::png::{Decoder, DecodingError, Limits, Reader, Transformations};
use image::RgbImage;

use super::bytes::{array, u32_be};
use super::decode::{rgb_image, rgb_len};
use super::reader::CancellableReader;
use super::{Coding, ImageError, ImageFormat, ImageHeader, ImageSize, orientation};
use crate::cancel::Cancel;
use chunks::Metadata;
use rows::{Rows, Samples};

/// Maximum number of bytes of metadata that the decoder may keep. Among the metadata that is not
/// skipped, only an EXIF block can be large.
const MAX_METADATA: usize = 4 << 20;

/// Number of bytes of the file that are decoded between two checks for cancellation. They inflate
/// to at most 16 MiB of pixel data; if they belong to chunks that are skipped, they take a few
/// microseconds.
const BYTES_PER_CHECK: usize = 16 << 10;

/// Reads size and coding from the chunk IHDR, and orientation from the metadata chunks of the whole
/// file.
pub(super) fn header(bytes: &[u8]) -> Result<ImageHeader, ImageError> {
    let read = || {
        (array(bytes, 12)? == *b"IHDR").then_some(())?;
        let size = ImageSize {
            width: u32_be(bytes, 16)?,
            height: u32_be(bytes, 20)?,
        };
        let [depth, color, _, _, interlace] = array(bytes, 24)?;
        Some((size, depth, color, interlace))
    };
    let (size, depth, color, interlace) =
        read().ok_or_else(|| damaged("the chunk IHDR is missing or incomplete"))?;
    let samples = match color {
        2 => 3,
        4 => 2,
        6 => 4,
        _ => 1,
    };
    let metadata = Metadata::read(bytes);
    Ok(ImageHeader {
        format: ImageFormat::Png,
        size,
        coding: Coding::Png {
            bits_per_pixel: depth.min(16) * samples,
            interlaced: interlace != 0,
        },
        scalable: false,
        turn: orientation::stated(metadata.exif, metadata.xmp),
    })
}

/// Decodes a PNG of `size` to RGB.
pub(super) fn decode(
    bytes: &[u8],
    size: ImageSize,
    cancel: &Cancel,
) -> Result<RgbImage, ImageError> {
    let file = CancellableReader::new(bytes, BYTES_PER_CHECK, cancel);
    let mut reader = reader(file, size)?;
    let (color, _) = reader.output_color_type();
    let interlaced = reader.info().interlaced;
    let samples = Samples::new(color);
    let mut out = vec![0; rgb_len(size)];
    let rows = Rows::new(&mut reader, cancel);
    if interlaced {
        rows.interlaced(size, samples, &mut out)?;
    } else {
        rows.progressive(size, samples, &mut out)?;
    }
    rgb_image(ImageFormat::Png, size, out)
}

/// Returns a reader that is at the first row of the image and converts all samples to 8 bits.
fn reader<R: BufRead + Seek>(file: R, size: ImageSize) -> Result<Reader<R>, ImageError> {
    let mut decoder = Decoder::new_with_limits(file, limits(size));
    decoder.set_ignore_iccp_chunk(true);
    decoder.set_ignore_text_chunk(true);
    decoder.set_transformations(Transformations::EXPAND | Transformations::STRIP_16);
    let reader = decoder.read_info().map_err(error)?;
    if reader.info().size() != (size.width, size.height) {
        return Err(damaged("two of its headers state different sizes"));
    }
    if let Some(frame) = reader.info().frame_control
        && (frame.width, frame.height) != (size.width, size.height)
    {
        return Err(damaged("the first frame has another size than the image"));
    }
    Ok(reader)
}

/// Returns the decoder's memory limit: one row of 16-bit RGBA, the widest form, and the metadata.
fn limits(size: ImageSize) -> Limits {
    Limits {
        bytes: size.width as usize * 8 + MAX_METADATA,
    }
}

fn damaged(reason: &str) -> ImageError {
    ImageError::Damaged {
        format: ImageFormat::Png,
        reason: reason.to_owned(),
    }
}

fn error(error: DecodingError) -> ImageError {
    match error {
        DecodingError::LimitsExceeded => ImageError::UnsupportedFeature {
            format: ImageFormat::Png,
            feature: format!("metadata of more than {} MiB", MAX_METADATA >> 20),
        },
        other => damaged(&other.to_string()),
    }
}
