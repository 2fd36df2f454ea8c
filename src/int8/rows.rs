//! The rows that a window slides over, padded, each copied once.

use super::{Depthwise, LANES};

/// A few padded rows of one picture: those that the window covers, and one of nothing but padding.
///
/// With a stride of `s` a row lies in `s` planes, of which the first has pixels 0, s, 2s ...: neighbours in a
/// plane are neighbours in the output, so that for every tap whole vectors of output pixels are read at once.
pub(super) struct Rows {
    bytes: Vec<u8>,
    /// The row of the picture that each slot holds.
    held: Vec<Option<usize>>,
    plane: usize,
    row: usize,
}

impl Rows {
    /// Room for the rows of a picture `width` wide under the layer's window.
    pub(super) fn new(layer: &Depthwise, width: usize) -> Self {
        let stride = layer.strides[1];
        let windows = layer.windows(1, width).unwrap_or_default();
        let pixels = windows + (layer.kernel[1] - 1) * layer.dilations[1] / stride;
        // A vector may begin at any number of the last pixel.
        let plane = pixels * layer.channels + LANES;
        let row = plane * stride;
        let slots = (layer.kernel[0] - 1) * layer.dilations[0] + 1;
        Self {
            bytes: vec![layer.input_zero; (slots + 1) * row],
            held: vec![None; slots],
            plane,
            row,
        }
    }

    /// Forgets the picture.
    pub(super) fn forget(&mut self) {
        self.held.fill(None);
    }

    /// Holds row `y` of `picture`, `[H, W, C]`, and gives where it lies; where there is none, padding.
    pub(super) fn hold(
        &mut self,
        layer: &Depthwise,
        picture: &[u8],
        width: usize,
        y: Option<usize>,
    ) -> usize {
        let slots = self.held.len();
        let Some(y) = y else {
            return slots * self.row;
        };
        let slot = y % slots;
        let start = slot * self.row;
        if self.held[slot] != Some(y) {
            let length = width * layer.channels;
            let row = &mut self.bytes[start..][..self.row];
            copy(layer, &picture[y * length..][..length], row, self.plane);
            self.held[slot] = Some(y);
        }
        start
    }

    /// What a tap reads for the first output pixel of a row that lies at `start`, and all behind it.
    pub(super) fn tap(&self, layer: &Depthwise, start: usize, x: usize) -> &[u8] {
        let offset = x * layer.dilations[1];
        let (pixel, plane) = (offset / layer.strides[1], offset % layer.strides[1]);
        let end = start + (plane + 1) * self.plane;
        &self.bytes[start + plane * self.plane + pixel * layer.channels..end]
    }
}

/// Spreads the pixels of a row over the planes, behind the padding that stands there already.
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
        // The last pixels may be under no window.
        if start + channels > plane - LANES {
            break;
        }
        row[position % stride * plane + start..][..channels].copy_from_slice(pixel);
    }
}
