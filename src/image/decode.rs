//! Decoding to 8-bit RGB as Pillow's `Image.open(f).convert("RGB")` does it.
//!
//! Alpha is dropped and not composited, palettes and grey are expanded, and 16-bit samples keep their
//! high byte. For 16-bit grey Pillow clips at 255 instead, which turns nearly every such picture
//! white: a known defect that is not reproduced here.

use std::io::Cursor;

use image::codecs::bmp::BmpDecoder;
use image::codecs::png::PngDecoder;
use image::codecs::webp::WebPDecoder;
use image::metadata::Orientation as ExifOrientation;
use image::{DynamicImage, ImageBuffer, ImageDecoder, Limits, RgbImage};

use super::{ImageError, ImageFormat, ImageSize, gif, jpeg, probe};

/// What to do with the orientation that EXIF data state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Orientation {
    /// Rotate and mirror as a viewer does. Source: `PIL.ImageOps.exif_transpose`.
    #[default]
    Apply,
    /// Keep the stored rows and columns.
    Ignore,
}

/// Limits and choices of [`decode()`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodeOptions {
    /// Most pixels that a header may claim.
    pub max_pixels: u64,
    /// Whether EXIF orientation is applied.
    pub orientation: Orientation,
}

/// Decodes a picture to RGB, `[H, W, 3] u8`; of an animation, the first frame.
///
/// Memory is bounded by the pixels that are allowed: 8 bytes for each and 16 MiB of metadata with the
/// decoders of the crate `image`, besides what they need to run; 17 bytes for each of a JPEG's own pixels.
/// Turning a picture holds it twice, of 3 bytes each.
///
/// # Errors
/// Those of [`probe()`], [`ImageError::TooManyPixels`] before anything is allocated, and
/// [`ImageError::Damaged`] for files cut short or corrupt. A progressive JPEG that ends between two scans
/// and has an end marker cannot be told from a whole one and decodes, as it does in Pillow.
pub fn decode(bytes: &[u8], options: &DecodeOptions) -> Result<RgbImage, ImageError> {
    let (format, size) = probe(bytes)?;
    check_pixels(size, options.max_pixels)?;
    let (image, orientation) = match format {
        ImageFormat::Jpeg => {
            let decoded = jpeg::decode(bytes, size)?;
            let exif = decoded.exif.as_deref();
            (
                decoded.image,
                exif.and_then(ExifOrientation::from_exif_chunk),
            )
        }
        ImageFormat::Gif => (gif::decode(bytes, options.max_pixels)?, None),
        ImageFormat::Png => {
            let limits = limits(options.max_pixels);
            let decoder = PngDecoder::with_limits(Cursor::new(bytes), limits);
            decode_with(format, decoder, options)?
        }
        ImageFormat::WebP => decode_with(format, WebPDecoder::new(Cursor::new(bytes)), options)?,
        ImageFormat::Bmp => decode_with(format, BmpDecoder::new(Cursor::new(bytes)), options)?,
    };
    match (options.orientation, orientation) {
        (Orientation::Ignore, _) | (_, None | Some(ExifOrientation::NoTransforms)) => Ok(image),
        (Orientation::Apply, Some(orientation)) => {
            let mut turned = DynamicImage::ImageRgb8(image);
            turned.apply_orientation(orientation);
            Ok(turned.into_rgb8())
        }
    }
}

/// Refuses a picture of more than `limit` pixels.
///
/// # Errors
/// [`ImageError::TooManyPixels`].
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

/// Room for 16-bit RGBA, the widest output, and for metadata of ordinary size.
fn limits(max_pixels: u64) -> Limits {
    const METADATA: u64 = 16 << 20;
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(max_pixels.saturating_mul(8).saturating_add(METADATA));
    limits
}

/// The picture and the orientation beside it, by one of the decoders of the crate `image`.
fn decode_with<D: ImageDecoder>(
    format: ImageFormat,
    decoder: image::ImageResult<D>,
    options: &DecodeOptions,
) -> Result<(RgbImage, Option<ExifOrientation>), ImageError> {
    let translate = |error| translate(format, error);
    let mut decoder = decoder.map_err(translate)?;
    let (width, height) = decoder.dimensions();
    // A second header may contradict the one that was probed.
    check_pixels(ImageSize { width, height }, options.max_pixels)?;
    let mut limits = limits(options.max_pixels);
    limits.reserve(decoder.total_bytes()).map_err(translate)?;
    decoder.set_limits(limits).map_err(translate)?;
    // Damaged metadata do not make the pixels wrong: a viewer shows such a picture unturned.
    let orientation = decoder.orientation().ok();
    let image = DynamicImage::from_decoder(decoder).map_err(translate)?;
    Ok((into_rgb(format, image)?, orientation))
}

/// To RGB as Pillow converts; 8-bit RGB is passed on and 8-bit RGBA packed in place.
fn into_rgb(format: ImageFormat, image: DynamicImage) -> Result<RgbImage, ImageError> {
    let (width, height) = (image.width(), image.height());
    let data = match image {
        DynamicImage::ImageRgb8(image) => return Ok(image),
        DynamicImage::ImageRgba8(image) => pack_rgba(image.into_raw()),
        DynamicImage::ImageLuma8(image) => grey_to_rgb(image.as_raw()),
        DynamicImage::ImageLumaA8(image) => every(image.as_raw(), |[l, _]| [*l; 3]),
        DynamicImage::ImageLuma16(image) => every(image.as_raw(), |[l]| [high(*l); 3]),
        DynamicImage::ImageLumaA16(image) => every(image.as_raw(), |[l, _]| [high(*l); 3]),
        DynamicImage::ImageRgb16(image) => every(image.as_raw(), |rgb: &[u16; 3]| rgb.map(high)),
        DynamicImage::ImageRgba16(image) => {
            every(image.as_raw(), |[r, g, b, _]| [*r, *g, *b].map(high))
        }
        other => {
            return Err(ImageError::UnsupportedFeature {
                format,
                feature: format!("samples of type {:?}", other.color()),
            });
        }
    };
    ImageBuffer::from_raw(width, height, data).ok_or_else(|| ImageError::Damaged {
        format,
        reason: "its data do not fill its size".to_owned(),
    })
}

fn high(sample: u16) -> u8 {
    (sample >> 8) as u8
}

/// Converts pixel by pixel of `N` samples.
fn every<T, const N: usize>(samples: &[T], to_rgb: impl Fn(&[T; N]) -> [u8; 3]) -> Vec<u8> {
    let pixels = samples.as_chunks::<N>().0;
    let mut out = vec![0; pixels.len() * 3];
    for (rgb, pixel) in out.as_chunks_mut::<3>().0.iter_mut().zip(pixels) {
        *rgb = to_rgb(pixel);
    }
    out
}

/// Grey `[H, W]` to `[H, W, 3]`.
pub(super) fn grey_to_rgb(grey: &[u8]) -> Vec<u8> {
    every(grey, |[l]| [*l; 3])
}

/// Drops every fourth byte, in place: the three others only ever move towards the start.
fn pack_rgba(mut data: Vec<u8>) -> Vec<u8> {
    let pixels = data.len() / 4;
    for i in 0..pixels {
        data.copy_within(i * 4..i * 4 + 3, i * 3);
    }
    data.truncate(pixels * 3);
    data
}

fn translate(format: ImageFormat, error: image::ImageError) -> ImageError {
    match error {
        image::ImageError::Unsupported(unsupported) => ImageError::UnsupportedFeature {
            format,
            feature: unsupported.to_string(),
        },
        other => ImageError::Damaged {
            format,
            reason: other.to_string(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alpha_is_dropped_and_sixteen_bits_keep_the_high_byte() {
        let rgba = ImageBuffer::from_raw(2, 1, vec![1u8, 2, 3, 0, 4, 5, 6, 255]).unwrap();
        let rgb16 = ImageBuffer::from_raw(1, 1, vec![0x01FFu16, 0x7F80, 0xFF00]).unwrap();
        let grey16 = ImageBuffer::from_raw(1, 1, vec![0x8001u16]).unwrap();
        let cases = [
            (DynamicImage::ImageRgba8(rgba), vec![1, 2, 3, 4, 5, 6]),
            (DynamicImage::ImageRgb16(rgb16), vec![0x01, 0x7F, 0xFF]),
            (DynamicImage::ImageLuma16(grey16), vec![0x80; 3]),
        ];
        for (image, expected) in cases {
            let rgb = into_rgb(ImageFormat::Png, image).unwrap();
            assert_eq!(rgb.into_raw(), expected);
        }
    }
}
