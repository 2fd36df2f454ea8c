//! Decoding of the only scan of a sequential file to planes of samples.

use super::bits::Bits;
use super::huffman::{Skip, Table, extend};
use super::idct::{Block, flat};
use super::{Component, Plan};
use crate::cancel::{Cancel, Cancelled, Pace};

/// The place in a block, row by row, of each coefficient in the order of the file.
pub(super) const PLACES: [u8; 64] = zigzag();

/// Why a scan cannot be decoded.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ScanError {
    /// Bits that are no code, or fewer bits than the image needs.
    Damaged(&'static str),
    /// The work was cancelled.
    Cancelled,
}

impl From<Cancelled> for ScanError {
    fn from(_: Cancelled) -> Self {
        Self::Cancelled
    }
}

/// Decodes the scan to one plane for each component, with the size that [`Plan::plane_size`]
/// returns.
///
/// # Errors
/// [`ScanError`] if the data is damaged, or if `cancel` is cancelled.
pub(super) fn decode(plan: &Plan<'_>, cancel: &Cancel) -> Result<Vec<Vec<u8>>, ScanError> {
    let (columns, rows) = plan.units;
    let empty = |component| {
        let (width, height) = plan.plane_size(component);
        vec![0; width * height]
    };
    let mut planes: Vec<Vec<u8>> = plan.components.iter().map(empty).collect();
    let mut scan = Scan::new(plan);
    let mut pace = Pace::new(cancel);
    for row in 0..rows {
        for column in 0..columns {
            pace.step(plan.unit_pixels)?;
            scan.begin_unit(plan.interval)?;
            for (index, (component, plane)) in plan.components.iter().zip(&mut planes).enumerate() {
                let (across, down) = component.blocks;
                for block in 0..across * down {
                    let x = column * across + block % across;
                    let y = row * down + block / across;
                    scan.block(index, component, plane, (x, y), columns * across)?;
                }
            }
            if scan.bits.ran_short() {
                return Err(ScanError::Damaged("the image data is incomplete"));
            }
        }
    }
    Ok(planes)
}

/// State of the entropy decoder.
struct Scan<'a> {
    bits: Bits<'a>,
    /// The latest first coefficient of each component.
    means: [i16; 4],
    /// Number of units since the last restart marker.
    units: usize,
    coefficients: [i16; 64],
}

impl<'a> Scan<'a> {
    fn new(plan: &Plan<'a>) -> Self {
        Self {
            bits: Bits::new(plan.data),
            means: [0; 4],
            units: 0,
            coefficients: [0; 64],
        }
    }

    /// Continues after a restart marker if one is due before the next unit.
    fn begin_unit(&mut self, interval: usize) -> Result<(), ScanError> {
        if interval > 0 && self.units == interval {
            if !self.bits.restart() {
                return Err(ScanError::Damaged("a restart marker is missing"));
            }
            self.means = [0; 4];
            self.units = 0;
        }
        self.units += 1;
        Ok(())
    }

    /// Decodes a block of the component with index `index` to its samples in `plane`, which has
    /// `columns` blocks per row. The block is the `x`-th in the `y`-th row of blocks.
    #[inline]
    fn block(
        &mut self,
        index: usize,
        component: &Component,
        plane: &mut [u8],
        (x, y): (usize, usize),
        columns: usize,
    ) -> Result<(), ScanError> {
        let side = component.side;
        let stride = columns * side;
        let first = y * side * stride + x * side;
        self.means[index] = self.means[index].wrapping_add(self.mean(&component.mean)?);
        self.coefficients[0] = self.means[index];
        if side == 1 {
            self.skip_rest(&component.rest)?;
            plane[first] = flat(self.means[index], component.factors[0]);
            return Ok(());
        }
        let last = self.rest(&component.rest)?;
        let plane = &mut plane[first..];
        let block = Block {
            coefficients: &self.coefficients,
            factors: &component.factors,
        };
        match side {
            _ if last == 0 => {
                let flat = flat(self.means[index], component.factors[0]);
                for row in plane.chunks_mut(stride).take(side) {
                    row[..side].fill(flat);
                }
            }
            2 => store(&block.two(), plane, stride),
            _ => store(&block.four(), plane, stride),
        }
        if last > 0 {
            self.coefficients[1..].fill(0);
        }
        Ok(())
    }

    /// Reads the difference between the first coefficients of this block and of the one before.
    #[inline]
    fn mean(&mut self, table: &Table) -> Result<i16, ScanError> {
        self.bits.refill();
        let (size, length) = symbol(table, &self.bits)?;
        self.bits.skip(length);
        if size == 0 {
            return Ok(0);
        }
        Ok(self.value(u32::from(size)) as i16)
    }

    /// Reads the `size` (1 to 15) extra bits of a coefficient.
    #[inline]
    fn value(&mut self, size: u32) -> i32 {
        let value = extend(self.bits.peek(size), size);
        self.bits.skip(size);
        value
    }

    /// Reads the other coefficients than the first. Returns the index in the file's order of the last
    /// one that is present, or 0 if none is.
    #[inline]
    fn rest(&mut self, table: &Table) -> Result<usize, ScanError> {
        let (mut index, mut last) = (1, 0);
        while index < 64 {
            if self.bits.available() < 32 {
                self.bits.refill();
            }
            let (symbol, length) = symbol(table, &self.bits)?;
            self.bits.skip(length);
            let (run, size) = (usize::from(symbol >> 4), u32::from(symbol & 15));
            if size == 0 {
                if run < 15 {
                    break;
                }
                index += 16;
                continue;
            }
            // Like libjpeg, a run beyond the last coefficient is not damage: it stores the value there.
            last = (index + run).min(63);
            self.coefficients[usize::from(PLACES[last])] = self.value(size) as i16;
            index += run + 1;
        }
        Ok(last)
    }

    /// Skips the other coefficients than the first.
    #[inline]
    fn skip_rest(&mut self, table: &Table) -> Result<(), ScanError> {
        let mut index = 1;
        while index < 64 {
            if self.bits.available() < 32 {
                self.bits.refill();
            }
            let Skip {
                bits,
                coefficients,
                ends,
            } = table.skip_of(self.bits.peek(16));
            let reached = index + usize::from(coefficients);
            // Symbols after the last coefficient belong to the next block.
            if bits > 0 && (reached < 64) {
                self.bits.skip(u32::from(bits));
                if ends {
                    return Ok(());
                }
                index = reached;
                continue;
            }
            let (symbol, length) = symbol(table, &self.bits)?;
            let (run, size) = (usize::from(symbol >> 4), u32::from(symbol & 15));
            self.bits.skip(length + size);
            if size == 0 && run < 15 {
                return Ok(());
            }
            index += run + 1;
        }
        Ok(())
    }
}

/// Returns the next symbol and the length of its code in bits.
#[inline]
fn symbol(table: &Table, bits: &Bits<'_>) -> Result<(u8, u32), ScanError> {
    let symbol = table.symbol(bits.peek(16));
    symbol.ok_or(ScanError::Damaged("the image data has an unknown code"))
}

/// Copies the samples of a block to the start of `plane`, whose rows are `stride` samples apart.
#[inline]
fn store<const N: usize>(samples: &[[u8; N]; N], plane: &mut [u8], stride: usize) {
    for (row, samples) in plane.chunks_mut(stride).zip(samples) {
        row[..N].copy_from_slice(samples);
    }
}

/// Returns the order of coefficients in files: along the diagonals of the block, in alternating
/// directions.
const fn zigzag() -> [u8; 64] {
    let mut places = [0; 64];
    let (mut x, mut y) = (0, 0);
    let mut index = 0;
    while index < 64 {
        places[index] = y * 8 + x;
        // Upwards on even diagonals, downwards on odd ones, and along the edges between them.
        match ((x + y) % 2 == 0, x, y) {
            (true, 7, _) | (false, 0, 0..7) => y += 1,
            (true, _, 0) | (false, _, 7) => x += 1,
            (true, _, _) => {
                x += 1;
                y -= 1;
            }
            (false, _, _) => {
                x -= 1;
                y += 1;
            }
        }
        index += 1;
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coefficients_are_ordered_along_the_diagonals() {
        let first = [0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32];
        assert_eq!(PLACES[..11], first);
        let last = [31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63];
        assert_eq!(PLACES[53..], last);
    }
}
