//! Decoding to 8-bit RGB as Pillow's `Image.open(f).convert("RGB")` does it.
//!
//! Alpha is dropped without compositing, palettes and gray are expanded, and 16-bit samples keep
//! their high byte. One defect of Pillow is not reproduced: it clips 16-bit gray samples at 255,
//! which turns nearly all of the image white.

use image::{ImageBuffer, RgbImage};

use super::{ImageError, ImageFormat, ImageSize, bmp, gif, jpeg, orientation, png, probe, webp};

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
    let header = probe(bytes)?;
    check_pixels(header.size, options.max_pixels)?;
    let image = match header.format {
        ImageFormat::Jpeg => jpeg::decode(bytes, header.size)?,
        ImageFormat::Png => png::decode(bytes, header.size)?,
        ImageFormat::WebP => webp::decode(bytes, header.size)?,
        ImageFormat::Bmp => bmp::decode(bytes, header.size)?,
        ImageFormat::Gif => gif::decode(bytes, header.size)?,
    };
    Ok(match options.orientation {
        Orientation::Apply => orientation::apply(header.turn, image),
        Orientation::Ignore => image,
    })
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

/// Converts RGBA to RGB in place. Samples only move towards the start, so none is overwritten before it
/// is moved.
pub(super) fn pack_rgba(mut data: Vec<u8>) -> Vec<u8> {
    let pixels = data.len() / 4;
    for i in 0..pixels {
        data.copy_within(i * 4..i * 4 + 3, i * 3);
    }
    data.truncate(pixels * 3);
    data
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packing_drops_alpha() {
        let rgba = vec![1u8, 2, 3, 0, 4, 5, 6, 255];
        assert_eq!(pack_rgba(rgba), [1, 2, 3, 4, 5, 6]);
    }
}
