//! The padded input rows that a convolution's kernel covers, each copied once.

use super::{Depthwise, Image, LANES};

/// A ring buffer of padded rows of one image. It has a slot for each row that the dilated kernel
/// spans, and behind the slots a row that holds only padding.
///
/// With a horizontal stride of `s`, a row is stored as `s` planes: plane `p` holds the pixels `p`,
/// `p + s`, `p + 2 s` and so on of the padded row. The pixels that a tap reads for neighboring
/// output pixels are then neighbors in a plane, so every tap reads whole vectors.
pub(super) struct Rows {
    bytes: Vec<u8>,
    /// Index of the first byte of the slots, whose address is a multiple of a cache line.
    start: usize,
    /// Index of the image row in each slot of the ring. `None` if the slot is empty.
    held: Vec<Option<usize>>,
    /// Size of a plane in bytes, including the room for a vector at its end, in whole cache lines.
    plane: usize,
    /// Size of a stored row in bytes: all of its planes.
    row: usize,
}

impl Rows {
    /// Allocates the rows for images of `width` pixels and fills them with padding.
    pub(super) fn new(layer: &Depthwise, width: usize) -> Self {
        let stride = layer.strides[1];
        let windows = layer.windows(1, width).unwrap_or_default();
        let pixels = windows + (layer.kernel[1] - 1) * layer.dilations[1] / stride;
        // A vector that begins at the last byte of a plane's last pixel still reads 64 bytes, so
        // each plane ends with room for a vector.
        let plane = (pixels * layer.channels + LANES).next_multiple_of(LANES);
        let row = plane * stride;
        let slots = (layer.kernel[0] - 1) * layer.dilations[0] + 1;
        let bytes = vec![layer.input_zero_point; (slots + 1) * row + LANES];
        // Any start is correct if the address is not known.
        let start = bytes.as_ptr().align_offset(LANES).min(LANES);
        Self {
            bytes,
            start,
            held: vec![None; slots],
            plane,
            row,
        }
    }

    /// Marks every slot as empty before the rows of another image are loaded.
    pub(super) fn clear(&mut self) {
        self.held.fill(None);
    }

    /// Copies row `y` of `image` into its slot unless the slot already holds this row, and returns
    /// the byte offset of the slot. If `y` is `None`, returns the byte offset of the row of
    /// padding.
    pub(super) fn load(&mut self, layer: &Depthwise, image: Image<'_>, y: Option<usize>) -> usize {
        let slots = self.held.len();
        let Some(y) = y else {
            return slots * self.row;
        };
        let slot = y % slots;
        let start = slot * self.row;
        if self.held[slot] != Some(y) {
            let length = image.width * layer.channels;
            let source = &image.data[y * length..][..length];
            let row = &mut self.bytes[self.start + start..][..self.row];
            copy(layer, source, row, self.plane);
            self.held[slot] = Some(y);
        }
        start
    }

    /// Returns the input bytes that kernel column `x` reads from the stored row at byte offset
    /// `start`: one pixel for each output pixel of the row, from left to right, and the bytes
    /// behind them in the plane.
    pub(super) fn tap(&self, layer: &Depthwise, start: usize, x: usize) -> &[u8] {
        let offset = x * layer.dilations[1];
        let (pixel, plane) = (offset / layer.strides[1], offset % layer.strides[1]);
        let end = start + (plane + 1) * self.plane;
        &self.bytes[self.start..][start + plane * self.plane + pixel * layer.channels..end]
    }
}

/// Copies the pixels of the image row `source` into the planes of the stored `row`; `plane` is the
/// size of a plane in bytes. The padding around the pixels was written when the rows were
/// allocated.
fn copy(layer: &Depthwise, source: &[u8], row: &mut [u8], plane: usize) {
    let (channels, stride) = (layer.channels, layer.strides[1]);
    let left = layer.pad_before(1, source.len() / channels);
    if stride == 1 {
        let room = &mut row[left * channels..plane - LANES];
        let length = room.len().min(source.len());
        room[..length].copy_from_slice(&source[..length]);
        return;
    }
    for (x, pixel) in source.chunks_exact(channels).enumerate() {
        let position = x + left;
        let start = position / stride * channels;
        // Pixels to the right of all positions of the kernel are not stored.
        if start + channels > plane - LANES {
            break;
        }
        row[position % stride * plane + start..][..channels].copy_from_slice(pixel);
    }
}
