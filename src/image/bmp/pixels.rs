//! Decodes the uncompressed rows of a BMP.

use super::super::ImageError;
use super::super::bytes::{u16_le, u24_le, u32_le};
use super::header::{Compression, Header, Mask};
use super::unsupported;
use crate::cancel::{Cancel, Pace};

/// Color masks (red, green, blue) of 16-bit pixels if the header states no masks: 5 bits per color.
const FIVE_BITS: [u32; 3] = [0x7C00, 0x03E0, 0x001F];

/// Decodes the rows to RGB in `out`, `[H, W, 3] u8`. The caller has checked that the file holds all
/// rows.
pub(super) fn decode(
    bytes: &[u8],
    header: &Header,
    out: &mut [u8],
    cancel: &Cancel,
) -> Result<(), ImageError> {
    let mut pace = Pace::new(cancel);
    let row = converter(header)?;
    let data = bytes.get(header.data..).unwrap_or_default();
    let width = header.size.width as usize * 3;
    let height = header.size.height as usize;
    for (place, stored) in data.chunks(header.stride()).take(height).enumerate() {
        pace.step(width)?;
        let y = if header.top_down {
            place
        } else {
            height - 1 - place
        };
        row(stored, out[y * width..][..width].as_chunks_mut::<3>().0);
    }
    Ok(())
}

/// Function that converts a row as stored in the file to RGB pixels.
type RowConverter = Box<dyn Fn(&[u8], &mut [[u8; 3]])>;

fn converter(header: &Header) -> Result<RowConverter, ImageError> {
    let bits = header.bits;
    Ok(match (header.compression, bits) {
        (Compression::Masks(masks), _) => masked(masks, bits),
        (_, 1 | 2 | 4 | 8) => indexed(Box::new(header.colors()), bits),
        (_, 16) => match FIVE_BITS.map(Mask::new) {
            [Some(red), Some(green), Some(blue)] => masked([red, green, blue], bits),
            _ => return Err(unsupported("5 bits per color".to_owned())),
        },
        (_, 24) => Box::new(blue_green_red::<3>),
        (_, 32) => Box::new(blue_green_red::<4>),
        _ => return Err(unsupported(format!("{bits} bits per pixel"))),
    })
}

/// Converts a row of pixels of `N` bytes to RGB. The first three bytes of a pixel are blue, green
/// and red.
fn blue_green_red<const N: usize>(stored: &[u8], out: &mut [[u8; 3]]) {
    for (rgb, pixel) in out.iter_mut().zip(stored.as_chunks::<N>().0) {
        *rgb = [pixel[2], pixel[1], pixel[0]];
    }
}

/// Returns a converter of rows of palette indices of 1, 2, 4 or 8 `bits` each. The first index of a
/// byte is in its highest bits.
fn indexed(colors: Box<[[u8; 3]; 256]>, bits: usize) -> RowConverter {
    let (per_byte, mask) = (8 / bits, (1u16 << bits) - 1);
    Box::new(move |stored, out| {
        for (pixels, byte) in out.chunks_mut(per_byte).zip(stored) {
            for (place, rgb) in pixels.iter_mut().enumerate() {
                let index = u16::from(*byte) >> (8 - bits * (place + 1)) & mask;
                *rgb = colors[usize::from(index)];
            }
        }
    })
}

/// Returns a converter of rows of pixels that are little-endian words of 16, 24 or 32 `bits`. The
/// masks select red, green and blue in a word.
fn masked([red, green, blue]: [Mask; 3], bits: usize) -> RowConverter {
    let bytes = bits / 8;
    let word = move |pixel: &[u8]| match bytes {
        2 => u16_le(pixel, 0).map(u32::from),
        3 => u24_le(pixel, 0),
        _ => u32_le(pixel, 0),
    };
    Box::new(move |stored, out| {
        for (rgb, pixel) in out.iter_mut().zip(stored.chunks_exact(bytes)) {
            let word = word(pixel).unwrap_or(0);
            *rgb = [red, green, blue].map(|mask| mask.read(word));
        }
    })
}
