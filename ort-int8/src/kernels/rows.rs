//! The padded input rows that a convolution's kernel covers, each copied once.

use super::{Depthwise, Image, LANES};

/// A ring buffer of padded rows of one image: as many rows as the window spans, and one that holds only padding.
///
/// With a horizontal stride of `s`, a row is stored as `s` planes; plane 0 holds pixels 0, s, 2s and so on.
/// Neighbors in a plane are neighbors in the output, so every tap reads whole vectors of output pixels.
pub(super) struct Rows {
    bytes: Vec<u8>,
    /// Index of the image row in each slot of the ring. `None` if the slot is empty.
    held: Vec<Option<usize>>,
    /// Bytes per plane.
    plane: usize,
    /// Bytes per row, which is all of its planes.
    row: usize,
}

impl Rows {
    /// Allocates the rows for images of `width` pixels.
    pub(super) fn new(layer: &Depthwise, width: usize) -> Self {
        let stride = layer.strides[1];
        let windows = layer.windows(1, width).unwrap_or_default();
        let pixels = windows + (layer.kernel[1] - 1) * layer.dilations[1] / stride;
        // A vector may begin at any byte of the last pixel, so a plane ends with room for a vector.
        let plane = pixels * layer.channels + LANES;
        let row = plane * stride;
        let slots = (layer.kernel[0] - 1) * layer.dilations[0] + 1;
        Self {
            bytes: vec![layer.input_zero_point; (slots + 1) * row],
            held: vec![None; slots],
            plane,
            row,
        }
    }

    /// Marks every slot as empty, for another image.
    pub(super) fn clear(&mut self) {
        self.held.fill(None);
    }

    /// Copies row `y` of `image` into the ring unless it is there, and returns the row's offset. `None` stands for a row
    /// of padding.
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
            let row = &mut self.bytes[start..][..self.row];
            copy(layer, source, row, self.plane);
            self.held[slot] = Some(y);
        }
        start
    }

    /// Returns the input bytes that kernel column `x` reads from the row at offset `start`: one pixel for each output
    /// pixel of the row, from left to right.
    pub(super) fn tap(&self, layer: &Depthwise, start: usize, x: usize) -> &[u8] {
        let offset = x * layer.dilations[1];
        let (pixel, plane) = (offset / layer.strides[1], offset % layer.strides[1]);
        let end = start + (plane + 1) * self.plane;
        &self.bytes[start + plane * self.plane + pixel * layer.channels..end]
    }
}

/// Copies the pixels of a row into its planes. The padding around them was written when the rows were allocated.
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
        // Pixels beyond the last window's reach are not stored.
        if start + channels > plane - LANES {
            break;
        }
        row[position % stride * plane + start..][..channels].copy_from_slice(pixel);
    }
}
