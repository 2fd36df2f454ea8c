//! Reads the headers of a BMP: size, bits per pixel, compression, palette and offset of the pixels.

use super::super::bytes::{u16_le, u32_le};
use super::super::{ImageError, ImageSize};
use super::{damaged, unsupported};

/// Length of the file header in bytes. The bitmap header follows it.
const FILE_HEADER: usize = 14;
/// Lengths in bytes of the known bitmap headers: OS/2 1.x (12), short OS/2 2.x (16), Windows 3
/// (40), Windows 3 with color masks (52 and 56), OS/2 2.x (64), Windows V4 (108) and V5 (124).
pub(super) const LENGTHS: [u32; 8] = [12, 16, 40, 52, 56, 64, 108, 124];
/// Length in bytes of the OS/2 1.x header, whose palette has 3 bytes per color.
const CORE: u32 = 12;
/// Length in bytes of the OS/2 2.x header, in which compression codes from 3 on have other meanings.
const OS2_2: u32 = 64;
/// Maximum number of colors in a palette.
const COLORS: u32 = 256;

/// Coding of the pixel rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    /// Uncompressed without color masks. Up to 8 bits per pixel are palette indices, 16 bits hold 5
    /// bits per color, and 24 or 32 bits hold blue, green and red with 8 bits each.
    None,
    /// Uncompressed words of 16, 24 or 32 bits per pixel, in which one mask each selects red, green
    /// and blue.
    Masks([Mask; 3]),
    /// Run-length coded 8-bit palette indices.
    RunLength8,
    /// Run-length coded 4-bit palette indices.
    RunLength4,
}

/// The adjacent bits of the word of a pixel that hold one color.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mask {
    shift: u32,
    /// Largest value that the bits can hold: 2^n - 1 for n bits.
    most: u32,
}

impl Mask {
    /// Returns the mask of the set bits of `bits`. Returns `None` if no bit is set, or if the set
    /// bits are not adjacent.
    pub(super) fn new(bits: u32) -> Option<Self> {
        let shift = bits.trailing_zeros();
        let most = bits.checked_shr(shift)?;
        (most & most.wrapping_add(1) == 0).then_some(Self { shift, most })
    }

    /// Returns the color that the mask selects in `word`, scaled to 0..=255 and rounded down as in
    /// Pillow.
    pub(super) fn read(self, word: u32) -> u8 {
        let value = u64::from((word >> self.shift) & self.most);
        (value * 255 / u64::from(self.most)) as u8
    }
}

/// The checked contents of a BMP's headers.
pub(super) struct Header<'a> {
    pub(super) size: ImageSize,
    /// Whether the first row in the file is the top row of the image.
    pub(super) top_down: bool,
    /// Bits per pixel.
    pub(super) bits: usize,
    pub(super) compression: Compression,
    /// Offset of the pixel rows in the file, in bytes.
    pub(super) data: usize,
    /// The palette as stored: entries of blue, green and red, 3 or 4 bytes each.
    palette: &'a [u8],
    /// Bytes per palette entry, 3 or 4.
    entry: usize,
}

impl<'a> Header<'a> {
    /// Reads and checks the headers of a file for which [`super::is_bmp`] returns true.
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, ImageError> {
        let cut = || damaged("the header is incomplete");
        let length = u32_le(bytes, FILE_HEADER).ok_or_else(cut)?;
        let end = FILE_HEADER + length as usize;
        let header = bytes.get(FILE_HEADER..end).ok_or_else(cut)?;
        let fields = Fields::read(header, length).ok_or_else(cut)?;
        let masks = match (fields.compression, length) {
            // A header of 40 bytes has no room for the color masks, so they follow it.
            (3, 40) => bytes.get(end..end + 12).ok_or_else(cut)?,
            (3, 52..) => header.get(40..52).ok_or_else(cut)?,
            _ => &[],
        };
        if length == OS2_2 && fields.compression > 2 {
            return Err(unsupported(format!(
                "OS/2 compression {}",
                fields.compression
            )));
        }
        let compression = fields.compression(masks)?;
        let after = if length == 40 { end + masks.len() } else { end };
        let (palette, entry) = fields.palette(bytes, after)?;
        Ok(Self {
            size: fields.size,
            top_down: fields.top_down,
            bits: usize::from(fields.bits),
            compression,
            data: data_offset(bytes, end, after + palette.len()).ok_or_else(cut)?,
            palette,
            entry,
        })
    }

    /// Returns the color of each palette index. An index without a palette entry is black, unless
    /// the palette is a gray ramp of more than two entries, in which entry i is gray of value i.
    /// Then the ramp continues.
    pub(super) fn colors(&self) -> [[u8; 3]; 256] {
        let entries = self.palette.chunks_exact(self.entry);
        let mut colors = [[0; 3]; 256];
        let mut is_gray = entries.len() > 2;
        for (index, (color, entry)) in colors.iter_mut().zip(entries).enumerate() {
            *color = [entry[2], entry[1], entry[0]];
            is_gray &= *color == [index as u8; 3];
        }
        if is_gray {
            return std::array::from_fn(|index| [index as u8; 3]);
        }
        colors
    }

    /// Returns the length in bytes of a row in the file, which is padded to a multiple of 4.
    pub(super) fn stride(&self) -> usize {
        (self.size.width as usize * self.bits).div_ceil(32) * 4
    }

    /// Checks that the file holds all rows if they are uncompressed. Run-length coded rows are not
    /// checked.
    ///
    /// # Errors
    /// [`ImageError::Damaged`] if a row is incomplete. The padding of the last row may be missing.
    pub(super) fn check_length(&self, bytes: &[u8]) -> Result<(), ImageError> {
        if matches!(
            self.compression,
            Compression::RunLength8 | Compression::RunLength4
        ) {
            return Ok(());
        }
        let row = (self.size.width as usize * self.bits).div_ceil(8);
        let rows = (self.size.height as usize).saturating_sub(1);
        let needed = rows.saturating_mul(self.stride()).saturating_add(row);
        if bytes.len().saturating_sub(self.data) < needed {
            return Err(damaged("the file ends before the last row"));
        }
        Ok(())
    }
}

/// Returns the offset of the pixel rows in the file. It is the offset that the file header states,
/// or the end of the palette if the stated offset is 0 or points at the palette. Returns `None` if
/// the file header is incomplete.
fn data_offset(bytes: &[u8], header_end: usize, palette_end: usize) -> Option<usize> {
    let stated = u32_le(bytes, 10)? as usize;
    if stated == 0 || (stated == header_end && palette_end > header_end) {
        return Some(palette_end);
    }
    Some(stated)
}

/// The unchecked fields of a bitmap header.
struct Fields {
    size: ImageSize,
    top_down: bool,
    bits: u16,
    compression: u32,
    /// Number of palette colors; 0 means as many as the bits per pixel can index.
    colors: u32,
    /// Bytes per palette entry, 3 or 4.
    entry: usize,
}

impl Fields {
    fn read(header: &[u8], length: u32) -> Option<Self> {
        if length == CORE {
            return Some(Self {
                size: ImageSize {
                    width: u16_le(header, 4)?.into(),
                    height: u16_le(header, 6)?.into(),
                },
                top_down: false,
                bits: u16_le(header, 10)?,
                compression: 0,
                colors: 0,
                entry: 3,
            });
        }
        let height = u32_le(header, 8)?;
        // A negative height means that the first row in the file is the top row of the image.
        let top_down = height >> 24 == 0xFF;
        Some(Self {
            size: ImageSize {
                width: u32_le(header, 4)?,
                height: if top_down {
                    height.wrapping_neg()
                } else {
                    height
                },
            },
            top_down,
            bits: u16_le(header, 14)?,
            // The OS/2 2.x header of 16 bytes ends before these two fields, whose default is 0.
            compression: u32_le(header, 16).unwrap_or(0),
            colors: u32_le(header, 32).unwrap_or(0),
            entry: 4,
        })
    }

    fn compression(&self, masks: &[u8]) -> Result<Compression, ImageError> {
        match (self.compression, self.bits) {
            (0, 1 | 2 | 4 | 8 | 16 | 24 | 32) => Ok(Compression::None),
            (1, 8) => Ok(Compression::RunLength8),
            (2, 4) => Ok(Compression::RunLength4),
            (3, 16 | 24 | 32) => self.masks(masks),
            (kind @ (0..=3), bits) => Err(damaged(&format!(
                "compression {kind} is not possible with {bits} bits per pixel"
            ))),
            (kind, _) => Err(unsupported(format!("compression {kind}"))),
        }
    }

    fn masks(&self, masks: &[u8]) -> Result<Compression, ImageError> {
        let words = [0, 4, 8].map(|at| u32_le(masks, at).unwrap_or(0));
        if words == [0; 3] && self.bits == 32 {
            return Ok(Compression::None);
        }
        let fits = |word: &u32| self.bits == 32 || word >> self.bits == 0;
        let masks = words.map(Mask::new);
        match masks {
            [Some(red), Some(green), Some(blue)] if words.iter().all(fits) => {
                Ok(Compression::Masks([red, green, blue]))
            }
            _ => Err(damaged("a color mask is empty, split or too wide")),
        }
    }

    /// Returns the palette, which begins at offset `at` of the file, and the bytes per palette
    /// entry. The palette is empty for images of more than 8 bits per pixel.
    fn palette<'a>(&self, bytes: &'a [u8], at: usize) -> Result<(&'a [u8], usize), ImageError> {
        if self.bits > 8 {
            return Ok((&[], self.entry));
        }
        let colors = match self.colors {
            0 => 1 << self.bits,
            colors => colors,
        };
        if colors > COLORS {
            return Err(damaged(&format!(
                "the palette has {colors} colors, over the limit of {COLORS}"
            )));
        }
        let end = at + colors as usize * self.entry;
        let palette = bytes.get(at..end);
        Ok((
            palette.ok_or_else(|| damaged("the palette is incomplete"))?,
            self.entry,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_scale_and_round_down() {
        let green = Mask::new(0x07E0).unwrap();
        assert_eq!(
            [0, 0x20, 0x07C0, 0xFFFF].map(|word| green.read(word)),
            [0, 4, 250, 255]
        );
        let wide = Mask::new(0xFFFF_FFFF).unwrap();
        assert_eq!(
            [0, 1 << 31, u32::MAX].map(|word| wide.read(word)),
            [0, 127, 255]
        );
        assert_eq!([0, 0b101].map(Mask::new), [None; 2]);
    }
}
