//! JPEG decoding by the crate `libjpeg-turbo-rs`, whose pixels are bit-identical to those of
//! libjpeg-turbo, and therefore to those of Pillow.

use libjpeg_turbo_rs::common::types::DecodeLimits;
use libjpeg_turbo_rs::{ColorSpace, Decoder, JpegError, PixelFormat, ScalingFactor};

use super::super::decode::rgb_len;
use super::bands::Bands;
use super::sequential::Plan;
use super::{damaged, inks, unsupported};
use crate::cancel::Cancel;
use crate::image::{DecodeJob, ImageError, ImageSize, Scale};

/// Maximum number of scans of a JPEG file; a file with more is rejected. Progressive files usually
/// have about ten. The limit is needed because each scan costs a pass over all blocks of the image,
/// however few bytes the scan has.
const MAX_SCANS: usize = 256;
/// Maximum memory of the decoder in bytes per pixel of the image: 3 for the RGB output, 4 for the
/// planes of up to 4 components, 8 for the 16-bit coefficients of these components, and the
/// remaining 2 for a flag per block. A file that needs more is rejected, because the size of its
/// image does not justify the allocation.
const MAX_BYTES_PER_PIXEL: u64 = 17;

/// Decodes a checked JPEG of `size` to RGB samples, `[H, W, 3] u8`.
///
/// The decoder cannot be interrupted, so a cancelled decode ends only when the decoder has
/// finished. It takes 8 to 15 ms per megapixel of a baseline file and 18 to 28 ms per megapixel of
/// a progressive file, measured on 2 shared cores. For 50 megapixels, the longest times are 0.7 s
/// for a baseline file and 1.4 s for a progressive file; the predicted time for a file of 256 scans
/// is 2 s.
///
/// The decoder's lenient mode fills blocks that it cannot read with gray, as libjpeg does. Its
/// strict mode, which is used here, returns an error instead; damage that the strict mode accepts
/// is found by the module `check`. Both modes skip stray bytes between headers, which some cameras
/// write.
pub(super) fn decode(
    bytes: &[u8],
    size: ImageSize,
    job: DecodeJob<'_>,
) -> Result<Vec<u8>, ImageError> {
    let mut decoder = Decoder::new_with_limits(bytes, limits(size)).map_err(error)?;
    decoder.set_output_format(PixelFormat::Rgb);
    // Block smoothing is libjpeg's default. It changes pixels only where a progressive file ends
    // before its last refinement scan.
    decoder.set_block_smoothing(true);
    let frame = decoder.header();
    if (u32::from(frame.width), u32::from(frame.height)) != (size.width, size.height) {
        return Err(damaged("it has two frame headers of different sizes"));
    }
    if frame.components.len() == 4 {
        return four_components(decoder, job.cancel);
    }
    if job.scale == Scale::Full
        && let Some(helpers) = job.helpers.filter(|helpers| helpers.is_idle())
        && let Some(bands) = Bands::of(bytes, size)
    {
        return bands.decode(whole, helpers, job.cancel);
    }
    if job.scale == Scale::Eighth
        && let Some(plan) = Plan::read(bytes)
    {
        return plan.decode(decoder.jpeg_color_space(), job.cancel);
    }
    if let Ok(factor) = ScalingFactor::try_new(1, job.scale.divisor()) {
        decoder.set_scale(factor);
    }
    let mut data = vec![0; rgb_len(job.scale.of(size))];
    decoder.decode_image_into(&mut data).map_err(error)?;
    Ok(data)
}

/// Decodes a file at full scale on the calling thread.
pub(super) fn whole(bytes: &[u8], size: ImageSize, cancel: &Cancel) -> Result<Vec<u8>, ImageError> {
    decode(bytes, size, DecodeJob::alone(cancel))
}

/// Decodes a CMYK or YCCK file to RGB samples, `[H, W, 3] u8`. The decoder does not apply block
/// smoothing to the planes of such files, so the edges of blocks stay visible if a progressive file
/// ends early.
fn four_components(decoder: Decoder, cancel: &Cancel) -> Result<Vec<u8>, ImageError> {
    let frame = decoder.header().clone();
    let ycck = decoder.jpeg_color_space() == ColorSpace::Ycck;
    let raw = decoder.decode_raw().map_err(error)?;
    inks::to_rgb(&raw, &frame, ycck, cancel)?
        .ok_or_else(|| damaged("it has fewer planes than its frame header states"))
}

fn limits(size: ImageSize) -> DecodeLimits {
    DecodeLimits {
        max_pixels: size.pixels(),
        max_scans: MAX_SCANS,
        max_memory: Some(size.pixels().saturating_mul(MAX_BYTES_PER_PIXEL)),
        ..DecodeLimits::default()
    }
}

fn error(error: JpegError) -> ImageError {
    match error {
        JpegError::Unsupported(feature) => unsupported(&feature),
        // The file may be valid, but it exceeds one of the limits that `limits` sets, so it is
        // reported as unsupported instead of damaged.
        JpegError::LimitExceeded { .. } | JpegError::AllocationFailed { .. } => {
            unsupported(&error.to_string())
        }
        JpegError::CorruptData(reason) => damaged(&reason),
        other => damaged(&other.to_string()),
    }
}
