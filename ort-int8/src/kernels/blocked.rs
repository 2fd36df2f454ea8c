//! Depthwise convolutions of five rows and columns that compute 64 channels of all rows before the next 64
//! channels.
//!
//! The values of a block of channels that an output row reads, 512 bytes for each column, fit into the
//! first-level cache for images of up to about 90 columns, and so do the block's constants. All vectors of a
//! column are aligned, whatever the number of channels. Convolutions of three rows are faster in whole rows.

use std::mem::swap;

use fearless_simd::Avx512;

use super::blocked_avx512::{Pixels, push, row};
use super::depthwise::{Depthwise, Image};
use super::phase::first_channels;
use super::{LANES, QUAD};

/// Number of bytes of a [`Column`].
const COLUMN: usize = LANES * QUAD;

/// One padded pixel of the four latest rows: for each channel of the block, the values of the four rows are
/// neighboring bytes, the latest one last.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(super) struct Column(pub(super) [u8; COLUMN]);

/// Buffers that a convolution reuses in its next call.
#[derive(Default)]
pub(super) struct Columns {
    /// Width in pixels of the images for which there is room, number of columns, and the padding. `None`
    /// before the first call.
    layout: Option<(usize, usize, u8)>,
    /// The columns of the four latest rows.
    latest: Vec<Column>,
    /// The columns of the four rows before the latest one was added.
    before: Vec<Column>,
}

/// Computes output rows of `image`, from row `first_row` on. `row_len` is the number of elements of an
/// output row. The caller has checked all sizes.
pub(super) fn run(
    avx512: Avx512,
    layer: &Depthwise,
    image: Image<'_>,
    (first_row, row_len): (usize, usize),
    output: &mut [u8],
    columns: &mut Columns,
) {
    let rows = output.len() / row_len;
    columns.resize(layer, image.width, row_len);
    for (first, phase) in first_channels(layer.channels).zip(&layer.phases) {
        let mut next = first_row * layer.strides[0];
        for index in 0..rows {
            let end = (first_row + index) * layer.strides[0] + layer.kernel[0];
            for padded in next..end {
                columns.add(avx512, layer, image, (padded, first));
            }
            next = end;
            let output = &mut output[index * row_len..][..row_len];
            let columns = [&columns.before[..], &columns.latest[..]];
            row(avx512, layer, phase, columns, &mut output[first..]);
        }
    }
}

impl Columns {
    /// Makes room for images of `width` pixels, whose output rows have `row_len` elements, and fills it
    /// with padding, unless it has this layout. The columns beside the image always hold padding; the others
    /// are filled by the rows of the first output row.
    fn resize(&mut self, layer: &Depthwise, width: usize, row_len: usize) {
        let windows = row_len / layer.channels;
        let count = windows.saturating_sub(1) * layer.strides[1] + layer.kernel[1];
        let layout = Some((width, count, layer.input_zero_point));
        if self.layout == layout {
            return;
        }
        let padding = Column([layer.input_zero_point; COLUMN]);
        self.latest = vec![padding; count];
        self.before = vec![padding; count];
        self.layout = layout;
    }

    /// Adds 64 channels, from channel `first` on, of row `padded` of the padded image.
    fn add(
        &mut self,
        avx512: Avx512,
        layer: &Depthwise,
        image: Image<'_>,
        (padded, first): (usize, usize),
    ) {
        swap(&mut self.latest, &mut self.before);
        let left = layer.pad_before(1, image.width).min(self.latest.len());
        let (before, latest) = (&self.before[left..], &mut self.latest[left..]);
        let length = image.width * layer.channels;
        let row = padded.checked_sub(layer.pad_before(0, image.height));
        let row = row.filter(|row| *row < image.height);
        let padding = [layer.input_zero_point; LANES];
        let (values, channels) = match row {
            Some(row) => {
                let row = &image.data[row * length..][..length];
                (row.get(first..).unwrap_or_default(), layer.channels)
            }
            None => (&padding[..], 0),
        };
        let pixels = Pixels {
            values,
            channels,
            count: image.width,
        };
        push(avx512, pixels, before, latest);
    }
}
