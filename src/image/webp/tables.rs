//! Computes the memory that the decoding tables of a lossless WebP bitstream (VP8L) take, without
//! decoding the image.
//!
//! A bitstream has up to 65,536 groups of five prefix codes. Its entropy image assigns a group to
//! each square of pixels, and one pixel of the entropy image suffices to state 65,536 groups. A
//! decoder keeps a table for each code, about 400 times as large as the code in the file, so the
//! tables of a file of 4 MB could take 1.3 GB. This module reads the bitstream up to the image data
//! and adds up the sizes of the tables, which takes a few percent of the time of decoding.
//!
//! Source: Specification for WebP Lossless Bitstream. The sizes of tables are those of the crate
//! `image-webp`.

use super::super::{ImageError, ImageSize};
use super::bits::Bits;
use super::codes::{Code, Group, read_group};
use super::damaged;
use crate::cancel::{Cancel, Pace};

/// Upper limit in bytes of the size that a file's length and pixels allow for its tables; `FREE_TABLE_BYTES`
/// are allowed in addition. Encoders limit the entropy image to a few thousand pixels, and each
/// pixel needs a group with tables of 20 KiB at most.
const MAX_TABLE_BYTES: u64 = 64 << 20;
/// Bytes of tables that each byte of the file allows. In a photograph, the codes of a group and the
/// pixels coded with them take at least a fortieth of the bytes of the group's tables.
const TABLE_BYTES_PER_BYTE: u64 = 64;
/// Bytes of tables that each pixel of the frame allows. With the 5 bytes per pixel of decoding, a
/// lossless WebP then takes no more memory than the most expensive JPEG of its size. Every memory
/// plan has room for such an image of 4 megapixels.
const TABLE_BYTES_PER_PIXEL: u64 = 11;
/// Bytes of tables that every file may have, whatever its size: the tables of 25 groups.
const FREE_TABLE_BYTES: u64 = 512 << 10;

/// Returns the largest size in bytes that the tables of a file may have that has `file_bytes` bytes
/// and `pixels` pixels.
pub(in crate::image) fn allowed_bytes(file_bytes: usize, pixels: u64) -> u64 {
    let by_length = (file_bytes as u64).saturating_mul(TABLE_BYTES_PER_BYTE);
    let by_pixels = pixels.saturating_mul(TABLE_BYTES_PER_PIXEL);
    FREE_TABLE_BYTES + by_length.min(by_pixels).min(MAX_TABLE_BYTES)
}

/// Checks that the decoding tables of a lossless bitstream take at most `limit` bytes.
///
/// # Errors
/// [`ImageError::UnsupportedFeature`] if the tables take more than `limit` bytes,
/// [`ImageError::Damaged`] if the bitstream cannot be read up to its image data,
/// [`ImageError::Cancelled`] if the work is cancelled.
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

/// Reads a lossless bitstream from its start to the beginning of the image data.
struct Scan<'a> {
    bits: Bits<'a>,
    pace: Pace<'a>,
}

impl Scan<'_> {
    fn read(&mut self, count: u32) -> Result<u32, ImageError> {
        self.bits.read(count).ok_or_else(broken)
    }

    /// Returns the size of all tables in bytes. Stops at the first group with which the sum exceeds
    /// `limit` and returns that sum.
    fn table_bytes(&mut self, limit: u64) -> Result<u64, ImageError> {
        self.read(8)?;
        let (width, height) = (self.read(14)? + 1, self.read(14)? + 1);
        // Skips the flag for alpha and the version.
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

    /// Reads past the transforms and the images that they contain. Returns the size of the image
    /// that is stored after them, which is narrower than `size` if a palette packs several pixels
    /// into one.
    fn transforms(&mut self, size: ImageSize) -> Result<ImageSize, ImageError> {
        let mut width = size.width;
        let mut seen = [false; 4];
        while self.read(1)? == 1 {
            let kind = self.read(2)? as usize;
            if std::mem::replace(&mut seen[kind], true) {
                return Err(broken());
            }
            match kind {
                // A predictor or color transform stores one pixel per square of the image.
                0 | 1 => {
                    let bits = self.read(3)? + 2;
                    let pixels = squares(ImageSize { width, ..size }, bits);
                    self.image(pixels)?;
                }
                // A palette of up to 16 colors packs several neighboring pixels of a row into one.
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
                // The transform that subtracts green from red and blue stores no data.
                _ => {}
            }
        }
        Ok(ImageSize { width, ..size })
    }

    /// Reads the number of bits of a color cache index, 1 to 11. `None` if there is no color cache.
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

    /// Reads the entropy image, if the bitstream has one, and returns the number of groups of
    /// codes. `size` is the size of the image that the groups encode.
    fn groups(&mut self, size: ImageSize) -> Result<u32, ImageError> {
        if self.read(1)? == 0 {
            return Ok(1);
        }
        let bits = self.read(3)? + 2;
        Ok(self.image(squares(size, bits))? + 1)
    }

    /// Reads an image of `pixels` pixels that has a single group of codes, such as an entropy
    /// image. Returns the largest value among its pixels of red (high byte) and green (low byte),
    /// which in an entropy image is the largest group index. Only stored pixels are compared: all
    /// others are copies of stored pixels, or 0.
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
                // The token took no bits, so all following tokens are equal to it.
                return Ok(largest);
            }
        }
        Ok(largest)
    }

    /// Reads one token with the codes of `group`. Returns the value that a stored pixel states in
    /// red (high byte) and green (low byte), or 0 if the token copies pixels, and the number of
    /// pixels that the token stands for.
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
                // A color cache index: a copy of one pixel.
                _ => (0, 1),
            })
        };
        read().ok_or_else(broken)
    }
}

/// Work of reading a token (`PIXEL_UNITS`) and of reading a group of codes (`GROUP_UNITS`), in the
/// units of [`Pace`].
const PIXEL_UNITS: usize = 8;
const GROUP_UNITS: usize = 1 << 10;

/// Returns the number of squares with a side of `2^bits` pixels that cover an image of `size`.
fn squares(size: ImageSize, bits: u32) -> u64 {
    let count = |side: u32| u64::from(side.div_ceil(1 << bits));
    count(size.width) * count(size.height)
}

#[cfg(test)]
mod tests {
    use super::super::super::{DecodeOptions, Orientation, decode};
    use super::*;
    use crate::cancel::Cancelled;

    /// Writes a bitstream, from the lowest bit of each byte.
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

        /// Writes a code whose only symbol is `symbol`, 0 to 255.
        fn single(&mut self, symbol: u32) -> &mut Self {
            self.write(0b101, 3).write(symbol, 8)
        }

        /// Writes a code of 11 symbols in 92 bits. The longest symbols of the code have 10 bits.
        fn long(&mut self) -> &mut Self {
            // The code for code lengths: lengths 1 to 6 have codes of 3 bits, lengths 7 to 10 have
            // codes of 4 bits.
            self.write(0, 1).write(14 - 4, 4);
            for length in [0, 0, 0, 3, 3, 3, 3, 3, 0, 3, 4, 4, 4, 4] {
                self.write(length, 3);
            }
            // States that 11 code lengths follow, in a field of 4 bits.
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

    /// Returns a lossless bitstream of an image of 8x8 pixels with `groups` groups, in which all
    /// codes have symbols of up to 10 bits.
    fn bitstream(groups: u32) -> Vec<u8> {
        let mut out = Writer::default();
        out.write(0x2F, 8).write(7, 14).write(7, 14).write(0, 4);
        // No transforms, no color cache, and an entropy image of 2x2 pixels without a color cache.
        out.write(0, 2).write(1, 1).write(0, 3).write(0, 1);
        let last = groups - 1;
        for symbol in [last & 255, last >> 8, 0, 0, 0] {
            out.single(symbol);
        }
        for _ in 0..groups * 5 {
            out.long();
        }
        // The image data: for each of the 64 pixels, the shortest symbol of the four color codes.
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
        // Each code of 10 bits has a table of 4 KiB and takes 128 bytes itself.
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
        let expected = "WebP image with an unsupported feature: Huffman tables of more than 512 KiB in a \
                        file of this size";
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn streams_cut_anywhere_are_damaged_and_cancelled_ones_stop() {
        let whole = bitstream(3);
        // The last 40 bytes are image data and padding, which the check does not read.
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
