//! Decoding of WebP by the crate `image-webp`, which receives the bitstream of the first frame
//! alone.
//!
//! This module reads the container. A canvas that contradicts the bitstream is therefore an error
//! before anything is allocated, and a file that announces metadata but lacks it is decoded. Alpha
//! is dropped, so an alpha chunk is not decoded.

mod bits;
mod codes;
mod container;
mod partitions;
mod stream;
mod tables;

use image::RgbImage;
use image_webp::{DecodingError, WebPDecoder};

use super::decode::{pack_rgba, rgb_image, rgb_len};
use super::{Coding, ImageError, ImageFormat, ImageHeader, ImageSize, orientation};
use crate::cancel::{Cancel, Cancelled, Pace};
use container::{Bitstream, Container, Frame};
use stream::SimpleFile;

pub(super) use tables::allowed_bytes as allowed_table_bytes;

/// Returns whether the file begins with the signatures of RIFF and WebP.
pub(super) fn is_webp(bytes: &[u8]) -> bool {
    bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP")
}

/// Reads the headers. The image's size is the canvas's; a still image must have the same size, and
/// the first frame of an animation must lie within the canvas.
pub(super) fn header(bytes: &[u8]) -> Result<ImageHeader, ImageError> {
    let container = Container::read(bytes)?;
    Ok(ImageHeader {
        format: ImageFormat::WebP,
        size: container.canvas,
        coding: match container.frame.bitstream {
            Bitstream::Lossy => Coding::WebPLossy,
            Bitstream::Lossless => Coding::WebPLossless,
        },
        scalable: false,
        turn: orientation::stated(container.exif, container.xmp),
    })
}

/// Decodes the first frame to RGB, at its place on a canvas of `size`.
///
/// The crate `image-webp` can be stopped only by an error of its reader. It reads a lossy frame
/// completely before it decodes the frame, so a cancelled decode runs on for 30 to 75 ms per
/// megapixel (2 to 4 s at 50 megapixels), measured on 2 shared cores. A lossless frame is read
/// while it is decoded, so a cancelled decode stops within milliseconds, with two exceptions that
/// take up to 8 ms per megapixel: the transforms after the last read, and pixels whose codes have
/// no bits.
///
/// Canvas pixels outside the frame are black. The frame is not blended with the canvas.
/// Source: libwebp, `src/demux/anim_decode.c`, `WebPAnimDecoderGetNext` for the first frame.
pub(super) fn decode(
    bytes: &[u8],
    size: ImageSize,
    cancel: &Cancel,
) -> Result<RgbImage, ImageError> {
    let Container { canvas, frame, .. } = Container::read(bytes)?;
    if canvas != size {
        return Err(damaged("two of its headers state different sizes"));
    }
    match frame.bitstream {
        Bitstream::Lossless => {
            let allowed = tables::allowed_bytes(bytes.len(), size.pixels());
            tables::check(frame.data, allowed, cancel)?;
        }
        Bitstream::Lossy if !partitions::are_complete(frame.data) => {
            return Err(damaged("it is shorter than its bitstream states"));
        }
        Bitstream::Lossy => {}
    }
    let rgb = pixels(&frame, cancel)?;
    let rgb = if frame.size == canvas {
        rgb
    } else {
        on_canvas(&rgb, &frame, canvas, cancel)?
    };
    rgb_image(ImageFormat::WebP, size, rgb)
}

/// Returns the pixels of a frame, `[H, W, 3] u8`.
fn pixels(frame: &Frame, cancel: &Cancel) -> Result<Vec<u8>, ImageError> {
    let mut decoder = WebPDecoder::new(SimpleFile::new(frame, cancel)).map_err(error)?;
    if decoder.dimensions() != (frame.size.width, frame.size.height) {
        return Err(damaged(
            "its bitstream has another size than its header states",
        ));
    }
    let pixels = frame.size.width as usize * frame.size.height as usize;
    let samples = match frame.bitstream {
        Bitstream::Lossy => 3,
        Bitstream::Lossless => 4,
    };
    let mut data = vec![0; pixels * samples];
    decoder.read_image(&mut data).map_err(error)?;
    cancel.check()?;
    Ok(match frame.bitstream {
        Bitstream::Lossy => data,
        Bitstream::Lossless => pack_rgba(data, cancel)?,
    })
}

/// Returns a black canvas, `[H, W, 3] u8`, with the frame at its place.
fn on_canvas(
    rgb: &[u8],
    frame: &Frame,
    canvas: ImageSize,
    cancel: &Cancel,
) -> Result<Vec<u8>, Cancelled> {
    let mut pace = Pace::new(cancel);
    let mut out = vec![0; rgb_len(canvas)];
    let (stride, width) = (canvas.width as usize * 3, frame.size.width as usize * 3);
    let lines = out.chunks_exact_mut(stride).skip(frame.top as usize);
    for (line, row) in lines.zip(rgb.chunks_exact(width)) {
        pace.step(width)?;
        line[frame.left as usize * 3..][..width].copy_from_slice(row);
    }
    Ok(out)
}

fn damaged(reason: &str) -> ImageError {
    ImageError::Damaged {
        format: ImageFormat::WebP,
        reason: reason.to_owned(),
    }
}

fn error(error: DecodingError) -> ImageError {
    match error {
        DecodingError::UnsupportedFeature(feature) => ImageError::UnsupportedFeature {
            format: ImageFormat::WebP,
            feature,
        },
        other => damaged(&other.to_string()),
    }
}
