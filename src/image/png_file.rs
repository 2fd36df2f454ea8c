//! PNG files of what answers show.

use png::{BitDepth, ColorType, Compression, Encoder, EncodingError, Filter};

use super::ImageSize;

/// An 8-bit PNG: RGB samples, or indices where there is a palette of RGB colours.
///
/// Each row is stored as its difference from the row above, which is nothing but zeros inside of
/// a mask's objects, and compressed in the fastest way.
///
/// # Errors
/// If a side is over PNG's limit of 2³¹ - 1 pixels, or the samples do not fill the size.
pub(crate) fn write_png(
    size: ImageSize,
    palette: Option<&[u8]>,
    samples: &[u8],
) -> Result<Vec<u8>, EncodingError> {
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, size.width, size.height);
    match palette {
        Some(palette) => {
            encoder.set_color(ColorType::Indexed);
            encoder.set_palette(palette);
        }
        None => encoder.set_color(ColorType::Rgb),
    }
    encoder.set_depth(BitDepth::Eight);
    encoder.set_compression(Compression::Fast);
    encoder.set_filter(Filter::Up);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(samples)?;
    writer.finish()?;
    Ok(bytes)
}
