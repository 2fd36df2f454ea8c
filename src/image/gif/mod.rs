//! Decoding of the first frame of a GIF on its canvas.
//!
//! This module reads the blocks; the crate `gif` only decompresses the frame's indices. The canvas
//! is therefore known before anything is allocated, and blocks that the crate does not know are
//! skipped.

mod blocks;

use std::io::Read;
use std::num::NonZeroU64;

use ::gif::{ColorOutput, DecodeOptions, DecodingError, MemoryLimit};
use image::RgbImage;

use super::decode::{rgb_image, rgb_len};
use super::reader::CancellableReader;
use super::{Coding, ImageError, ImageFormat, ImageHeader, ImageSize};
use crate::cancel::{Cancel, Pace};
use blocks::FirstFrame;
use image::metadata::Orientation as Turn;

/// Number of bytes of the file that are decoded between two checks for cancellation. 512 bytes hold
/// 341 LZW codes of 12 bits, each of which can decode to up to 4,095 pixels.
const BYTES_PER_CHECK: usize = 512;

/// Reads the headers. The image's size is the logical screen's, extended if the first frame reaches
/// beyond the screen.
pub(super) fn header(bytes: &[u8]) -> Result<ImageHeader, ImageError> {
    Ok(ImageHeader {
        format: ImageFormat::Gif,
        size: FirstFrame::read(bytes)?.canvas,
        coding: Coding::Gif,
        scalable: false,
        turn: Turn::NoTransforms,
    })
}

/// Decodes the first frame to RGB, at its place on a canvas of `size`.
///
/// The canvas around the frame has the color of the transparent index, or of index 0 if there is
/// none. Indices are used as gray values if there is no palette, or if the palette gives each index
/// its own gray value.
///
/// Source: `PIL.GifImagePlugin.GifImageFile`, `_seek` and `load_prepare`.
pub(super) fn decode(
    bytes: &[u8],
    size: ImageSize,
    cancel: &Cancel,
) -> Result<RgbImage, ImageError> {
    let first = FirstFrame::read(bytes)?;
    if first.canvas != size {
        return Err(damaged("two of its headers state different sizes"));
    }
    let indices = indices(&first, cancel)?;
    let colors = first.colors();
    let mut out = vec![0; rgb_len(size)];
    let around = colors[usize::from(first.transparent.unwrap_or(0))];
    if first.size != size {
        out.as_chunks_mut::<3>().0.fill(around);
    }
    let mut pace = Pace::new(cancel);
    let stride = size.width as usize * 3;
    let lines = out.chunks_exact_mut(stride).skip(first.top as usize);
    for (line, row) in lines.zip(indices.chunks_exact(first.size.width as usize)) {
        pace.step(stride)?;
        let line = &mut line.as_chunks_mut::<3>().0[first.left as usize..];
        for (rgb, index) in line.iter_mut().zip(row) {
            *rgb = colors[usize::from(*index)];
        }
    }
    rgb_image(ImageFormat::Gif, size, out)
}

/// Returns the frame's palette indices, `[H, W] u8`, from the top row down.
fn indices(first: &FirstFrame, cancel: &Cancel) -> Result<Vec<u8>, ImageError> {
    let mut options = DecodeOptions::new();
    options.set_color_output(ColorOutput::Indexed);
    let limit = NonZeroU64::new(first.size.pixels()).unwrap_or(NonZeroU64::MIN);
    options.set_memory_limit(MemoryLimit::Bytes(limit));
    let head = first.alone();
    let data = CancellableReader::new(first.data, BYTES_PER_CHECK, cancel);
    let mut decoder = options
        .read_info(head.as_slice().chain(data))
        .map_err(error)?;
    decoder.next_frame_info().map_err(error)?;
    let mut indices = vec![0; first.size.width as usize * first.size.height as usize];
    if decoder.buffer_size() != indices.len() {
        return Err(damaged(
            "its frame has another size than the frame's header states",
        ));
    }
    decoder.read_into_buffer(&mut indices).map_err(error)?;
    Ok(indices)
}

fn damaged(reason: &str) -> ImageError {
    ImageError::Damaged {
        format: ImageFormat::Gif,
        reason: reason.to_owned(),
    }
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "`map_err` passes the error by value"
)]
fn error(error: DecodingError) -> ImageError {
    damaged(&error.to_string())
}
