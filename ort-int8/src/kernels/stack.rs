//! Rows of a padded image, stacked so that the values of a column lie next to each other.

use super::depthwise::{Depthwise, Image};
use super::rows::Rows;
use super::{LANES, QUAD};

/// Number of bytes of 64 elements of the image, four rows each.
pub(super) const STACKED: usize = LANES * QUAD;

/// The latest four padded rows of one image: for each element of a row, in the order of [`Rows`], the
/// values of the four rows are neighboring bytes, the latest one last. The kernel multiplies them by
/// the weights of a column of the convolution kernel without shuffling them.
pub(super) struct Stack {
    bytes: Vec<u8>,
    /// Index of the first byte of the rows, whose address is a multiple of a cache line.
    start: usize,
    /// Index of the latest row in the padded image. `None` if the stack is empty.
    latest: Option<usize>,
}

impl Stack {
    /// Allocates a stack of rows that are as long as those of `rows`.
    pub(super) fn new(rows: &Rows) -> Self {
        let bytes = vec![0; rows.vectors() * STACKED + LANES];
        // Any start is correct if the address is not known.
        let start = bytes.as_ptr().align_offset(LANES).min(LANES);
        Self {
            bytes,
            start,
            latest: None,
        }
    }

    /// Removes all rows, before those of another image are added.
    pub(super) fn clear(&mut self) {
        self.latest = None;
    }

    /// Adds the rows that output row `y` reads, unless the stack has them. `push` adds one row to the
    /// stack. The output rows of an image must be computed in ascending order.
    pub(super) fn advance(
        &mut self,
        (layer, rows): (&Depthwise, &mut Rows),
        image: Image<'_>,
        y: usize,
        push: impl Fn(&[[u8; LANES]], &mut [[u8; STACKED]]),
    ) {
        let first = y * layer.strides[0];
        let last = first + layer.kernel[0] - 1;
        let next = self.latest.map_or(first, |latest| first.max(latest + 1));
        let above = layer.pad_before(0, image.height);
        let stack = self.bytes[self.start..].as_chunks_mut().0;
        for padded in next..=last {
            let row = padded.checked_sub(above);
            let row = rows.load(layer, image, row.filter(|row| *row < image.height));
            push(rows.vectors_at(row), stack);
        }
        self.latest = Some(last);
    }

    /// Returns what each column of the convolution kernel reads: for each element of the output row, the
    /// four rows of an element, and the bytes behind them.
    pub(super) fn taps(&self, layer: &Depthwise, rows: &Rows) -> Vec<&[[u8; STACKED]]> {
        let taps = (0..layer.kernel[1]).map(|x| {
            let place = rows.place(layer, 0, x);
            &self.bytes[self.start..][QUAD * place.start..QUAD * place.end]
        });
        taps.map(|tap| tap.as_chunks().0).collect()
    }
}
