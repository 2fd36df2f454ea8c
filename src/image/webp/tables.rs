//! The memory that the decoding tables of a lossless bitstream take, found without decoding the image.
//!
//! A bitstream has up to 65,536 groups of five prefix codes, and one pixel of its entropy image suffices to
//! state that many. A decoder keeps a table for each code, about 400 times as large as the code in the file,
//! so a file of 4 MB could take 1.3 GB. This module reads the bitstream up to the image data and adds the
//! tables up, which takes a few per cent of the time of decoding.
//!
//! Source: Specification for WebP Lossless Bitstream. The sizes of tables are those of the crate `image-webp`.

use super::super::{ImageError, ImageSize};
use super::bits::Bits;
use super::codes::{Code, Group, read_group};
use super::damaged;
use crate::cancel::{Cancel, Pace};

/// Most bytes of tables, whatever the size of the file. Encoders limit the entropy image to a few thousand
/// pixels, each with tables of 20 KiB at most.
const MAX_TABLE_BYTES: u64 = 64 << 20;
/// Most bytes of tables for each byte of the file. A group of codes in a photograph, with the pixels that it
/// codes, is at least a fortieth of its tables.
const TABLE_BYTES_PER_BYTE: u64 = 64;
/// Bytes of tables that every file may have: those of 25 groups.
const FREE_TABLE_BYTES: u64 = 512 << 10;

/// Returns the most bytes of tables that a file of `file_bytes` bytes may have.
pub(in crate::image) fn allowed_bytes(file_bytes: usize) -> u64 {
    let by_size = (file_bytes as u64).saturating_mul(TABLE_BYTES_PER_BYTE);
    FREE_TABLE_BYTES + by_size.min(MAX_TABLE_BYTES)
}

/// Checks that the tables of a lossless bitstream take at most `limit` bytes.
///
/// # Errors
/// [`ImageError::UnsupportedFeature`] if they take more, [`ImageError::Damaged`] if the bitstream cannot be
/// read up to its image data, [`ImageError::Cancelled`] if the work is cancelled.
pub(super) fn check(bitstream: &[u8], limit: u64, cancel: &Cancel) -> Result<(), ImageError> {
    let mut scan = Scan {
        bits: Bits::new(bitstream),
        pace: Pace::new(cancel),
    };
    let bytes = scan.table_bytes(limit)?;
    if bytes <= limit {
        return Ok(());
    }
    let allowed = limit >> 10;
    Err(ImageError::UnsupportedFeature {
        format: super::ImageFormat::WebP,
        feature: format!("Huffman tables of more than {allowed} KiB in a file of this size"),
    })
}

fn broken() -> ImageError {
    damaged("its Huffman codes are not valid")
}

/// A pass over a bitstream up to its image data.
struct Scan<'a> {
    bits: Bits<'a>,
    pace: Pace<'a>,
}

impl Scan<'_> {
    fn read(&mut self, count: u32) -> Result<u32, ImageError> {
        self.bits.read(count).ok_or_else(broken)
    }

    /// Returns the bytes of all tables, or of as many as exceed `limit`.
    fn table_bytes(&mut self, limit: u64) -> Result<u64, ImageError> {
        self.read(8)?;
        let (width, height) = (self.read(14)? + 1, self.read(14)? + 1);
        // The flag for alpha and the version.
        self.read(4)?;
        let size = self.transforms(ImageSize { width, height })?;
        let cache = self.color_cache()?;
        let groups = self.groups(size)?;
        let mut bytes = 0;
        for _ in 0..groups {
            self.pace.step(GROUP_UNITS)?;
            let group = read_group(&mut self.bits, cache).ok_or_else(broken)?;
            bytes += group.iter().map(Code::table_bytes).sum::<u64>();
            if bytes > limit {
                break;
            }
        }
        Ok(bytes)
    }

    /// Reads the transforms with their images, and returns the size of the image that they are applied to.
    fn transforms(&mut self, size: ImageSize) -> Result<ImageSize, ImageError> {
        let mut width = size.width;
        let mut seen = [false; 4];
        while self.read(1)? == 1 {
            let kind = self.read(2)? as usize;
            if std::mem::replace(&mut seen[kind], true) {
                return Err(broken());
            }
            match kind {
                // Predictors and color transforms, one per square of pixels.
                0 | 1 => {
                    let bits = self.read(3)? + 2;
                    let pixels = squares(ImageSize { width, ..size }, bits);
                    self.image(pixels)?;
                }
                // A palette. With few colors, several pixels share one.
                3 => {
                    let colors = self.read(8)? + 1;
                    self.image(colors.into())?;
                    let bits = match colors {
                        0..=2 => 3,
                        3..=4 => 2,
                        5..=16 => 1,
                        _ => 0,
                    };
                    width = width.div_ceil(1 << bits);
                }
                // Green is subtracted from red and blue: no data.
                _ => {}
            }
        }
        Ok(ImageSize { width, ..size })
    }

    /// Reads the number of bits of the color cache. `None` if there is no cache.
    fn color_cache(&mut self) -> Result<Option<u32>, ImageError> {
        if self.read(1)? == 0 {
            return Ok(None);
        }
        let bits = self.read(4)?;
        (1..=11)
            .contains(&bits)
            .then_some(Some(bits))
            .ok_or_else(broken)
    }

    /// Reads the entropy image, if there is one, and returns the number of groups.
    fn groups(&mut self, size: ImageSize) -> Result<u32, ImageError> {
        if self.read(1)? == 0 {
            return Ok(1);
        }
        let bits = self.read(3)? + 2;
        Ok(self.image(squares(size, bits))? + 1)
    }

    /// Reads an image of `pixels` pixels without an entropy image of its own, and returns the largest number
    /// that red and green state together. Every other pixel is a copy of one that is stored, or 0.
    fn image(&mut self, pixels: u64) -> Result<u32, ImageError> {
        let cache = self.color_cache()?;
        let group = read_group(&mut self.bits, cache).ok_or_else(broken)?;
        let (mut left, mut largest) = (pixels, 0);
        while left > 0 {
            self.pace.step(PIXEL_UNITS)?;
            let before = self.bits.position();
            let (stored, count) = self.token(&group)?;
            largest = largest.max(stored);
            left = left.checked_sub(count).ok_or_else(broken)?;
            if self.bits.position() == before {
                // Codes of no bits: all tokens are alike.
                return Ok(largest);
            }
        }
        Ok(largest)
    }

    /// Reads one token: the number that red and green of a stored pixel state, or 0 for copies; and the number
    /// of pixels.
    fn token(&mut self, group: &Group) -> Result<(u32, u64), ImageError> {
        let [green, red, blue, alpha, distance] = group;
        let mut read = || {
            let symbol = u32::from(green.read(&mut self.bits)?);
            Some(match symbol {
                0..256 => {
                    let red = u32::from(red.read(&mut self.bits)?);
                    blue.read(&mut self.bits)?;
                    alpha.read(&mut self.bits)?;
                    (red << 8 | symbol, 1)
                }
                256..280 => {
                    let length = self.bits.read_prefixed(symbol - 256)?;
                    let symbol = u32::from(distance.read(&mut self.bits)?);
                    self.bits.read_prefixed(symbol)?;
                    (0, length)
                }
                // A place in the color cache.
                _ => (0, 1),
            })
        };
        read().ok_or_else(broken)
    }
}

/// Work of reading a token, and of reading a group of codes, in the units of [`Pace`].
const PIXEL_UNITS: usize = 8;
const GROUP_UNITS: usize = 1 << 10;

/// Returns the number of squares of `2^bits` pixels a side that cover an image of `size`.
fn squares(size: ImageSize, bits: u32) -> u64 {
    let count = |side: u32| u64::from(side.div_ceil(1 << bits));
    count(size.width) * count(size.height)
}

#[cfg(test)]
mod tests {
    use super::super::super::{DecodeOptions, Orientation, decode};
    use super::*;
    use crate::cancel::Cancelled;

    /// Writes bits from the lowest of each byte.
    #[derive(Default)]
    struct Writer {
        bytes: Vec<u8>,
        count: usize,
    }

    impl Writer {
        fn write(&mut self, value: u32, count: usize) -> &mut Self {
            for bit in 0..count {
                if self.count.is_multiple_of(8) {
                    self.bytes.push(0);
                }
                if let Some(last) = self.bytes.last_mut() {
                    *last |= ((value >> bit & 1) as u8) << (self.count % 8);
                }
                self.count += 1;
            }
            self
        }

        /// A code whose only symbol is `symbol`.
        fn single(&mut self, symbol: u32) -> &mut Self {
            self.write(0b101, 3).write(symbol, 8)
        }

        /// A code of 11 symbols whose longest has 10 bits, in 92 bits.
        fn long(&mut self) -> &mut Self {
            // Lengths 1 to 6 have codes of 3 bits, and 7 to 10 have codes of 4.
            self.write(0, 1).write(14 - 4, 4);
            for length in [0, 0, 0, 3, 3, 3, 3, 3, 0, 3, 4, 4, 4, 4] {
                self.write(length, 3);
            }
            // 11 lengths follow.
            self.write(1, 1).write(1, 3).write(11 - 2, 4);
            for code in [0b000, 0b100, 0b010, 0b110, 0b001, 0b101] {
                self.write(code, 3);
            }
            for code in [0b0011, 0b1011, 0b0111, 0b1111, 0b1111] {
                self.write(code, 4);
            }
            self
        }
    }

    /// Returns a lossless bitstream of 8x8 pixels with this number of groups, all of whose codes are long.
    fn bitstream(groups: u32) -> Vec<u8> {
        let mut out = Writer::default();
        out.write(0x2F, 8).write(7, 14).write(7, 14).write(0, 4);
        // No transforms, no cache, an entropy image of 2x2 pixels without cache.
        out.write(0, 2).write(1, 1).write(0, 3).write(0, 1);
        let last = groups - 1;
        for symbol in [last & 255, last >> 8, 0, 0, 0] {
            out.single(symbol);
        }
        for _ in 0..groups * 5 {
            out.long();
        }
        // The first symbol of each code, 64 times.
        for _ in 0..64 {
            out.write(0, 4);
        }
        out.write(0, 32).write(0, 32);
        out.bytes
    }

    fn file(mut bitstream: Vec<u8>) -> Vec<u8> {
        bitstream.resize(bitstream.len().next_multiple_of(2), 0);
        let length = bitstream.len() as u32;
        let mut file = b"RIFF".to_vec();
        file.extend((length + 12).to_le_bytes());
        file.extend(b"WEBPVP8L");
        file.extend(length.to_le_bytes());
        file.extend(bitstream);
        file
    }

    #[test]
    fn tables_are_added_up_and_bounded() {
        // Every long code has a table of 4 KiB.
        let group = 5 * (4096 + 128);
        for (groups, limit, fits) in [
            (1, group, true),
            (1, group - 1, false),
            (25, 25 * group, true),
            (65_536, 65_536 * group, true),
            (65_536, MAX_TABLE_BYTES, false),
        ] {
            let result = check(&bitstream(groups), limit, &Cancel::never());
            assert_eq!(result.is_ok(), fits, "{groups} groups in {limit} bytes");
        }
    }

    #[test]
    fn a_file_of_few_groups_decodes_and_one_of_many_is_rejected() {
        let options = DecodeOptions {
            max_pixels: 64,
            orientation: Orientation::Apply,
        };
        assert!(decode(&file(bitstream(20)), &options).is_ok());
        let error = decode(&file(bitstream(65_536)), &options).unwrap_err();
        let expected = "WebP image with an unsupported feature: Huffman tables of more than 66048 KiB in a \
                        file of this size";
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn streams_cut_anywhere_are_damaged_and_cancelled_ones_stop() {
        let whole = bitstream(3);
        // The image data take 40 bytes.
        for cut in 0..whole.len() - 40 {
            let result = check(&whole[..cut], u64::MAX, &Cancel::never());
            assert_eq!(result, Err(broken()), "cut at {cut}");
        }
        let cancel = Cancel::never();
        cancel.cancel();
        let result = check(&bitstream(65_536), u64::MAX, &cancel);
        assert_eq!(result, Err(ImageError::Cancelled(Cancelled)));
    }
}
