//! Decoding to 8-bit RGB as Pillow's `Image.open(f).convert("RGB")` does it.
//!
//! Alpha is dropped without compositing, palettes and gray are expanded, and 16-bit samples keep
//! their high byte. One defect of Pillow is not reproduced: it clips 16-bit gray samples at 255,
//! which turns nearly all of the image white.

use image::{ImageBuffer, RgbImage};

use super::{
    DecodedImage, ImageError, ImageFormat, ImageHeader, ImageSize, Placement, Scale, bmp, gif,
    jpeg, png, probe, webp,
};
use crate::cancel::{Cancel, Cancelled, Pace};
use crate::helpers::Helpers;

/// Whether decoding applies the orientation that a file's EXIF or XMP metadata state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Orientation {
    /// Rotate and mirror as a viewer does. Source: `PIL.ImageOps.exif_transpose`.
    #[default]
    Apply,
    /// Keep the stored rows and columns.
    Ignore,
}

/// Options of [`decode()`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodeOptions {
    /// Maximum number of pixels (width times height) that an image's headers may state.
    pub max_pixels: u64,
    /// Whether the orientation that the file states is applied.
    pub orientation: Orientation,
}

/// How one image is decoded: at which scale, how to cancel it, and which threads share the work.
#[derive(Clone, Copy)]
pub struct DecodeJob<'a> {
    /// Scale of the decoded pixels. Images that cannot be decoded at a reduced scale are decoded at
    /// full scale; see [`ImageHeader::scale`].
    pub scale: Scale,
    /// Signal that stops the work with [`ImageError::Cancelled`].
    pub cancel: &'a Cancel,
    /// Threads that share the work on a large image. `None` to decode on the calling thread only.
    pub helpers: Option<&'a dyn Helpers>,
}

impl<'a> DecodeJob<'a> {
    /// Returns a job at full scale that runs on the calling thread only.
    pub fn alone(cancel: &'a Cancel) -> Self {
        Self {
            scale: Scale::Full,
            cancel,
            helpers: None,
        }
    }
}

/// Decodes an image to RGB, `[H, W, 3] u8`; of an animation, the first frame.
///
/// Peak memory in bytes is at most the number of pixels that [`probe()`] finds, times the bytes per
/// pixel that [`ImageHeader::decode_cost`](super::ImageHeader::decode_cost) predicts, plus 4 MiB.
///
/// # Errors
/// The errors of [`probe()`]; [`ImageError::TooManyPixels`] before anything is allocated;
/// [`ImageError::Damaged`] if the file is cut short or corrupt, or if its pixel data has another
/// size than its headers state. A progressive JPEG that ends between two scans and has an end
/// marker cannot be distinguished from a complete file; it is decoded, as Pillow does.
pub fn decode(bytes: &[u8], options: &DecodeOptions) -> Result<RgbImage, ImageError> {
    decode_cancellable(bytes, options, &Cancel::never())
}

/// Decodes an image as [`decode()`] does, and stops early once `cancel` is cancelled.
///
/// Decoding of PNG, BMP and GIF, and of the entropy-coded part of lossless WebP, stops within
/// milliseconds. The decoders of JPEG and lossy WebP, and the last passes over a lossless WebP,
/// cannot be interrupted and run to their end; the modules `jpeg::turbo` and `webp` state how long
/// that takes.
///
/// # Errors
/// The errors of [`decode()`], and [`ImageError::Cancelled`] if `cancel` is cancelled before the
/// image is decoded.
pub fn decode_cancellable(
    bytes: &[u8],
    options: &DecodeOptions,
    cancel: &Cancel,
) -> Result<RgbImage, ImageError> {
    Ok(decode_scaled(bytes, options, DecodeJob::alone(cancel))?.pixels)
}

/// Decodes an image as [`decode_cancellable`] does, at the scale and with the help that `job` states.
///
/// `options.max_pixels` limits the size at full scale. At full scale, the pixels do not depend on
/// `job`.
///
/// # Errors
/// The errors of [`decode_cancellable`].
pub fn decode_scaled(
    bytes: &[u8],
    options: &DecodeOptions,
    job: DecodeJob<'_>,
) -> Result<DecodedImage, ImageError> {
    let header = probe(bytes)?;
    check_pixels(header.size, options.max_pixels)?;
    job.cancel.check()?;
    let scale = header.scale(job.scale);
    let pixels = pixels(bytes, header, DecodeJob { scale, ..job });
    // A decoder that was stopped through its reader reports a damaged file. The cause is reported
    // instead.
    job.cancel.check()?;
    let decoded = DecodedImage {
        pixels: pixels?,
        placement: Placement::scaled(header.size, scale),
    };
    match options.orientation {
        Orientation::Apply => Ok(decoded.turned(header.turn, job.cancel)?),
        Orientation::Ignore => Ok(decoded),
    }
}

/// Decodes an image to RGB, `[H, W, 3] u8`, without applying the orientation that the file states.
fn pixels(bytes: &[u8], header: ImageHeader, job: DecodeJob<'_>) -> Result<RgbImage, ImageError> {
    let cancel = job.cancel;
    match header.format {
        ImageFormat::Jpeg => jpeg::decode(bytes, header.size, job),
        ImageFormat::Png => png::decode(bytes, header.size, cancel),
        ImageFormat::WebP => webp::decode(bytes, header.size, cancel),
        ImageFormat::Bmp => bmp::decode(bytes, header.size, cancel),
        ImageFormat::Gif => gif::decode(bytes, header.size, cancel),
    }
}

/// Rejects an image of more than `limit` pixels.
///
/// # Errors
/// [`ImageError::TooManyPixels`] if `size` has more than `limit` pixels.
pub fn check_pixels(size: ImageSize, limit: u64) -> Result<(), ImageError> {
    if size.pixels() <= limit {
        return Ok(());
    }
    Err(ImageError::TooManyPixels {
        width: size.width.into(),
        height: size.height.into(),
        limit,
    })
}

/// Returns the image of `size` with the samples `rgb`, `[H, W, 3] u8`.
///
/// # Errors
/// [`ImageError::Damaged`] if `rgb` has fewer than three samples per pixel of `size`.
pub(super) fn rgb_image(
    format: ImageFormat,
    size: ImageSize,
    rgb: Vec<u8>,
) -> Result<RgbImage, ImageError> {
    ImageBuffer::from_raw(size.width, size.height, rgb).ok_or_else(|| ImageError::Damaged {
        format,
        reason: "it has fewer pixels than its header states".to_owned(),
    })
}

/// Returns the length in bytes of the samples of an 8-bit RGB image of `size`.
pub(super) fn rgb_len(size: ImageSize) -> usize {
    size.width as usize * size.height as usize * 3
}

/// Converts RGBA samples, `[N, 4] u8`, to RGB, `[N, 3] u8`, in the same allocation. Every sample
/// moves towards the start, in order, so no sample is overwritten before it has moved.
///
/// # Errors
/// [`Cancelled`] if `cancel` is cancelled.
pub(super) fn pack_rgba(mut data: Vec<u8>, cancel: &Cancel) -> Result<Vec<u8>, Cancelled> {
    let pixels = data.len() / 4;
    let mut pace = Pace::new(cancel);
    for start in (0..pixels).step_by(PACKED_TOGETHER) {
        pace.step(PACKED_TOGETHER)?;
        for i in start..pixels.min(start + PACKED_TOGETHER) {
            data.copy_within(i * 4..i * 4 + 3, i * 3);
        }
    }
    data.truncate(pixels * 3);
    Ok(data)
}

/// Number of pixels that [`pack_rgba`] converts before it counts them in its `Pace`, because
/// counting each pixel would slow the loop down.
const PACKED_TOGETHER: usize = 1 << 12;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packing_drops_alpha() {
        let rgba = vec![1u8, 2, 3, 0, 4, 5, 6, 255];
        let packed = pack_rgba(rgba, &Cancel::never()).unwrap();
        assert_eq!(packed, [1, 2, 3, 4, 5, 6]);
    }
}
