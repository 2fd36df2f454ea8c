//! Encoding of PNG, row by row, so that it can be cancelled between two rows.

use std::io::Write;

use png::{BitDepth, ColorType, Compression, Encoder, EncodingError, Filter};
use thiserror::Error;

use crate::cancel::{Cancel, Cancelled, Pace};
use crate::image::ImageSize;

/// Maximum size in bytes of a chunk of compressed pixel data in the file.
const CHUNK: usize = 1 << 20;

/// The reason why a PNG was not written.
#[derive(Debug, Error)]
pub enum PngError {
    /// A side is over PNG's limit of 2^31 - 1 pixels, or the samples do not match the size.
    #[error(transparent)]
    Encoder(#[from] EncodingError),
    /// Encoding the image was cancelled.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

/// Encodes an 8-bit PNG file of `size`. Without `palette`, `samples` are RGB, `[H, W, 3] u8`; with
/// `palette`, which holds three bytes (RGB) per color, `samples` are indices into it, `[H, W] u8`.
///
/// Each row is stored as its difference from the row above, which is zero wherever a mask does not
/// change between the rows, and is compressed at the fastest level. If compression makes the file
/// larger, as with noise, the samples are stored without compression instead.
///
/// # Errors
/// [`PngError`] if a side is over PNG's limit of 2^31 - 1 pixels, if `samples` has a length that
/// does not match `size`, or if `cancel` is cancelled.
pub(crate) fn write_png(
    size: ImageSize,
    palette: Option<&[u8]>,
    samples: &[u8],
    cancel: &Cancel,
) -> Result<Vec<u8>, PngError> {
    let compressed = write(size, palette, samples, Compression::Fast, cancel)?;
    // Upper bound of the uncompressed file: each row has one more byte, for its filter, and the
    // headers of deflate blocks and PNG chunks add less than a thousandth.
    let stored = samples.len() + size.height as usize;
    if compressed.len() <= stored + stored / 1000 {
        return Ok(compressed);
    }
    drop(compressed);
    write(size, palette, samples, Compression::NoCompression, cancel)
}

/// Encodes a PNG file as `write_png` does, but always at the level `compression`.
fn write(
    size: ImageSize,
    palette: Option<&[u8]>,
    samples: &[u8],
    compression: Compression,
    cancel: &Cancel,
) -> Result<Vec<u8>, PngError> {
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, size.width, size.height);
    let stride = if let Some(palette) = palette {
        encoder.set_color(ColorType::Indexed);
        encoder.set_palette(palette);
        size.width as usize
    } else {
        encoder.set_color(ColorType::Rgb);
        size.width as usize * 3
    };
    encoder.set_depth(BitDepth::Eight);
    encoder.set_compression(compression);
    if matches!(compression, Compression::Fast) {
        encoder.set_filter(Filter::Up);
    }
    let mut writer = encoder.write_header()?;
    let mut stream = writer.stream_writer_with_size(CHUNK)?;
    let mut pace = Pace::new(cancel);
    for row in samples.chunks(stride.max(1)) {
        pace.step(stride)?;
        stream.write_all(row).map_err(EncodingError::from)?;
    }
    stream.finish()?;
    writer.finish()?;
    Ok(bytes)
}
