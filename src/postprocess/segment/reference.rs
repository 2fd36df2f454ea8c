//! Slow reference implementations of upsampling and argmax, for tests.

use super::Mask;
use crate::image::ImageSize;

pub(super) use crate::testing::{bilinear::bilinear, python, rle::decode as decode_rle};

/// Returns the class with the highest score at each pixel of `scores`,
/// `[C, size.height, size.width]`; the lowest class if several have this score.
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
