//! Data sets of segmentation: a folder of images, and a folder of masks with the same file names.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use png::{BitDepth, ColorType, Decoder, Limits, Transformations};
use sightline::image::ImageSize;

use super::{Sample, Truth, files, is_image, relative};

/// Maximum number of pixels of a mask.
const MAX_PIXELS: u64 = 100_000_000;

/// Returns the images that have a mask, in the order of the masks' names.
///
/// # Errors
/// If a folder cannot be read, if there are no masks, or if a mask has no image.
pub(super) fn read(images: &Path, masks: &Path) -> Result<Vec<Sample>> {
    let stem = |path: &Path| path.file_stem().unwrap_or_default().to_owned();
    let by_stem: HashMap<OsString, PathBuf> = files(images, is_image)?
        .into_iter()
        .map(|path| (stem(&path), path))
        .collect();
    let is_png = |path: &Path| {
        path.extension()
            .is_some_and(|ext| ext.eq_ignore_ascii_case("png"))
    };
    let masks_found = files(masks, is_png)?;
    if masks_found.is_empty() {
        bail!("{} has no masks (PNG files)", masks.display());
    }
    let mut samples = Vec::new();
    for mask in masks_found {
        let path = by_stem.get(&stem(&mask)).with_context(|| {
            format!(
                "the mask {} has no image in {}",
                mask.display(),
                images.display()
            )
        })?;
        samples.push(Sample {
            name: relative(path, images),
            path: path.clone(),
            truth: Truth::Mask(mask),
        });
    }
    Ok(samples)
}

/// Decodes a mask to the class of each pixel, `[height, width]`: the palette index or the gray value.
///
/// # Errors
/// If the file is not a PNG in gray or with a palette of up to 8 bits, or if it is damaged or too large.
pub(in crate::cli::eval) fn read_mask(bytes: &[u8]) -> Result<(ImageSize, Vec<u8>)> {
    let mut decoder = Decoder::new_with_limits(Cursor::new(bytes), Limits { bytes: 1 << 20 });
    decoder.set_transformations(Transformations::IDENTITY);
    let mut reader = decoder.read_info()?;
    let (width, height) = reader.info().size();
    let size = ImageSize { width, height };
    if size.pixels() > MAX_PIXELS {
        bail!("expected at most {MAX_PIXELS} pixels, got {width}x{height}");
    }
    let (color, depth) = reader.output_color_type();
    let bits = match (color, depth) {
        (ColorType::Grayscale | ColorType::Indexed, BitDepth::One) => 1,
        (ColorType::Grayscale | ColorType::Indexed, BitDepth::Two) => 2,
        (ColorType::Grayscale | ColorType::Indexed, BitDepth::Four) => 4,
        (ColorType::Grayscale | ColorType::Indexed, BitDepth::Eight) => 8,
        (color, depth) => bail!(
            "expected a mask with a palette or in gray of up to 8 bits, got {color:?} of {} bits",
            depth as u8
        ),
    };
    let bytes = reader
        .output_buffer_size()
        .context("the mask is too large")?;
    let mut packed = vec![0; bytes];
    reader.next_frame(&mut packed)?;
    let row = reader.output_line_size(width);
    let row = row.context("the mask is too large")?;
    Ok((size, unpacked(&packed, row, width as usize, bits)))
}

/// Returns one byte per pixel of `bits` bits. Each row has `row` bytes and `width` pixels.
fn unpacked(packed: &[u8], row: usize, width: usize, bits: usize) -> Vec<u8> {
    if bits == 8 {
        return packed.to_vec();
    }
    let per_byte = 8 / bits;
    let value = |row: &[u8], x: usize| {
        let shift = 8 - bits * (x % per_byte + 1);
        row[x / per_byte] >> shift & ((1 << bits) - 1)
    };
    let rows = packed.chunks_exact(row);
    rows.flat_map(|row| (0..width).map(move |x| value(row, x)))
        .collect()
}

#[cfg(test)]
mod tests {
    use png::Encoder;

    use super::*;

    fn mask(color: ColorType, depth: BitDepth, data: &[u8]) -> Vec<u8> {
        let mut file = Vec::new();
        let mut encoder = Encoder::new(&mut file, 3, 2);
        encoder.set_color(color);
        encoder.set_depth(depth);
        if color == ColorType::Indexed {
            encoder.set_palette((0..=255).flat_map(|i| [i, 0, 9]).collect::<Vec<u8>>());
        }
        let mut writer = encoder.write_header().unwrap();
        writer.write_image_data(data).unwrap();
        writer.finish().unwrap();
        file
    }

    #[test]
    fn masks_keep_their_indices_at_every_depth() {
        let eight = [0, 20, 255, 7, 1, 2];
        for color in [ColorType::Indexed, ColorType::Grayscale] {
            let (size, classes) = read_mask(&mask(color, BitDepth::Eight, &eight)).unwrap();
            assert_eq!((size.width, size.height, &classes[..]), (3, 2, &eight[..]));
        }
        let four = mask(
            ColorType::Grayscale,
            BitDepth::Four,
            &[0x12, 0x30, 0x45, 0x60],
        );
        assert_eq!(read_mask(&four).unwrap().1, [1, 2, 3, 4, 5, 6]);
        let one = mask(
            ColorType::Grayscale,
            BitDepth::One,
            &[0b1010_0000, 0b0110_0000],
        );
        assert_eq!(read_mask(&one).unwrap().1, [1, 0, 1, 0, 1, 1]);
    }

    #[test]
    fn colors_and_damaged_files_are_rejected() {
        let error = |bytes: &[u8]| read_mask(bytes).unwrap_err().to_string();
        let rgb = mask(ColorType::Rgb, BitDepth::Eight, &[0; 18]);
        assert!(error(&rgb).contains("got Rgb of 8 bits"));
        let wide = mask(ColorType::Grayscale, BitDepth::Sixteen, &[0; 12]);
        assert!(error(&wide).contains("16 bits"));
        error(&rgb[..20]);
        error(b"");
    }
}
