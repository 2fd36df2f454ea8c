//! Slow and plain statements of what the fast code computes, for tests.

use super::{Logits, Mask};
use crate::image::ImageSize;

/// `torch.nn.functional.interpolate(logits, size, mode="bilinear", align_corners=False)`: the whole
/// tensor `[C, H, W] f32`, sample by sample.
pub(super) fn bilinear(logits: &Logits<'_>, size: ImageSize) -> Vec<f32> {
    let (width, height) = (size.width as usize, size.height as usize);
    let from = logits.size();
    let mut out = Vec::new();
    for class in 0..logits.classes() {
        for y in 0..height {
            let (top, bottom, down) = neighbours(y, from.height as usize, height);
            for x in 0..width {
                let (left, right, across) = neighbours(x, from.width as usize, width);
                let along = |y: usize| {
                    let row = logits.row(class, y);
                    row[left] * (1.0 - across) + row[right] * across
                };
                out.push(along(top) * (1.0 - down) + along(bottom) * down);
            }
        }
    }
    out
}

/// The input before, the input after, and the weight of the latter.
fn neighbours(out: usize, from: usize, to: usize) -> (usize, usize, f32) {
    let scale = from as f32 / to as f32;
    let at = ((out as f32 + 0.5) * scale - 0.5).max(0.0);
    let before = (at.floor() as usize).min(from - 1);
    (
        before,
        (before + 1).min(from - 1),
        (at - before as f32).min(1.0),
    )
}

/// The first of the highest scores at each pixel, of `[C, H, W]`.
pub(super) fn argmax(scores: &[f32], size: ImageSize) -> Mask {
    let pixels = size.pixels() as usize;
    let best = |pixel: usize| {
        let mut best = (0, f32::NEG_INFINITY);
        for (class, plane) in scores.chunks(pixels).enumerate() {
            if plane[pixel] > best.1 {
                best = (class as u8, plane[pixel]);
            }
        }
        best.0
    };
    Mask::new(size, (0..pixels).map(best).collect()).unwrap()
}
