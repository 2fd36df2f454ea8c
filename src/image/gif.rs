//! The first frame of a GIF on its canvas.

use std::num::NonZeroU64;

use gif::{ColorOutput, DecodeOptions, DecodingError, Frame, MemoryLimit};
use image::{Rgb, RgbImage};

use super::decode::check_pixels;
use super::{ImageError, ImageFormat, ImageSize};

/// Decodes the first frame to RGB.
///
/// The canvas around the frame has the colour of the transparent index, or else of index 0, and a
/// frame that reaches out of its canvas enlarges it. Without a palette the indices are grey levels.
///
/// Source: `PIL.GifImagePlugin.GifImageFile`, `_seek` and `load_prepare`.
pub(super) fn decode(bytes: &[u8], max_pixels: u64) -> Result<RgbImage, ImageError> {
    let mut options = DecodeOptions::new();
    options.set_color_output(ColorOutput::Indexed);
    let limit = NonZeroU64::new(max_pixels).unwrap_or(NonZeroU64::MIN);
    // One byte per pixel of a frame; the pixel limit has been checked, this one must not be tighter.
    options.set_memory_limit(MemoryLimit::Bytes(limit));
    let mut decoder = options.read_info(bytes).map_err(error)?;
    let screen = (decoder.width(), decoder.height());
    let info = decoder.next_frame_info().map_err(error)?;
    let frame = info.cloned().ok_or_else(|| damaged("it has no frame"))?;
    let canvas = canvas(screen, &frame);
    check_pixels(canvas, max_pixels)?;

    let mut indices = vec![0; decoder.buffer_size()];
    decoder.read_into_buffer(&mut indices).map_err(error)?;
    let palette = decoder.palette().ok().map(|p| p.as_chunks::<3>().0);
    let color = |index: u8| match palette {
        Some(palette) => Rgb(palette.get(usize::from(index)).copied().unwrap_or_default()),
        None => Rgb([index; 3]),
    };
    let around = color(frame.transparent.unwrap_or(0));
    let mut image = RgbImage::from_pixel(canvas.width, canvas.height, around);
    // An empty frame leaves the canvas as it is.
    let rows = indices.chunks_exact(usize::from(frame.width).max(1));
    for (y, row) in (u32::from(frame.top)..canvas.height).zip(rows) {
        for (x, index) in (u32::from(frame.left)..canvas.width).zip(row) {
            image.put_pixel(x, y, color(*index));
        }
    }
    Ok(image)
}

fn canvas(screen: (u16, u16), frame: &Frame) -> ImageSize {
    let side = |screen, start, length| u32::from(screen).max(u32::from(start) + u32::from(length));
    ImageSize {
        width: side(screen.0, frame.left, frame.width),
        height: side(screen.1, frame.top, frame.height),
    }
}

fn damaged(reason: &str) -> ImageError {
    ImageError::Damaged {
        format: ImageFormat::Gif,
        reason: reason.to_owned(),
    }
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "the shape that map_err takes"
)]
fn error(error: DecodingError) -> ImageError {
    damaged(&error.to_string())
}
