//! JPEG by libjpeg-turbo-rs, which equals libjpeg-turbo, and so Pillow, bit for bit.

mod check;
mod inks;
mod segments;

use image::RgbImage;
use libjpeg_turbo_rs::common::types::DecodeLimits;
use libjpeg_turbo_rs::{ColorSpace, Decoder, JpegError, PixelFormat};

use super::{ImageError, ImageFormat, ImageSize};

pub(super) use check::is_frame;
pub(super) use segments::Segments;

/// Most scans. Progressive files have about ten; each costs a walk over all blocks, however short it is.
const MAX_SCANS: usize = 256;
/// Most bytes held per pixel: output of 3, planes of 4, 16-bit coefficients of 4 components, a mark per
/// block. A file over it has made the decoder hold what its size does not explain.
const MAX_BYTES_PER_PIXEL: u64 = 17;

/// A decoded picture and the EXIF block beside it.
pub(super) struct DecodedJpeg {
    pub(super) image: RgbImage,
    pub(super) exif: Option<Vec<u8>>,
}

/// Decodes a JPEG to RGB, of the given size by its header.
///
/// The decoder's lenient mode fills what it cannot read with grey, as libjpeg does. Its strict mode, used
/// here, refuses instead; what that lets pass is caught by the check before it. Stray bytes between
/// headers, which cameras put there, are passed over by both.
pub(super) fn decode(bytes: &[u8], size: ImageSize) -> Result<DecodedJpeg, ImageError> {
    check::check(bytes)?;
    let mut decoder = Decoder::new_with_limits(bytes, limits(size)).map_err(error)?;
    decoder.set_output_format(PixelFormat::Rgb);
    // libjpeg's default; it matters where a progressive file ends before its last refinement.
    decoder.set_block_smoothing(true);
    let frame = decoder.header();
    if (u32::from(frame.width), u32::from(frame.height)) != (size.width, size.height) {
        return Err(damaged("it has two frame headers of different sizes"));
    }
    let exif = decoder.exif_data().map(<[u8]>::to_vec);
    let data = if frame.components.len() == 4 {
        four_components(decoder)?
    } else {
        let mut data = vec![0; size.pixels() as usize * 3];
        decoder.decode_image_into(&mut data).map_err(error)?;
        data
    };
    let image = RgbImage::from_raw(size.width, size.height, data)
        .ok_or_else(|| damaged("its data do not fill its size"))?;
    Ok(DecodedJpeg { image, exif })
}

/// By planes, which the decoder does not smooth: an unfinished progressive file of four components stays
/// as coarse as it is.
fn four_components(decoder: Decoder) -> Result<Vec<u8>, ImageError> {
    let frame = decoder.header().clone();
    let ycck = decoder.jpeg_color_space() == ColorSpace::Ycck;
    let raw = decoder.decode_raw().map_err(error)?;
    inks::to_rgb(&raw, &frame, ycck).ok_or_else(|| damaged("its planes do not fit its frame"))
}

fn limits(size: ImageSize) -> DecodeLimits {
    DecodeLimits {
        max_pixels: size.pixels(),
        max_scans: MAX_SCANS,
        max_memory: Some(size.pixels().saturating_mul(MAX_BYTES_PER_PIXEL)),
        ..DecodeLimits::default()
    }
}

fn damaged(reason: &str) -> ImageError {
    ImageError::Damaged {
        format: ImageFormat::Jpeg,
        reason: reason.to_owned(),
    }
}

fn unsupported(feature: &str) -> ImageError {
    ImageError::UnsupportedFeature {
        format: ImageFormat::Jpeg,
        feature: feature.to_owned(),
    }
}

fn error(error: JpegError) -> ImageError {
    match error {
        JpegError::Unsupported(feature) => unsupported(&feature),
        // Sizes and counts that are in order and yet too much.
        JpegError::LimitExceeded { .. } | JpegError::AllocationFailed { .. } => {
            unsupported(&error.to_string())
        }
        JpegError::CorruptData(reason) => damaged(&reason),
        other => damaged(&other.to_string()),
    }
}
