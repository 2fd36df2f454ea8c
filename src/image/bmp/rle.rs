//! Decoding of the run-length coded rows of a BMP.

use super::super::ImageError;
use super::damaged;
use super::header::{Compression, Header};
use crate::cancel::{Cancel, Pace};

/// Command that ends a row. A command is the byte after a run length of 0; a byte above [`DELTA`]
/// is not a command but the number of uncompressed palette indices that follow.
const END_OF_ROW: u8 = 0;
const END_OF_IMAGE: u8 = 1;
const DELTA: u8 = 2;
/// Work of a command in the units of [`Pace`]: it writes up to 255 pixels, or skips up to 255 rows.
const UNITS_PER_COMMAND: usize = 256;

/// Decodes the rows to RGB in `out`, `[H, W, 3] u8`.
///
/// Pixels that a command skips get palette index 0. A file that ends before the last pixel is
/// damaged, even if it ends with [`END_OF_IMAGE`]. Source: `PIL.BmpImagePlugin.BmpRleDecoder`.
pub(super) fn decode(
    bytes: &[u8],
    header: &Header,
    out: &mut [u8],
    cancel: &Cancel,
) -> Result<(), ImageError> {
    let mut rows = Rows {
        colors: header.colors(),
        width: header.size.width as usize,
        height: header.size.height as usize,
        top_down: header.top_down,
        written: 0,
        out: out.as_chunks_mut::<3>().0,
    };
    let four_bits = header.compression == Compression::RunLength4;
    let mut input = Input {
        bytes,
        at: header.data,
    };
    // Column of the next pixel as Pillow counts it: uncompressed indices that continue in the next
    // row move it past the end of the row, and runs are then cut to 0 pixels.
    let mut x = 0;
    let mut pace = Pace::new(cancel);
    while rows.missing() > 0 {
        pace.step(UNITS_PER_COMMAND)?;
        let [count, value] = input.take()?;
        match (count, value) {
            (0, END_OF_ROW) => {
                rows.fill(rows.to_row_end(), 0);
                x = 0;
            }
            (0, END_OF_IMAGE) => return Err(cut()),
            (0, DELTA) => {
                let [right, down] = input.take()?.map(usize::from);
                rows.fill(right + down * rows.width, 0);
                x = rows.written % rows.width;
            }
            (0, count) => {
                let count = usize::from(count).min(rows.missing());
                rows.literal(input.literal(count, four_bits)?, count, four_bits);
                x += usize::from(value);
            }
            (count, value) => {
                let count = usize::from(count).min(rows.width.saturating_sub(x));
                if four_bits {
                    rows.literal(&[value; 128], count, true);
                } else {
                    rows.fill(count, value);
                }
                x += count;
            }
        }
    }
    Ok(())
}

fn cut() -> ImageError {
    damaged("the file ends before the last row")
}

struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Input<'a> {
    fn take(&mut self) -> Result<[u8; 2], ImageError> {
        let pair = super::super::bytes::array(self.bytes, self.at).ok_or_else(cut)?;
        self.at += 2;
        Ok(pair)
    }

    /// Returns the bytes of `count` uncompressed palette indices, of 4 bits each if `four_bits` is
    /// true and of 8 bits if not. Skips their padding to an even offset of the file.
    fn literal(&mut self, count: usize, four_bits: bool) -> Result<&'a [u8], ImageError> {
        let length = if four_bits { count.div_ceil(2) } else { count };
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let literal = rest.get(..length).ok_or_else(cut)?;
        self.at += length;
        self.at += self.at % 2;
        Ok(literal)
    }
}

/// The output image while it is decoded. `written` is the number of pixels written so far. They are
/// written in the order of the file, whose first row is the bottom row of the image unless
/// `top_down` is true.
struct Rows<'a> {
    colors: [[u8; 3]; 256],
    width: usize,
    height: usize,
    top_down: bool,
    written: usize,
    out: &'a mut [[u8; 3]],
}

impl Rows<'_> {
    fn missing(&self) -> usize {
        self.out.len() - self.written
    }

    /// Returns the number of pixels of the current row that are not yet written; 0 if a row has
    /// just ended.
    fn to_row_end(&self) -> usize {
        self.written.next_multiple_of(self.width) - self.written
    }

    /// Writes `count` pixels of palette index `index`, continuing in the next row where a row ends.
    fn fill(&mut self, count: usize, index: u8) {
        let color = self.colors[usize::from(index)];
        let mut left = count.min(self.missing());
        while left > 0 {
            let part = self.row_rest();
            let length = left.min(part.len());
            part[..length].fill(color);
            self.written += length;
            left -= length;
        }
    }

    /// Writes `count` pixels with the palette indices in `bytes`: two per byte if `four_bits` is
    /// true, one per byte if not.
    fn literal(&mut self, bytes: &[u8], count: usize, four_bits: bool) {
        for place in 0..count.min(self.missing()) {
            let index = match (four_bits, place % 2) {
                (false, _) => bytes[place],
                (true, 0) => bytes[place / 2] >> 4,
                (true, _) => bytes[place / 2] & 15,
            };
            let color = self.colors[usize::from(index)];
            self.row_rest()[0] = color;
            self.written += 1;
        }
    }

    /// Returns the pixels of the current row that are not yet written. If a row has just ended, the
    /// next row is the current one.
    fn row_rest(&mut self) -> &mut [[u8; 3]] {
        let (row, x) = (self.written / self.width, self.written % self.width);
        let y = if self.top_down {
            row
        } else {
            self.height - 1 - row
        };
        &mut self.out[y * self.width + x..(y + 1) * self.width]
    }
}
