//! Depthwise convolutions of three rows and columns, which compute an output row from the latest rows of the image,
//! stacked so that the values of a column lie next to each other.

use fearless_simd::Avx512;

use super::depthwise::{Depthwise, Image};
use super::phase::{COLUMNS, EARLY, LATE};
use super::stacked_avx512::{RowInputs, push, row};
use super::{LANES, QUAD};

/// Maximum number of bytes that are written behind an output row.
const BEHIND: usize = 15;

/// Buffers that a convolution reuses in its next call. Each convolution needs its own.
#[derive(Default)]
pub(super) struct Stack {
    /// Width in pixels of the images for which there is room, and number of pixels of their output rows. `None` before
    /// the first call.
    layout: Option<(usize, usize)>,
    /// The latest four padded rows of one image: for each channel of a pixel, the values of the four rows are
    /// neighboring bytes, the latest one last. The kernel multiplies them by the weights of a column of the
    /// convolution kernel without shuffling them.
    bytes: Vec<u8>,
    /// Index of the first byte of the rows, whose address is a multiple of a cache line.
    start: usize,
    /// A row of the image that holds only padding.
    padding: Vec<u8>,
    /// An output row behind which there is no room in the output.
    last_row: Vec<u8>,
}

/// Computes output rows of `image`, from row `first_row` on. `row_len` is the number of elements of an
/// output row. The caller has checked all sizes.
///
/// Two rows of the image are added at a time. With stride 1, the four latest rows are those of two output rows.
pub(super) fn run(
    avx512: Avx512,
    layer: &Depthwise,
    image: Image<'_>,
    (first_row, row_len): (usize, usize),
    output: &mut [u8],
    stack: &mut Stack,
) {
    stack.resize(layer, image.width, row_len);
    let stride = layer.strides[0];
    stack.add(avx512, layer, image, first_row * stride + 2 - stride);
    for index in 0..output.len() / row_len {
        let first = (first_row + index) * stride;
        let is_second = stride == 1 && index % 2 == 1;
        if !is_second {
            stack.add(avx512, layer, image, first + 4 - stride);
        }
        let is_early = stride == 1 && !is_second;
        let inputs = RowInputs {
            values: &stack.bytes[stack.start..],
            first_group: if is_early { EARLY } else { LATE },
            channels: layer.channels,
            count: row_len / layer.channels,
        };
        // What is written behind a row is overwritten by the next one, which is computed afterwards.
        let output = &mut output[index * row_len..];
        if let Some(output) = output.get_mut(..row_len + BEHIND) {
            row(avx512, layer, inputs, output);
        } else {
            row(avx512, layer, inputs, &mut stack.last_row);
            output[..row_len].copy_from_slice(&stack.last_row[..row_len]);
        }
    }
}

impl Stack {
    /// Makes room for images of `width` pixels, whose output rows have `row_len` elements, and fills it
    /// with padding, unless it has this layout. The columns beside the image always hold padding; the others
    /// are filled by the rows of the first output row.
    fn resize(&mut self, layer: &Depthwise, width: usize, row_len: usize) {
        let windows = row_len / layer.channels;
        if self.layout == Some((width, windows)) {
            return;
        }
        let left = layer.pad_before(1, width);
        let read = windows.saturating_sub(1) * layer.strides[1] + COLUMNS;
        let columns = read.max(left + width);
        // A register that begins within the last pixel may end behind it.
        let length = QUAD * columns * layer.channels + 2 * LANES;
        self.bytes = vec![layer.input_zero_point; length];
        // Any start is correct if the address is not known.
        self.start = self.bytes.as_ptr().align_offset(LANES).min(LANES);
        self.padding = vec![layer.input_zero_point; width * layer.channels];
        self.last_row = vec![0; row_len + BEHIND];
        self.layout = Some((width, windows));
    }

    /// Adds row `last` of the padded image and the one before it.
    fn add(&mut self, avx512: Avx512, layer: &Depthwise, image: Image<'_>, last: usize) {
        let length = image.width * layer.channels;
        let above = layer.pad_before(0, image.height);
        let rows = [last.checked_sub(1), Some(last)].map(|padded| {
            let row = padded.and_then(|padded| padded.checked_sub(above));
            let row = row.filter(|row| *row < image.height);
            row.map_or(&self.padding[..], |row| {
                &image.data[row * length..][..length]
            })
        });
        let left = layer.pad_before(1, image.width) * layer.channels;
        let stack = &mut self.bytes[self.start + QUAD * left..][..QUAD * length];
        push(avx512, rows[0], rows[1], stack);
    }
}
