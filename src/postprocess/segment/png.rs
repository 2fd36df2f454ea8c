//! Encoding of a mask as a palette PNG: viewers show colors, programs read class indices.

use super::{Mask, Palette, PngError};
use crate::cancel::Cancel;
use crate::encode::write_png;

/// Returns an 8-bit palette PNG whose pixel values are the class indices of `mask`.
///
/// The file contains the colors of `palette` from class 0 to the highest class of the mask.
///
/// # Errors
/// [`PngError`] if a side is over PNG's limit of 2^31 - 1 pixels, or if the work is cancelled.
pub fn mask_png(mask: &Mask, palette: &Palette, cancel: &Cancel) -> Result<Vec<u8>, PngError> {
    let highest = mask.classes().iter().copied().fold(0, u8::max);
    let colors = palette[..=usize::from(highest)].as_flattened();
    write_png(mask.size(), Some(colors), mask.classes(), cancel)
}

#[cfg(test)]
mod tests {
    use super::super::VOC_PALETTE;
    use png::{BitDepth, ColorType};

    use super::*;
    use crate::image::ImageSize;

    #[test]
    fn png_files_hold_the_classes_and_the_palette() {
        for (width, height, classes) in [(1, 1, 1), (1, 300, 3), (300, 1, 256), (64, 48, 21)] {
            let at = |i: u32| (u64::from(i * i / 7) % classes) as u8;
            let pixels: Vec<u8> = (0..width * height).map(at).collect();
            let mask = Mask::new(ImageSize { width, height }, pixels).unwrap();
            let bytes = mask_png(&mask, &VOC_PALETTE, &Cancel::never()).unwrap();
            let mut reader = png::Decoder::new(std::io::Cursor::new(&bytes))
                .read_info()
                .unwrap();
            let info = reader.info();
            assert_eq!((info.width, info.height), (width, height));
            assert_eq!(info.color_type, ColorType::Indexed);
            assert_eq!(info.bit_depth, BitDepth::Eight);
            let highest = mask.classes().iter().max().unwrap();
            let colors = &VOC_PALETTE[..=usize::from(*highest)];
            assert_eq!(info.palette.as_deref(), Some(colors.as_flattened()));
            let mut indices = vec![0; (width * height) as usize];
            reader.next_frame(&mut indices).unwrap();
            assert_eq!(indices, mask.classes());
        }
    }
}
